"""Pasting an edited square back into its photograph."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from essence.pictures.align import Nudge, Square, cut
from essence.pictures.paste import paste


def photograph(width: int = 400, height: int = 300) -> Image.Image:
    noise = np.random.default_rng(0).integers(0, 255, (20, 30, 3), np.uint8)
    return Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC)


SQUARES = [
    Square((200.0, 150.0), (60.0, 0.0)),
    Square((200.0, 150.0), (50.0, 30.0)),
    Square((60.0, 40.0), (80.0, -20.0)),  # partly outside
]


@pytest.mark.parametrize("square", SQUARES)
def test_no_edit_changes_nothing(square):
    picture = photograph()
    crop = cut(picture, square, 100)
    assert paste(picture, square, crop, crop.copy()).tobytes() == picture.tobytes()


@pytest.mark.parametrize("square", SQUARES)
@pytest.mark.parametrize("side", [64, 150, 500])
def test_no_pixel_outside_the_square_changes(square, side):
    picture = photograph()
    crop = cut(picture, square, side)
    edited = Image.fromarray(255 - np.asarray(crop))
    result = np.asarray(paste(picture, square, crop, edited), int)
    y, x = np.mgrid[: picture.height, : picture.width] + 0.5
    (cx, cy), (ax, ay) = square.centre, square.across
    length = ax * ax + ay * ay
    along, down = ((x - cx) * ax + (y - cy) * ay) / length, ((y - cy) * ax - (x - cx) * ay) / length
    outside = (np.abs(along) > 1) | (np.abs(down) > 1)
    changed = (result != np.asarray(picture, int)).any(-1)
    assert not (changed & outside).any() and changed.any()


@pytest.mark.parametrize("square", SQUARES[:2])
def test_the_edit_lands_where_it_was_made(square):
    """Cutting the square out of the result gives the edited crop, but for its fading border."""
    picture, side = photograph(), 120
    crop = cut(picture, square, side)
    shade = np.asarray(crop, int)
    shade[40:60, 50:90] -= 60
    edited = Image.fromarray(shade.clip(0, 255).astype(np.uint8))
    again = np.asarray(cut(paste(picture, square, crop, edited), square, side), int)
    difference = again - np.asarray(crop, int)
    wanted = np.asarray(edited, int) - np.asarray(crop, int)
    assert np.abs(difference[44:56, 54:86] - wanted[44:56, 54:86]).mean() < 6
    assert np.abs(difference[70:110]).max() <= 3


def test_a_square_beside_the_picture_changes_nothing():
    picture, square = photograph(), Square((2000.0, 2000.0), (50.0, 0.0)).nudged(Nudge())
    grey, white = (Image.new("RGB", (64, 64), color) for color in ("grey", "white"))
    assert paste(picture, square, grey, white).tobytes() == picture.tobytes()
