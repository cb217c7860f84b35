"""Writing pictures to files."""

from __future__ import annotations

import io
from pathlib import Path

from PIL import Image

from ..errors import UserError
from ..runtime.files import is_stream, write_bytes
from .metadata import save_options
from .signing import sign

FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}


def picture_format(path: str | Path) -> str:
    """PNG, JPEG or WEBP by the file's suffix; PNG for a device or a pipe without one. Raises
    UserError for another suffix.
    """
    kind = FORMATS.get(Path(path).suffix.lower())
    if kind is None and is_stream(path):
        return "PNG"
    if kind is None:
        raise UserError(f"A picture is written as .png, .jpg or .webp, not '{Path(path).name}'.")
    return kind


def write_picture(
    picture: Image.Image,
    path: str | Path,
    xmp: bytes | None = None,
    exif: Image.Exif | None = None,
    parent: bytes | None = None,
) -> None:
    """Write a .png, .jpg or .webp, whole or not at all, with what it says about itself (see
    `encode_picture`). Raises UserError for another suffix.
    """
    write_bytes(path, encode_picture(picture, picture_format(path), xmp, exif, parent))


def encode_picture(
    picture: Image.Image,
    kind: str,
    xmp: bytes | None = None,
    exif: Image.Exif | None = None,
    parent: bytes | None = None,
) -> bytes:
    """A PNG, JPEG or WEBP file's bytes, with what it says about itself (see `metadata`), and signed
    as an edit of the picture file `parent` where there is a certificate (see `signing`).
    """
    options = save_options(kind, xmp, exif)
    if kind != "PNG":
        options["quality"] = 95
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue() if parent is None else sign(buffer.getvalue(), kind, parent)
