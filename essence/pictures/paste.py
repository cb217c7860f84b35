"""Putting an edited square back into the whole photograph that it was cut from."""

from __future__ import annotations

from math import ceil, floor, hypot

import numpy as np
from PIL import Image, ImageChops

from .align import Square

STRIP = 256  # rows of the photograph that are worked on at a time
FADE = 0.06  # of the square's side: over this much of its border the edit fades out


def paste(
    photograph: Image.Image, square: Square, crop: Image.Image, edited: Image.Image
) -> Image.Image:
    """`photograph` with the difference between `edited` and `crop`, two pictures of one size of its
    `square`, added where the square lies. Outside of it no pixel changes, and inside every pixel
    keeps its own detail where the two are alike.
    """
    result = photograph.copy()
    paste_into(result, square, crop, edited)
    return result


def paste_into(
    photograph: Image.Image, square: Square, crop: Image.Image, edited: Image.Image
) -> None:
    """As `paste`, in the photograph itself: a large one is not worth a copy."""
    if ImageChops.difference(edited, crop).getbbox() is None:
        return
    left, top, right, bottom = bounds(photograph, square)
    if left >= right or top >= bottom:
        return
    # From the photograph's pixels to the crop's: the square's corners and axes.
    side, (cx, cy), (x, y) = crop.width, square.centre, square.across
    scale = side / (2 * (x * x + y * y))
    a, b = scale * x, scale * y
    # Where the crop is finer than the photograph, its pixels are averaged first.
    shrunk = max(1, floor(hypot(a, b)))
    fading, bands = fade_mask(side), []
    for channel in range(3):
        before, after = (
            np.asarray(each.getchannel(channel), np.float32) for each in (crop, edited)
        )
        band = Image.fromarray((after - before) * fading)
        bands.append(band.reduce(shrunk) if shrunk > 1 else band)
    for strip in range(top, bottom, STRIP):  # the whole in floats would take much memory
        box = (left, strip, right, min(strip + STRIP, bottom))
        origin_x, origin_y = left - cx, strip - cy
        offset_x = a * origin_x + b * origin_y + side / 2
        offset_y = -b * origin_x + a * origin_y + side / 2
        matrix = tuple(value / shrunk for value in (a, b, offset_x, -b, a, offset_y))
        size = (box[2] - box[0], box[3] - box[1])
        drawn = [
            np.asarray(
                band.transform(size, Image.Transform.AFFINE, matrix, Image.Resampling.BICUBIC)
            )
            for band in bands
        ]
        area = np.asarray(photograph.crop(box), np.float32) + np.stack(drawn, -1)
        photograph.paste(Image.fromarray(area.round().clip(0, 255).astype(np.uint8)), box[:2])


def bounds(photograph: Image.Image, square: Square) -> tuple[int, int, int, int]:
    """Of the square, inside the photograph: left, top, right, bottom in whole pixels."""
    xs, ys = zip(*square.corners(), strict=True)
    return (
        max(0, floor(min(xs))),
        max(0, floor(min(ys))),
        min(photograph.width, ceil(max(xs))),
        min(photograph.height, ceil(max(ys))),
    )


def fade_mask(side: int) -> np.ndarray:
    """[side, side] float32: 1 inside, smoothly down to 0 at the edge."""
    place = (np.arange(side, dtype=np.float32) + 0.5) / side
    depth = (np.minimum(place, 1 - place) / FADE).clip(0, 1)
    ramp = depth * depth * (3 - 2 * depth)
    return np.minimum.outer(ramp, ramp)
