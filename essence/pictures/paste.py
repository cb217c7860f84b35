"""Putting an edited square back into the whole photograph that it was cut from."""

from __future__ import annotations

from math import ceil, floor, hypot

import numpy as np
from PIL import Image

from .align import Square

FADE = 0.06  # of the square's side: over this much of its border the edit fades out


def paste(
    photograph: Image.Image, square: Square, crop: Image.Image, edited: Image.Image
) -> Image.Image:
    """`photograph` with the difference between `edited` and `crop`, two pictures of one size of its
    `square`, added where the square lies. Outside of it no pixel changes, and inside every pixel
    keeps its own detail where the two are alike.
    """
    difference = np.asarray(edited, np.int16) - np.asarray(crop, np.int16)
    if not difference.any():
        return photograph.copy()
    left, top, right, bottom = bounds(photograph, square)
    if left >= right or top >= bottom:
        return photograph.copy()
    # From the photograph's pixels to the crop's: the square's corners and axes.
    side, (cx, cy), (x, y) = crop.width, square.centre, square.across
    scale = side / (2 * (x * x + y * y))
    a, b = scale * x, scale * y
    origin_x, origin_y = left - cx, top - cy
    transform = (
        a,
        b,
        a * origin_x + b * origin_y + side / 2,
        -b,
        a,
        -b * origin_x + a * origin_y + side / 2,
    )
    faded = difference * fade_mask(side)[..., None]
    result, size = photograph.copy(), (right - left, bottom - top)
    shrunk = max(1, floor(hypot(a, b)))  # the crop is finer than the photograph: average first
    bands = []
    for channel in range(3):
        band = Image.fromarray(faded[..., channel].astype(np.float32))
        matrix = transform
        if shrunk > 1:
            band = band.reduce(shrunk)
            matrix = tuple(value / shrunk for value in transform)
        bands.append(
            np.asarray(
                band.transform(size, Image.Transform.AFFINE, matrix, Image.Resampling.BICUBIC)
            )
        )
    area = np.asarray(result.crop((left, top, right, bottom)), np.float32)
    pixels = (area + np.stack(bands, -1)).round().clip(0, 255).astype(np.uint8)
    result.paste(Image.fromarray(pixels), (left, top))
    return result


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
