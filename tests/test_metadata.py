"""Pictures say that an algorithm edited them."""

from __future__ import annotations

import io
import xml.etree.ElementTree as ElementTree

import pytest
from PIL import Image

from essence.pictures.metadata import EDITED, GENERATED, xmp_packet
from essence.pictures.saving import encode_picture

RED = Image.new("RGB", (40, 30), "red")


def packet(data: bytes) -> str:
    """The XMP inside a file, as its readers find it."""
    with Image.open(io.BytesIO(data)) as image:
        found = image.info.get("xmp") or image.info["XML:com.adobe.xmp"]
    return found.decode() if isinstance(found, bytes) else found


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize("photograph, source", [(True, EDITED), (False, GENERATED)])
def test_every_format_names_its_source_essences_and_strengths(kind, photograph, source):
    xmp = xmp_packet(["grin & <co>", "beard"], [0.8, -1], photograph)
    text = packet(encode_picture(RED, kind, xmp))
    root = ElementTree.fromstring(text[text.index("<x:") : text.rindex("<?xpacket")])
    values = {element.tag.split("}")[1]: element.text for element in root.iter()}
    assert values["DigitalSourceType"] == source and values["CreatorTool"] == "Essence"
    assert "grin & <co> at strength 0.8; beard at strength -1" in values["li"]


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_the_photographs_exif_stays_upright_and_without_its_thumbnail(kind):
    camera = Image.Exif()
    camera[0x010F], camera[0x0112] = "Camera", 6
    camera[0x8769] = {0x829A: 0.01, 0x927C: b"a preview of the original", 0xA001: 0xFFFF}
    exif = Image.Exif()  # as read from a file: a second folder holds a thumbnail
    exif.load(camera.tobytes())
    exif._ifds[1] = {0x0103: 6, 0x0201: 8, 0x0202: 100}
    with Image.open(io.BytesIO(encode_picture(RED, kind, None, exif))) as image:
        kept = image.getexif()
        assert kept[0x010F] == "Camera" and kept.get(0x0112, 1) == 1
        assert kept[0x0131] == "Essence" and not kept.get_ifd(1)
        assert dict(kept.get_ifd(0x8769)) == {0x829A: pytest.approx(0.01), 0xA001: 1}


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_without_a_packet_there_is_none(kind):
    with Image.open(io.BytesIO(encode_picture(RED, kind))) as image:
        assert "xmp" not in image.info and image.size == RED.size
