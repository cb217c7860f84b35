"""Content credentials (C2PA): a signed picture says, so that it can be checked, which photograph it
was made from and that an algorithm edited it. With the optional extra `[c2pa]` and a certificate
whose files two environment variables name.
"""

from __future__ import annotations

import io
import json
import os
from pathlib import Path

from PIL import Image

from ..errors import UserError
from .metadata import EDITED, SOFTWARE

# Environment variables: PEM files of the certificate with its chain, and of its private key.
CERTIFICATE, KEY = "ESSENCE_C2PA_CERTIFICATE", "ESSENCE_C2PA_KEY"
ALGORITHMS = ("es256", "ps256", "es384", "ps384", "es512", "ed25519")  # the key fits one of them
# The photograph as it was is named by its hash, not shown.
SETTINGS = {"builder": {"thumbnail": {"enabled": False}}}


def credentials() -> tuple[bytes, bytes] | None:
    """Certificate chain and private key; None where nobody gave any. Raises UserError where they
    are incomplete or cannot be read, or the package for them is missing.
    """
    paths = {name: os.environ.get(name) for name in (CERTIFICATE, KEY)}
    if not any(paths.values()):
        return None
    for name, path in paths.items():
        if not path:
            raise UserError(f"Pictures are signed with two PEM files: set {name} as well.")
    try:
        import c2pa  # noqa: F401
    except ImportError as error:
        raise UserError(
            f"{CERTIFICATE} is set, but nothing to sign with: run `pip install "
            '"essence-transfer[c2pa]"`, or unset it.'
        ) from error
    found = []
    for name, path in paths.items():
        try:
            found.append(Path(path).read_bytes())
        except OSError as error:
            raise UserError(f"{name} cannot be read ({error.strerror}): {path}") from error
    return found[0], found[1]


def sign(data: bytes, kind: str, parent: bytes) -> bytes:
    """A PNG, JPEG or WEBP file's bytes, signed as an edit of the picture file `parent`; unchanged
    where there are no credentials. Raises UserError where they do not serve.
    """
    given = credentials()
    if given is None:
        return data
    import c2pa

    chain, key = given
    with Image.open(io.BytesIO(parent)) as image:
        parent_type = Image.MIME.get(image.format, "image/jpeg")
    opened = {"action": "c2pa.opened", "parameters": {"ingredientIds": ["parent"]}}
    edited = {"action": "c2pa.edited", "digitalSourceType": EDITED}
    edited["softwareAgent"] = {"name": SOFTWARE}
    actions = {"label": "c2pa.actions.v2", "data": {"actions": [opened, edited]}}
    manifest = {"claim_generator_info": [{"name": SOFTWARE}], "assertions": [actions]}
    ingredient = {"title": "photograph", "relationship": "parentOf", "instance_id": "parent"}
    reasons = []
    for algorithm in ALGORITHMS:
        try:
            info = c2pa.C2paSignerInfo(algorithm.encode(), chain, key, None)
            context = c2pa.Context.from_dict(SETTINGS)
            builder, result = c2pa.Builder(json.dumps(manifest), context=context), io.BytesIO()
            builder.add_ingredient(json.dumps(ingredient), parent_type, io.BytesIO(parent))
            signer = c2pa.Signer.from_info(info)
            builder.sign(signer, f"image/{kind.lower()}", io.BytesIO(data), result)
            return result.getvalue()
        except c2pa.C2paError as error:
            reasons.append(f"{algorithm}: {error}")
    raise UserError(
        f"The picture cannot be signed with the files that {CERTIFICATE} and {KEY} name "
        f"({'; '.join(reasons)[:300]}). Unset both to write it unsigned."
    )
