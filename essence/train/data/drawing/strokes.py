"""A picture done again with a brush, or with a pencil."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

BRUSHES = (0.05, 0.026, 0.013, 0.006)  # widths, coarse to fine, in sides of the picture
TOLERANCE = 16  # mean difference of a colour, of 255, that a finer brush still goes over
PAPER = 246


def oil(image: Image.Image, seed: int = 0) -> Image.Image:
    """An oil painting of an RGB picture: strokes along the edges, from a broad brush to a fine one,
    and their relief.
    """
    rng = np.random.default_rng(seed)
    side = image.width
    painting = Image.new("RGB", image.size, (92, 66, 44))  # the ground
    relief = Image.new("L", image.size, 128)
    for width in (brush * side for brush in BRUSHES):
        soft = image.filter(ImageFilter.GaussianBlur(width / 3))
        smooth = image.filter(ImageFilter.GaussianBlur(max(width, 6))).convert("L")
        down, right = np.gradient(np.asarray(smooth, np.float32))
        angles = np.arctan2(down, right) + np.pi / 2  # along which brightness stays the same
        _brush(painting, relief, np.asarray(soft, np.float32), angles, width, rng)
    return _light(painting, relief)


def _brush(
    painting: Image.Image,
    relief: Image.Image,
    wanted: np.ndarray,
    angles: np.ndarray,
    width: float,
    rng: np.random.Generator,
) -> None:
    """One layer: a stroke wherever the painting is still far from the picture."""
    height, side = angles.shape
    so_far = np.asarray(painting.filter(ImageFilter.GaussianBlur(width / 3)), np.float32)
    missing = np.abs(wanted - so_far).mean(-1)
    pen, bump = ImageDraw.Draw(painting), ImageDraw.Draw(relief)
    step, depth = width * 0.55, min(2500 * width / side, 80)  # a broad brush leaves thick paint
    lattice = np.meshgrid(np.arange(0, side, step), np.arange(0, height, step))
    spots = np.stack(lattice, -1).reshape(-1, 2)
    spots = rng.permutation(spots + rng.normal(0, step / 2, spots.shape))
    for x, y in spots.clip(0, (side - 1, height - 1)):
        if missing[int(y), int(x)] < TOLERANCE:
            continue
        colour = (wanted[int(y), int(x)] + rng.normal(0, 4) + rng.normal(0, 2.5, 3)).clip(0, 255)
        path = _stroke(x, y, angles, width)
        pen.line(path, tuple(int(c) for c in colour), round(width), "curve")
        for shift in (-0.3, 0.0, 0.3):  # the bristles' furrows
            furrow = [(px + shift * width, py + shift * width) for px, py in path]
            bump.line(furrow, int(128 + rng.uniform(-depth, depth)), max(1, round(width * 0.25)))


def _stroke(x: float, y: float, angles: np.ndarray, width: float) -> list[tuple[float, float]]:
    """A path of four brush widths that follows the edges without turning back."""
    path, heading = [(x, y)], angles[int(y), int(x)]
    for _ in range(5):
        row = min(max(int(y), 0), angles.shape[0] - 1)
        column = min(max(int(x), 0), angles.shape[1] - 1)
        angle = angles[row, column]
        heading = angle + np.pi * round((heading - angle) / np.pi)
        x, y = x + 0.8 * width * np.cos(heading), y + 0.8 * width * np.sin(heading)
        path.append((x, y))
    return path


def _light(painting: Image.Image, relief: Image.Image) -> Image.Image:
    """Light from the upper left over the thickness of the paint."""
    height = np.asarray(relief.filter(ImageFilter.GaussianBlur(1.2)), np.float32)
    down, right = np.gradient(height)
    lit = np.asarray(painting, np.float32) * (1 - 0.006 * (down + right).clip(-18, 18))[..., None]
    return Image.fromarray(lit.round().clip(0, 255).astype(np.uint8))


def pencil(image: Image.Image, seed: int = 0) -> Image.Image:
    """A pencil drawing of an RGB picture: outlines where it changes, hatching in three directions
    where it is dark.
    """
    rng = np.random.default_rng(seed)
    grey = np.asarray(image.convert("L"), np.float32)
    near = np.asarray(image.convert("L").filter(ImageFilter.GaussianBlur(1.5)), np.float32)
    far = np.asarray(image.convert("L").filter(ImageFilter.GaussianBlur(7)), np.float32)
    lines = ((far - near - 2) / 22).clip(0, 1)  # darker than its surroundings
    ink = np.maximum(lines * 0.9, _hatching(grey, rng))
    noise = Image.fromarray(rng.integers(0, 256, grey.shape, np.uint8))
    grain = np.asarray(noise.filter(ImageFilter.GaussianBlur(0.8)), np.float32)
    # The grain of the paper breaks the lead.
    ink = (ink * (0.75 + 0.5 * (grain / 128 - 0.5))).clip(0, 0.92)
    tone = PAPER - ink * (PAPER - 40) + (grain - 128) * 0.05
    return Image.fromarray(tone.round().clip(0, 255).astype(np.uint8)).convert("RGB")


def _hatching(grey: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """[H, W] ink of short strokes; each direction serves darker places than the one before."""
    ink = np.zeros_like(grey)
    height, width = grey.shape
    for angle, limit in ((-0.8, 205), (-1.2, 150), (0.5, 95)):
        sheet = Image.new("L", (width, height))
        pen = ImageDraw.Draw(sheet)
        step, reach = np.array([np.cos(angle), np.sin(angle)]), 0.022 * width
        for x, y in rng.uniform(0, (width, height), (9000, 2)):
            dark = limit - grey[int(y), int(x)]
            if dark > 0:
                tone = int(min(90 + 1.6 * dark, 225) * rng.uniform(0.6, 1))
                place = np.array([x, y])
                pen.line([*(place - step * reach), *(place + step * reach)], tone, 1)
        soft = np.asarray(sheet.filter(ImageFilter.GaussianBlur(0.6)), np.float32)
        ink = np.maximum(ink, soft / 255 * 0.85)
    return ink
