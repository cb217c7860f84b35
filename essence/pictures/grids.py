"""Sheets of pictures in rows and columns, and animations."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps

from .tensors import resize, square_crop


def animation(frames: Sequence[Image.Image | np.ndarray], milliseconds: int = 80) -> bytes:
    """An endless WebP that runs through the pictures and back."""
    pictures = [
        frame if isinstance(frame, Image.Image) else Image.fromarray(frame) for frame in frames
    ]
    buffer = io.BytesIO()
    there_and_back = pictures[1:] + pictures[-2:0:-1]
    pictures[0].save(
        buffer,
        "WEBP",
        save_all=True,
        append_images=there_and_back,
        duration=milliseconds,
        loop=0,
        quality=88,
    )
    return buffer.getvalue()


def grid(
    rows: Sequence[Sequence[Image.Image | None]],
    cell: int = 128,
    gap: int = 4,
    row_labels: Sequence[str] | None = None,
    column_labels: Sequence[str] | None = None,
    background: str | tuple[int, int, int] = "white",
) -> Image.Image:
    """Pictures in rows, each the centred square resized to `cell`, `gap` pixels between them and
    around.

    Sources go into the first row and targets into the first column, with None at the corner; None,
    or a row's missing end, leaves the background. Labels stand above the columns and, turned, left
    of the rows.
    """
    columns = max((len(row) for row in rows), default=0)
    if columns == 0:
        raise ValueError("a grid needs at least one cell")
    strip = label_strip(cell)
    left, top = strip * bool(row_labels), strip * bool(column_labels)
    step = cell + gap
    sheet = Image.new(
        "RGB", (left + gap + columns * step, top + gap + len(rows) * step), background
    )
    for i, row in enumerate(rows):
        for j, image in enumerate(row):
            if image is not None:
                picture = resize(square_crop(image.convert("RGB")), cell)
                sheet.paste(picture, (left + gap + j * step, top + gap + i * step))
    for j, text in enumerate((column_labels or ())[:columns]):
        sheet.paste(_label(text, cell, strip, background), (left + gap + j * step, 0))
    for i, text in enumerate((row_labels or ())[: len(rows)]):
        turned = _label(text, cell, strip, background).transpose(Image.Transpose.ROTATE_90)
        sheet.paste(turned, (0, top + gap + i * step))
    return sheet


def label_strip(cell: int) -> int:
    """Height in pixels of the strip that holds the labels."""
    return max(16, cell // 6)


def _label(
    text: str, width: int, height: int, background: str | tuple[int, int, int]
) -> Image.Image:
    """One centred line on a strip, cut with an ellipsis where too long."""
    strip = Image.new("RGB", (width, height), background)
    ink = "black" if ImageOps.grayscale(strip).getpixel((0, 0)) > 127 else "white"
    draw, font = ImageDraw.Draw(strip), ImageFont.load_default(size=round(height * 0.6))
    text = " ".join(text.split())
    if draw.textlength(text, font) > width:
        while text and draw.textlength(text + "...", font) > width:
            text = text[:-1]
        text += "..."
    draw.text((width / 2, height / 2), text, ink, font, anchor="mm")
    return strip
