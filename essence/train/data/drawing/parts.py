"""The parts of a drawn face, where FFHQ's alignment has them, so that a drawing serves as an
already aligned target.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .canvas import BLACK, WHITE, Canvas, Colour, Point, mirror, mix, symmetric

EYE = (0.38, 0.475)  # of the left; the right one is its mirror image, as are most things
MOUTH = (0.5, 0.745)
HEAD = symmetric(
    [
        (0.42, 0.09),
        (0.3, 0.17),
        (0.235, 0.32),
        (0.225, 0.48),
        (0.245, 0.64),
        (0.3, 0.79),
        (0.39, 0.9),
        (0.46, 0.935),
    ]
)


@dataclass(frozen=True)
class Look:
    """What tells one face from another."""

    skin: Colour = (240, 196, 165)
    shadow: Colour = (176, 104, 82)  # of the skin
    hair: Colour = (70, 42, 30)
    gleam: Colour = (150, 100, 70)  # of the hair
    brow: Colour = (60, 36, 26)
    brow_width: float = 0.016
    iris: Colour = (80, 130, 160)
    lips: Colour = (200, 84, 84)
    smile: float = 0.4  # 0 a straight mouth, 1 a wide one
    teeth: bool = False
    backdrop: tuple[Colour, Colour] = ((120, 170, 190), (40, 70, 100))  # light, dark
    cloth: Colour = (60, 90, 120)
    style: str = "bob"  # a key of HAIR
    extras: tuple[str, ...] = ()  # keys of ACCESSORIES


def backdrop(canvas: Canvas, look: Look) -> None:
    canvas.pixels[:] = look.backdrop[1]
    canvas.paint(canvas.glow((0.35, 0.3), 0.75), look.backdrop[0])


def body(canvas: Canvas, look: Look) -> None:
    neck = canvas.shape(symmetric([(0.36, 0.75), (0.355, 0.92), (0.3, 1.05)]), 0.004)
    canvas.paint(neck, mix(look.skin, look.shadow, 0.35))
    canvas.paint(neck * canvas.shape([(x, y + 0.05) for x, y in HEAD], 0.02), look.shadow, 0.75)
    cloth = canvas.shape(symmetric([(0.335, 0.955), (0.2, 0.975), (0.02, 1.05), (0.0, 1.2)]), 0.003)
    collar = canvas.shape(symmetric([(0.36, 0.9), (0.4, 1.0), (0.47, 1.03)]), 0.006)
    canvas.paint(cloth * (1 - collar), look.cloth)
    canvas.paint(cloth * (1 - collar) * canvas.glow((0.8, 1.1), 0.4, 0.15), BLACK, 0.4)


def head(canvas: Canvas, look: Look) -> np.ndarray:
    """Ears and the shaded head; returns its mask."""
    for flip in (False, True):
        outer = [(0.235, 0.43), (0.195, 0.42), (0.185, 0.5), (0.205, 0.58), (0.24, 0.6)]
        ear = canvas.shape(mirror(outer, flip), 0.002)
        canvas.paint(ear, mix(look.skin, look.shadow, 0.25 + 0.2 * flip))
        inner = canvas.line(
            mirror([(0.225, 0.45), (0.202, 0.46), (0.21, 0.55)], flip), 0.012, 0.003
        )
        canvas.paint(inner, look.shadow, 0.6)
    head = canvas.shape(HEAD, 0.0015)
    canvas.paint(head, look.skin)
    lit = canvas.shape([(x * 0.93 + 0.02, y * 0.96 + 0.005) for x, y in HEAD], 0.035)
    canvas.paint(head * (1 - lit), look.shadow, 0.75)
    # The light comes from the upper left.
    canvas.paint(head * canvas.glow((0.41, 0.28), 0.17, 0.11), WHITE, 0.33)
    canvas.paint(head * canvas.glow((0.5, 0.9), 0.06, 0.03), WHITE, 0.22)
    return head


def cheeks(canvas: Canvas, look: Look, head: np.ndarray) -> None:
    blush = mix(look.skin, (226, 70, 60), 0.5)
    for flip in (False, True):
        (place,) = mirror([(0.315, 0.645)], flip)
        canvas.paint(head * canvas.glow(place, 0.075, 0.055), blush, 0.5)
        (place,) = mirror([(0.325, 0.585)], flip)
        canvas.paint(head * canvas.glow(place, 0.045, 0.028), WHITE, 0.3 - 0.15 * flip)
        fold = canvas.line(
            mirror([(0.425, 0.64), (0.385, 0.69), (0.375, 0.735)], flip), 0.008, 0.004
        )
        canvas.paint(fold, look.shadow, 0.25 + 0.3 * look.smile)


def nose(canvas: Canvas, look: Look) -> None:
    side = [(0.53, 0.46), (0.54, 0.56), (0.565, 0.625), (0.53, 0.645), (0.515, 0.58)]
    canvas.paint(canvas.shape(side, 0.012), look.shadow, 0.5)
    under = [(0.43, 0.635), (0.46, 0.655), (0.5, 0.665), (0.54, 0.655), (0.57, 0.635), (0.5, 0.648)]
    canvas.paint(canvas.shape(under, 0.006), look.shadow, 0.8)
    for flip in (False, True):
        wing = mirror([(0.447, 0.6), (0.433, 0.625), (0.447, 0.645)], flip)
        canvas.paint(canvas.line(wing, 0.008, 0.002), look.shadow, 0.8)
        (nostril,) = mirror([(0.468, 0.648)], flip)
        hole = canvas.disc(nostril, 0.014, 0.007, 0.002)
        canvas.paint(hole, mix(look.shadow, BLACK, 0.6), 0.9)
    canvas.paint(canvas.glow((0.488, 0.56), 0.012, 0.08), WHITE, 0.35)
    canvas.paint(canvas.glow((0.488, 0.615), 0.02, 0.016), WHITE, 0.5)


def mouth(canvas: Canvas, look: Look) -> None:
    wide, lift = 0.085 + 0.045 * look.smile, 0.032 * look.smile
    x, y = MOUTH
    corner, drop = (x - wide, y - lift), 0.02 + 0.055 * look.smile if look.teeth else 0.0
    low = y + 0.004 + drop  # of the opening, in the middle
    outline = [
        (x - 0.014, y - 0.026),
        (x - wide * 0.5, y - 0.022 - lift * 0.35),
        corner,
        (x - wide * 0.75, y + drop * 0.5 + 0.012 - lift * 0.3),
        (x - wide * 0.4, low + 0.02),
        (x - wide * 0.1, low + 0.027),
    ]
    lips = canvas.shape(symmetric(outline), 0.001)
    gap = symmetric(
        [
            (x - 0.01, y - 0.002),
            (x - wide * 0.5, y - 0.004 - lift * 0.3),
            (corner[0] + 0.008, corner[1] + 0.003),
            (x - wide * 0.7, y + drop * 0.45 - lift * 0.3),
            (x - wide * 0.4, low - 0.006 * look.teeth),
            (x - wide * 0.1, low),
        ]
    )
    inside = canvas.shape(gap, 0.001)
    canvas.paint(canvas.glow((x, low + 0.05), 0.08, 0.018), look.shadow, 0.5)
    canvas.paint(lips, look.lips)
    canvas.paint(lips * (canvas.y < y + 0.004), mix(look.lips, BLACK, 0.5), 0.35)
    canvas.paint(inside, (70, 14, 20))
    if look.teeth:
        canvas.paint(inside * canvas.glow((x, low + 0.01), 0.06, 0.025), (226, 90, 96))
        upper = [(px, py if py < y + 0.01 else py - 0.028) for px, py in gap]
        teeth = inside * canvas.shape(upper, 0.001)
        canvas.paint(teeth, (252, 250, 244))
        gaps = np.abs(np.sin((canvas.x - 0.5) * np.pi / 0.03)) < 0.06
        canvas.paint(teeth * gaps, (190, 180, 180), 0.5)
    shine = canvas.glow((x - 0.02, low + 0.014), 0.05, 0.007)
    canvas.paint(lips * (1 - inside) * shine, WHITE, 0.6)


def eye(canvas: Canvas, look: Look, flip: bool) -> None:
    (x, y), shine = mirror([EYE], flip)[0], EYE[0] - 0.012 if not flip else 1 - EYE[0] - 0.012

    def at(points: Sequence[Point]) -> list[Point]:
        return mirror([(EYE[0] + dx, y + dy) for dx, dy in points], flip)

    squint = 1 - 0.2 * look.smile
    top = [
        (-0.062, 0.008),
        (-0.038, -0.024 * squint),
        (0.0, -0.034 * squint),
        (0.036, -0.022 * squint),
        (0.056, 0.012),
    ]
    bottom = [(0.03, 0.022 * squint), (-0.005, 0.029 * squint), (-0.04, 0.022 * squint)]
    opening = canvas.shape(at([*top, *bottom]), 0.001)
    canvas.paint(canvas.glow((x, y - 0.02), 0.075, 0.045), look.shadow, 0.45)
    canvas.paint(opening, (250, 248, 246))
    rim, iris, light = mix(look.iris, BLACK, 0.65), look.iris, mix(look.iris, WHITE, 0.6)
    canvas.paint(opening * canvas.disc((x, y - 0.004), 0.031, blur=0.0015), rim)
    canvas.paint(opening * canvas.disc((x, y - 0.003), 0.027, blur=0.002), iris)
    canvas.paint(opening * canvas.glow((x, y + 0.014), 0.016, 0.01), light, 0.8)
    canvas.paint(opening * canvas.disc((x, y - 0.004), 0.013, blur=0.001), BLACK)
    shade = canvas.shape(at([(dx, dy - 0.006) for dx, dy in top] + [(0, -0.012)]), 0.004)
    canvas.paint(opening * shade, BLACK, 0.4)
    canvas.paint(canvas.disc((shine, y - 0.015), 0.0075, blur=0.001), WHITE)
    canvas.paint(canvas.disc((shine + 0.022, y + 0.006), 0.0035, blur=0.001), WHITE, 0.8)
    canvas.paint(canvas.line(at(top), 0.013, 0.0008), mix(look.brow, BLACK, 0.6))
    fold = canvas.line(at([(-0.05, -0.03), (0.0, -0.052), (0.05, -0.024)]), 0.006, 0.002)
    canvas.paint(fold, look.shadow, 0.8)
    lid = canvas.line(at([(-0.045, 0.036), (0.0, 0.046), (0.045, 0.036)]), 0.006, 0.003)
    canvas.paint(lid, look.shadow, 0.5)
    arch = at([(-0.085, -0.066), (-0.045, -0.1), (0.01, -0.098), (0.062, -0.076)])
    canvas.paint(canvas.line(arch, look.brow_width * 1.4, 0.002), look.brow, 0.95)
