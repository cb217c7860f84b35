"""What the drawings are made with: float pixels, smooth shapes and soft light.

Units are the picture's, x to the right and y down in [0, 1].
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

Point = tuple[float, float]
Colour = tuple[int, int, int]

WHITE, BLACK = (255, 255, 255), (18, 12, 14)


class Canvas:
    """Float pixels, and masks [n, n] in [0, 1] to paint through."""

    def __init__(self, side: int):
        self.side = side
        self.pixels = np.zeros((side, side, 3), np.float32)
        self.y, self.x = (np.indices((side, side), np.float32) + 0.5) / side

    def shape(self, points: Sequence[Point], blur: float = 0.0, smooth: bool = True) -> np.ndarray:
        """The inside of a closed curve through `points`."""
        outline = self._scaled(curve(points, True) if smooth else points)
        return self._mask(lambda pen: pen.polygon(outline, 255), blur)

    def line(
        self, points: Sequence[Point], width: float, blur: float = 0.0, taper: bool = True
    ) -> np.ndarray:
        """A curve through `points` that thins out at its ends."""
        path = np.array(curve(points, False, 24))
        swell = np.ones(len(path))
        if taper:
            swell = np.sin(np.linspace(0.12, np.pi - 0.12, len(path))) ** 0.6

        def trace(pen: ImageDraw.ImageDraw) -> None:
            for (x, y), radius in zip(path * self.side, swell * width * self.side / 2, strict=True):
                pen.ellipse((x - radius, y - radius, x + radius, y + radius), 255)

        return self._mask(trace, blur)

    def disc(
        self, centre: Point, rx: float, ry: float | None = None, blur: float = 0.0
    ) -> np.ndarray:
        ry = rx if ry is None else ry
        box = [(centre[0] - rx, centre[1] - ry), (centre[0] + rx, centre[1] + ry)]
        return self._mask(lambda pen: pen.ellipse(self._scaled(box), 255), blur)

    def glow(self, centre: Point, rx: float, ry: float | None = None) -> np.ndarray:
        """A soft spot, 1 in its middle."""
        ry = rx if ry is None else ry
        return np.exp(-(((self.x - centre[0]) / rx) ** 2 + ((self.y - centre[1]) / ry) ** 2))

    def paint(self, mask: np.ndarray, colour: Colour, alpha: float = 1.0) -> None:
        rows, columns = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
        if rows.size:
            part = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
            window = self.pixels[part]
            window += (np.array(colour, np.float32) - window) * (mask[part] * alpha)[..., None]

    def ball(
        self,
        centre: Point,
        radius: float,
        colour: Colour,
        gleam: Colour = WHITE,
        alpha: float = 0.95,
    ) -> None:
        """A ball lit from the upper left; painted in its own window, so many of them are quick."""
        low = [max(int((c - radius) * self.side) - 1, 0) for c in centre]
        high = [max(int((c + radius) * self.side) + 2, 0) for c in centre]
        part = np.s_[low[1] : high[1], low[0] : high[0]]
        x, y = (self.x[part] - centre[0]) / radius, (self.y[part] - centre[1]) / radius
        inside = ((1 - np.hypot(x, y)) * radius * self.side + 0.5).clip(0, 1)
        window = self.pixels[part]
        lit = np.exp(-((x + 0.25) ** 2 + (y + 0.3) ** 2))
        shine = np.exp(-16 * ((x + 0.4) ** 2 + (y + 0.45) ** 2))
        for mask, paint in (
            (inside, mix(colour, BLACK, 0.55)),
            (inside * lit, colour),
            (alpha * inside * shine, gleam),
        ):
            window += (np.array(paint, np.float32) - window) * mask[..., None]

    def strands(
        self,
        rng: np.random.Generator,
        mask: np.ndarray,
        flow: Callable[[float, float], float],
        colours: Sequence[Colour],
        count: int = 300,
        length: float = 0.2,
        width: float = 0.004,
        alpha: float = 0.6,
    ) -> None:
        """Hairs that start anywhere in `mask` and follow `flow`, an angle at each place."""
        rows, columns = np.nonzero(mask > 0.5)
        for colour in colours:
            sheet = Image.new("L", (self.side, self.side))
            pen = ImageDraw.Draw(sheet)
            for start in rng.integers(0, max(len(rows), 1), count if len(rows) else 0):
                x, y = columns[start] / self.side, rows[start] / self.side
                path = [(x, y)]
                for _ in range(10):
                    angle = flow(x, y)
                    x, y = x + np.cos(angle) * length / 10, y + np.sin(angle) * length / 10
                    path.append((x, y))
                tone, thickness = int(rng.integers(60, 256)), max(1, round(width * self.side))
                pen.line(self._scaled(path), tone, thickness, "curve")
            soft = np.asarray(sheet.filter(ImageFilter.GaussianBlur(0.7)), np.float32) / 255
            self.paint(soft * mask, colour, alpha)

    def image(self) -> Image.Image:
        return Image.fromarray(self.pixels.round().clip(0, 255).astype(np.uint8))

    def _scaled(self, points: Sequence[Point]) -> list[Point]:
        return [(x * self.side, y * self.side) for x, y in points]

    def _mask(self, pen_stroke: Callable[[ImageDraw.ImageDraw], None], blur: float) -> np.ndarray:
        sheet = Image.new("L", (self.side, self.side))
        pen_stroke(ImageDraw.Draw(sheet))
        if blur and (drawn := sheet.getbbox()):
            deviation = blur * self.side
            margin = math.ceil(4 * deviation) + 4  # further than the blur carries
            low = [max(value - margin, 0) for value in drawn[:2]]
            high = [min(value + margin, self.side) for value in drawn[2:]]
            soft = sheet.crop((*low, *high)).filter(ImageFilter.GaussianBlur(deviation))
            sheet.paste(soft, tuple(low))
        return np.asarray(sheet, np.float32) / 255


def curve(points: Sequence[Point], closed: bool, steps: int = 16) -> list[Point]:
    """A Catmull-Rom spline through all points."""
    p = np.array(points, np.float64)
    if closed:
        p = np.concatenate([p[-1:], p, p[:2]])
    else:
        p = np.concatenate([2 * p[:1] - p[1:2], p, 2 * p[-1:] - p[-2:-1]])
    t = np.linspace(0, 1, steps, endpoint=False)[:, None]
    pieces = []
    for a, b, c, d in zip(p, p[1:], p[2:], p[3:], strict=False):
        cubic = 2 * a - 5 * b + 4 * c - d + t * (3 * (b - c) + d - a)
        pieces.append(b + 0.5 * t * (c - a + t * cubic))
    return [tuple(q) for q in np.concatenate(pieces + ([] if closed else [p[-2:-1]])).tolist()]


def mirror(points: Sequence[Point], flip: bool = True) -> list[Point]:
    return [(1 - x, y) for x, y in points] if flip else list(points)


def symmetric(half: Sequence[Point]) -> list[Point]:
    """A closed outline from its left half, given from top to bottom."""
    return [*half, *mirror(half)[::-1]]


def mix(a: Colour, b: Colour, t: float) -> Colour:
    return tuple(round(p + (q - p) * t) for p, q in zip(a, b, strict=True))
