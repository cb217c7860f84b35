"""Sheets of pictures in rows and columns, and animations."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
from PIL import Image

from .tensors import resize, square_crop


def animation(
    frames: Sequence[Image.Image | np.ndarray], milliseconds: int = 80, xmp: bytes | None = None
) -> bytes:
    """An endless WebP that runs through the pictures and back, and what it says about itself."""
    pictures = [
        frame if isinstance(frame, Image.Image) else Image.fromarray(frame) for frame in frames
    ]
    rest = pictures[1:] + pictures[-2:0:-1]
    options = {"save_all": True, "append_images": rest, "duration": milliseconds, "loop": 0}
    if xmp is not None:
        options["xmp"] = xmp
    buffer = io.BytesIO()
    pictures[0].save(buffer, "WEBP", quality=88, **options)
    return buffer.getvalue()


def grid(
    rows: Sequence[Sequence[Image.Image | None]],
    cell: int = 128,
    gap: int = 4,
    background: str | tuple[int, int, int] = "white",
) -> Image.Image:
    """Pictures in rows, each the centred square resized to `cell`, `gap` pixels between them and
    around. None, or a row's missing end, leaves the background.
    """
    columns = max((len(row) for row in rows), default=0)
    if columns == 0:
        raise ValueError("a grid needs at least one cell")
    step = cell + gap
    sheet = Image.new("RGB", (gap + columns * step, gap + len(rows) * step), background)
    for i, row in enumerate(rows):
        for j, image in enumerate(row):
            if image is not None:
                picture = resize(square_crop(image.convert("RGB")), cell)
                sheet.paste(picture, (gap + j * step, gap + i * step))
    return sheet
