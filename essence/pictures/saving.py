"""Writing pictures to files."""

from __future__ import annotations

import io
from pathlib import Path

from PIL import Image

from ..errors import UserError
from ..runtime.files import write_bytes

FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}


def write_picture(picture: Image.Image, path: str | Path) -> None:
    """Write a .png, .jpg or .webp, whole or not at all. Raises UserError for another suffix."""
    path = Path(path)
    kind = FORMATS.get(path.suffix.lower())
    if kind is None:
        raise UserError(f"A picture is written as .png, .jpg or .webp, not '{path.name}'.")
    write_bytes(path, encode_picture(picture, kind))


def encode_picture(picture: Image.Image, kind: str) -> bytes:
    """A PNG, JPEG or WEBP file's bytes."""
    buffer = io.BytesIO()
    picture.save(buffer, kind, **({} if kind == "PNG" else {"quality": 95}))
    return buffer.getvalue()
