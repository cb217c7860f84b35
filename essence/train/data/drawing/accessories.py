"""Freckles, beards, glasses and other things by which a drawn face is known."""

from __future__ import annotations

import numpy as np

from .canvas import BLACK, WHITE, Canvas, Point, mirror, mix, symmetric
from .hair import Painter, paint_hair
from .parts import EYE, MOUTH, Look


def _freckles(canvas: Canvas, look: Look, rng: np.random.Generator) -> None:
    for _ in range(70):
        x, y = rng.normal(0.5, 0.12), rng.normal(0.6, 0.035)
        if 0.27 < x < 0.73:
            spot = canvas.disc((x, y), rng.uniform(0.002, 0.0045), blur=0.001)
            canvas.paint(spot, look.shadow, rng.uniform(0.3, 0.8))


def _clown(canvas: Canvas, look: Look, rng: np.random.Generator) -> None:
    """A red ball for a nose, painted stars of eyes, red cheeks."""
    red = (226, 24, 36)
    x, y = EYE
    for flip in (False, True):
        for tip in (-0.085, 0.09):
            base = y + 0.04 * np.sign(tip)
            star = mirror([(x - 0.022, base), (x, y + tip * 1.15), (x + 0.022, base)], flip)
            canvas.paint(canvas.shape(star, 0.001, smooth=False), (40, 90, 210), 0.9)
        cheek = mirror([(0.3, 0.66)], flip)[0]
        canvas.paint(canvas.disc(cheek, 0.05, blur=0.003), red, 0.85)
        canvas.paint(canvas.glow((cheek[0] - 0.015, cheek[1] - 0.018), 0.02), WHITE, 0.45)
    canvas.paint(canvas.glow((0.51, 0.66), 0.064), BLACK, 0.35)
    canvas.ball((0.5, 0.615), 0.064, red)


def _wrinkles(canvas: Canvas, look: Look, rng: np.random.Generator) -> None:
    for y, wide in ((0.2, 0.11), (0.245, 0.14), (0.29, 0.12)):
        ends = (0.5 - wide, y + 0.008), (0.5 + wide, y + 0.006)
        wrinkle = canvas.line(
            [ends[0], (0.47, y - 0.004), (0.53, y + 0.004), ends[1]], 0.007, 0.002
        )
        canvas.paint(wrinkle, look.shadow, 0.7)
    for flip in (False, True):
        for dy in (-0.02, 0.01, 0.04):
            crow = mirror(
                [(0.3, 0.485 + dy * 0.3), (0.275, 0.485 + dy), (0.26, 0.485 + 1.4 * dy)], flip
            )
            canvas.paint(canvas.line(crow, 0.006, 0.001), look.shadow, 0.75)
        bag = mirror([(0.33, 0.53), (0.38, 0.55), (0.43, 0.53)], flip)
        canvas.paint(canvas.line(bag, 0.009, 0.002), look.shadow, 0.6)
        frown = canvas.line(mirror([(0.478, 0.4), (0.472, 0.44)], flip), 0.006, 0.001)
        canvas.paint(frown, look.shadow, 0.7)


def _beard(canvas: Canvas, look: Look, rng: np.random.Generator) -> None:
    x, y = MOUTH
    outline = canvas.shape(
        symmetric(
            [
                (0.36, 0.735),
                (0.25, 0.59),
                (0.205, 0.6),
                (0.205, 0.74),
                (0.26, 0.9),
                (0.34, 1.03),
                (0.45, 1.1),
            ]
        ),
        0.004,
    )
    opening = canvas.shape(
        symmetric(
            [
                (x - 0.03, y - 0.02),
                (x - 0.095, y - 0.01),
                (x - 0.06, y + 0.04),
                (x - 0.02, y + 0.048),
            ]
        ),
        0.003,
    )
    mass = outline * (1 - opening)
    paint_hair(
        canvas,
        look,
        rng,
        mass,
        lambda px, py: np.pi / 2 + (0.5 - px) * 0.9 + 0.4 * np.sin(30 * py + 14 * px),
        900,
        0.1,
        0.35,
    )
    canvas.paint(mass * canvas.glow((0.5, 0.83), 0.07, 0.02), mix(look.hair, BLACK, 0.5), 0.45)
    _whiskers(
        canvas,
        look,
        rng,
        [
            (0.495, 0.69),
            (0.42, 0.685),
            (0.345, 0.735),
            (0.315, 0.8),
            (0.38, 0.775),
            (0.455, 0.748),
            (0.497, 0.735),
        ],
        dark=0.3,
    )


def _moustache(canvas: Canvas, look: Look, rng: np.random.Generator) -> None:
    _whiskers(
        canvas,
        look,
        rng,
        [
            (0.497, 0.685),
            (0.43, 0.68),
            (0.36, 0.715),
            (0.31, 0.705),
            (0.29, 0.67),
            (0.285, 0.72),
            (0.33, 0.76),
            (0.41, 0.75),
            (0.497, 0.722),
        ],
        dark=0.6,
    )


def _whiskers(
    canvas: Canvas,
    look: Look,
    rng: np.random.Generator,
    half: list[Point],
    dark: float,
) -> None:
    for flip in (False, True):
        mask = canvas.shape(mirror(half, flip), 0.002)
        under = np.roll(mask, round(0.012 * canvas.side), axis=0) * (1 - mask)
        canvas.paint(under, mix(look.shadow, BLACK, 0.3), 0.6)
        way = 0.35 if flip else np.pi - 0.35
        canvas.paint(mask, look.hair)
        canvas.strands(
            rng,
            mask,
            lambda x, y, way=way: way,
            (mix(look.hair, BLACK, dark), look.gleam),
            160,
            0.07,
            0.003,
            0.7,
        )


def _glasses(canvas: Canvas, look: Look, rng: np.random.Generator) -> None:
    frame = (50, 24, 14)
    for flip in (False, True):
        centre = mirror([(EYE[0] - 0.004, EYE[1] + 0.012)], flip)[0]
        lens = canvas.disc(centre, 0.09, blur=0.0008)
        rim = canvas.disc(centre, 0.1, blur=0.0008) * (1 - lens)
        canvas.paint(np.roll(rim, (14, 6), axis=(0, 1)) * (1 - rim), look.shadow, 0.5)
        canvas.paint(lens, (220, 240, 255), 0.1)
        glint = abs((canvas.x - centre[0]) + 0.6 * (canvas.y - centre[1]) + 0.035) < 0.012
        canvas.paint(lens * glint, WHITE, 0.25)
        canvas.paint(rim, frame)
        shine = canvas.glow((centre[0] - 0.06, centre[1] - 0.07), 0.05)
        canvas.paint(rim * shine, (214, 150, 100), 0.8)
        temple = mirror([(0.28, 0.475), (0.24, 0.465), (0.21, 0.46)], flip)
        canvas.paint(canvas.line(temple, 0.014, taper=False), frame)
    bridge = [(0.47, 0.48), (0.5, 0.465), (0.53, 0.48)]
    canvas.paint(canvas.line(bridge, 0.012, taper=False), frame)


def _pearl(canvas: Canvas, look: Look, rng: np.random.Generator) -> None:
    canvas.ball((0.8, 0.665), 0.036, (236, 232, 226))


ACCESSORIES: dict[str, Painter] = {
    "freckles": _freckles,
    "clown": _clown,
    "wrinkles": _wrinkles,
    "beard": _beard,
    "moustache": _moustache,
    "glasses": _glasses,
    "pearl": _pearl,
}
