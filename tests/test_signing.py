"""Content credentials: what is signed, and what is said where that cannot be."""

from __future__ import annotations

import datetime
import io
import json
import sys

import pytest
from PIL import Image

from essence import UserError, encode_picture
from essence.pictures import signing


def picture(colour: str, kind: str = "JPEG") -> bytes:
    return encode_picture(Image.new("RGB", (64, 64), colour), kind)


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch):
    monkeypatch.delenv(signing.CERTIFICATE, raising=False)
    monkeypatch.delenv(signing.KEY, raising=False)


def test_without_a_certificate_pictures_stay_as_they_are():
    image = Image.new("RGB", (8, 8))
    assert encode_picture(image, "PNG", parent=picture("red")) == encode_picture(image, "PNG")


@pytest.mark.parametrize("name", [signing.CERTIFICATE, signing.KEY])
def test_both_files_are_needed(monkeypatch, name, tmp_path):
    monkeypatch.setenv(name, str(tmp_path / "a.pem"))
    with pytest.raises(UserError, match="set ESSENCE_C2PA_"):
        signing.credentials()


def test_the_missing_package_is_named(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "c2pa", None)
    monkeypatch.setenv(signing.CERTIFICATE, str(tmp_path / "a.pem"))
    monkeypatch.setenv(signing.KEY, str(tmp_path / "b.pem"))
    with pytest.raises(UserError, match=r"essence-transfer\[c2pa\]"):
        signing.sign(picture("blue"), "JPEG", picture("red"))


def test_files_that_are_not_there_are_named(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "c2pa", object())
    monkeypatch.setenv(signing.CERTIFICATE, str(tmp_path / "a.pem"))
    monkeypatch.setenv(signing.KEY, str(tmp_path / "b.pem"))
    with pytest.raises(UserError, match="cannot be read"):
        signing.credentials()


# -- with the package


@pytest.fixture
def certified(monkeypatch, tmp_path):
    """A certificate and its key, made for this test."""
    pytest.importorskip("c2pa")
    x509 = pytest.importorskip("cryptography.x509")
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    now = datetime.datetime.now(datetime.timezone.utc)
    usages = "content_commitment key_encipherment data_encipherment key_agreement"
    unused = dict.fromkeys([*usages.split(), "encipher_only", "decipher_only"], False)
    keys = {name: ec.generate_private_key(ec.SECP256R1()) for name in ("authority", "signer")}

    def certificate(name: str) -> bytes:
        is_authority = name == "authority"
        organisation = x509.NameAttribute(x509.NameOID.ORGANIZATION_NAME, "Test")
        names = [
            x509.Name([organisation, x509.NameAttribute(x509.NameOID.COMMON_NAME, each)])
            for each in (name, "authority")
        ]
        usage = x509.KeyUsage(
            digital_signature=not is_authority,
            key_cert_sign=is_authority,
            crl_sign=is_authority,
            **unused,
        )
        public, issuer = keys[name].public_key(), keys["authority"]
        builder = (
            x509.CertificateBuilder(names[1], names[0], public, x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=1))
            .not_valid_after(now + datetime.timedelta(days=1))
            .add_extension(x509.BasicConstraints(is_authority, None), critical=True)
            .add_extension(usage, critical=True)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer.public_key()),
                critical=False,
            )
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        )
        if not is_authority:
            mail = x509.ExtendedKeyUsage([x509.ExtendedKeyUsageOID.EMAIL_PROTECTION])
            builder = builder.add_extension(mail, critical=False)
        signed = builder.sign(issuer, hashes.SHA256())
        return signed.public_bytes(serialization.Encoding.PEM)

    key = keys["signer"].private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    (tmp_path / "chain.pem").write_bytes(certificate("signer") + certificate("authority"))
    (tmp_path / "key.pem").write_bytes(key)
    monkeypatch.setenv(signing.CERTIFICATE, str(tmp_path / "chain.pem"))
    monkeypatch.setenv(signing.KEY, str(tmp_path / "key.pem"))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_a_signed_picture_is_an_edit_of_its_parent(certified, kind):
    import c2pa

    image = Image.new("RGB", (64, 64), "blue")
    data = encode_picture(image, kind, parent=picture("red"))
    store = json.loads(c2pa.Reader(f"image/{kind.lower()}", io.BytesIO(data)).json())
    assert store["validation_state"] in ("Valid", "Trusted")
    manifest = store["manifests"][store["active_manifest"]]
    (ingredient,) = manifest["ingredients"]
    assert ingredient["relationship"] == "parentOf"
    assert "thumbnail" not in ingredient and "thumbnail" not in manifest
    (assertion,) = (a for a in manifest["assertions"] if a["label"].startswith("c2pa.actions"))
    edited = next(a for a in assertion["data"]["actions"] if a["action"] == "c2pa.edited")
    assert edited["digitalSourceType"].endswith("/compositeWithTrainedAlgorithmicMedia")
    with Image.open(io.BytesIO(data)) as opened:
        assert opened.size == (64, 64)


def test_a_signature_covers_the_pixels(certified):
    import c2pa

    data = bytearray(encode_picture(Image.new("RGB", (64, 64)), "JPEG", parent=picture("red")))
    data[-40] ^= 255
    store = json.loads(c2pa.Reader("image/jpeg", io.BytesIO(bytes(data))).json())
    assert store["validation_state"] == "Invalid"


def test_a_key_that_does_not_fit_is_told(certified, tmp_path):
    (tmp_path / "key.pem").write_text("no key")
    with pytest.raises(UserError, match="cannot be signed"):
        signing.sign(picture("blue"), "JPEG", picture("red"))
