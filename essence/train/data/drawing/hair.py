"""Hair, hats, beards and other things by which a drawn face is known."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from .canvas import BLACK, WHITE, Canvas, mirror, mix, symmetric
from .parts import EYE, MOUTH, Look

Painter = Callable[[Canvas, Look, np.random.Generator], None]


def _down(wave: float = 0.0) -> Callable[[float, float], float]:
    """Hair that falls from a parting at the top, outwards and then down, in waves."""

    def angle(x: float, y: float) -> float:
        out = np.clip((x - 0.5) * 3, -1, 1) * np.clip(0.75 - y, 0, 1)
        return np.pi / 2 - out + wave * np.sin(22 * y + 5 * x)

    return angle


def _hair(
    canvas: Canvas,
    look: Look,
    rng: np.random.Generator,
    mask: np.ndarray,
    flow: Callable[[float, float], float],
    count: int = 500,
    length: float = 0.2,
    dark: float = 0.55,
) -> None:
    """A shaded mass with strands in it, lit from the upper left."""
    shade = mix(look.hair, BLACK, dark)
    canvas.paint(mask, look.hair)
    canvas.strands(rng, mask, flow, (shade, look.gleam), count, length)
    canvas.paint(mask * canvas.glow((0.85, 0.75), 0.35, 0.6), shade, 0.5)
    canvas.paint(mask * canvas.glow((0.33, 0.1), 0.2, 0.07), look.gleam, 0.45)


def _cast(canvas: Canvas, look: Look, fringe: np.ndarray) -> None:
    """The shadow of a fringe on the forehead."""
    fall = round(0.02 * canvas.side)
    shadow = np.roll(fringe, fall, axis=0) * (1 - fringe)
    shadow[:fall] = 0
    canvas.paint(shadow * (canvas.y < 0.5) * (abs(canvas.x - 0.5) < 0.27), look.shadow, 0.5)


def _long_behind(canvas: Canvas, look: Look, rng: np.random.Generator) -> None:
    mass = canvas.shape(
        symmetric(
            [
                (0.45, 0.005),
                (0.26, 0.05),
                (0.14, 0.2),
                (0.12, 0.42),
                (0.06, 0.62),
                (0.07, 0.85),
                (0.02, 1.1),
            ]
        ),
        0.002,
    )
    _hair(canvas, look, rng, mass, _down(0.5), 900, 0.3)


def _long_before(canvas: Canvas, look: Look, rng: np.random.Generator) -> None:
    fringe = canvas.shape(
        [
            (0.6, 0.03),
            (0.4, 0.015),
            (0.23, 0.1),
            (0.17, 0.3),
            (0.19, 0.52),
            (0.215, 0.66),
            (0.235, 0.5),
            (0.255, 0.36),
            (0.36, 0.25),
            (0.55, 0.17),
            (0.66, 0.2),
            (0.74, 0.34),
            (0.77, 0.52),
            (0.79, 0.66),
            (0.82, 0.5),
            (0.83, 0.28),
            (0.75, 0.1),
        ],
        0.0015,
    )
    _cast(canvas, look, fringe)
    _hair(
        canvas,
        look,
        rng,
        fringe,
        lambda x, y: np.pi - 0.5 - 1.1 * y if x < 0.62 else 1.2 - 0.2 * y,
        450,
        0.16,
    )


def _bob_behind(canvas: Canvas, look: Look, rng: np.random.Generator) -> None:
    mass = canvas.shape(
        symmetric(
            [
                (0.45, 0.01),
                (0.27, 0.05),
                (0.15, 0.2),
                (0.115, 0.45),
                (0.11, 0.7),
                (0.17, 0.84),
                (0.3, 0.8),
            ]
        ),
        0.002,
    )
    _hair(canvas, look, rng, mass, _down(), 700, 0.25)


def _bob_before(canvas: Canvas, look: Look, rng: np.random.Generator) -> None:
    fringe = canvas.shape(
        symmetric(
            [
                (0.42, 0.02),
                (0.26, 0.08),
                (0.18, 0.25),
                (0.165, 0.5),
                (0.19, 0.74),
                (0.235, 0.72),
                (0.235, 0.5),
                (0.265, 0.345),
                (0.34, 0.335),
                (0.43, 0.325),
            ]
        ),
        0.0015,
    )
    _cast(canvas, look, fringe)
    _hair(canvas, look, rng, fringe, _down(), 700, 0.2)


def _puffs_behind(canvas: Canvas, look: Look, rng: np.random.Generator) -> None:
    _curls(canvas, look, rng, 90, reach=0.16)


def _puffs_before(canvas: Canvas, look: Look, rng: np.random.Generator) -> None:
    _curls(canvas, look, rng, 34, reach=0.09)


def _curls(canvas: Canvas, look: Look, rng: np.random.Generator, count: int, reach: float) -> None:
    """Two clouds of lit balls beside the head."""
    for _ in range(count):
        turn, far = rng.uniform(0, 2 * np.pi), reach * rng.uniform(0, 1) ** 0.5
        x, y = 0.12 + 0.7 * far * np.cos(turn), 0.33 + 1.5 * far * np.sin(turn)
        for flip in (False, True):
            canvas.ball(mirror([(x, y)], flip)[0], rng.uniform(0.025, 0.05), look.hair, look.gleam)


def _receding_behind(canvas: Canvas, look: Look, rng: np.random.Generator) -> None:
    sides = canvas.shape(
        symmetric(
            [(0.4, 0.06), (0.27, 0.1), (0.18, 0.24), (0.165, 0.42), (0.19, 0.62), (0.3, 0.66)]
        ),
        0.004,
    )
    _hair(canvas, look, rng, sides, _down(0.3), 500, 0.1, dark=0.35)


def _receding_before(canvas: Canvas, look: Look, rng: np.random.Generator) -> None:
    for flip in (False, True):
        side = canvas.shape(
            mirror(
                [
                    (0.33, 0.13),
                    (0.24, 0.18),
                    (0.19, 0.33),
                    (0.2, 0.45),
                    (0.235, 0.56),
                    (0.25, 0.42),
                    (0.265, 0.3),
                ],
                flip,
            ),
            0.004,
        )
        _hair(canvas, look, rng, side, _down(0.3), 220, 0.07, dark=0.35)


def _quiff_behind(canvas: Canvas, look: Look, rng: np.random.Generator) -> None:
    sides = canvas.shape(
        symmetric([(0.4, 0.04), (0.25, 0.09), (0.195, 0.25), (0.2, 0.44), (0.3, 0.45)]), 0.002
    )
    _hair(canvas, look, rng, sides, _down(), 300, 0.08)


def _quiff_before(canvas: Canvas, look: Look, rng: np.random.Generator) -> None:
    top = canvas.shape(
        [
            (0.225, 0.42),
            (0.205, 0.25),
            (0.25, 0.09),
            (0.36, 0.01),
            (0.55, -0.02),
            (0.7, 0.03),
            (0.78, 0.12),
            (0.8, 0.26),
            (0.775, 0.42),
            (0.755, 0.3),
            (0.7, 0.22),
            (0.56, 0.2),
            (0.4, 0.235),
            (0.29, 0.24),
            (0.25, 0.32),
        ],
        0.0015,
    )
    _cast(canvas, look, top)
    _hair(canvas, look, rng, top, lambda x, y: -0.9 + 2.6 * x + 0.5 * (y > 0.25), 500, 0.14)


def _turban_behind(canvas: Canvas, look: Look, rng: np.random.Generator) -> None:
    tail = canvas.shape(
        [
            (0.76, 0.16),
            (0.88, 0.3),
            (0.9, 0.6),
            (0.94, 0.92),
            (0.8, 0.98),
            (0.77, 0.6),
            (0.74, 0.3),
        ],
        0.003,
    )
    canvas.paint(tail, (214, 170, 70))
    canvas.strands(
        rng,
        tail,
        lambda x, y: np.pi / 2 - 0.1,
        ((120, 80, 30), (250, 226, 150)),
        60,
        0.3,
        0.012,
        0.5,
    )


def _turban_before(canvas: Canvas, look: Look, rng: np.random.Generator) -> None:
    wrap = canvas.shape(
        [
            (0.2, 0.44),
            (0.17, 0.24),
            (0.24, 0.07),
            (0.4, -0.04),
            (0.62, -0.04),
            (0.78, 0.06),
            (0.84, 0.24),
            (0.8, 0.44),
            (0.765, 0.3),
            (0.66, 0.225),
            (0.5, 0.2),
            (0.34, 0.225),
            (0.235, 0.31),
        ],
        0.002,
    )
    _cast(canvas, look, wrap)
    canvas.paint(wrap, look.hair)
    canvas.strands(
        rng,
        wrap,
        lambda x, y: -0.75 + 1.5 * x,
        (mix(look.hair, BLACK, 0.7), look.gleam),
        70,
        0.4,
        0.016,
        0.5,
    )
    canvas.paint(wrap * canvas.glow((0.8, 0.3), 0.2, 0.3), BLACK, 0.5)
    canvas.paint(wrap * canvas.glow((0.35, 0.1), 0.14, 0.06), look.gleam, 0.5)
    knot = canvas.shape([(0.7, 0.03), (0.85, 0.1), (0.87, 0.22), (0.78, 0.24), (0.72, 0.14)], 0.003)
    canvas.paint(knot, (214, 170, 70))
    canvas.paint(knot * canvas.glow((0.76, 0.09), 0.04), (255, 240, 180), 0.7)


HAIR: dict[str, tuple[Painter, Painter]] = {  # what lies behind the head, and what before it
    "long": (_long_behind, _long_before),
    "bob": (_bob_behind, _bob_before),
    "puffs": (_puffs_behind, _puffs_before),
    "receding": (_receding_behind, _receding_before),
    "quiff": (_quiff_behind, _quiff_before),
    "turban": (_turban_behind, _turban_before),
}


# ---- extras


def _freckles(canvas: Canvas, look: Look, rng: np.random.Generator) -> None:
    for _ in range(70):
        x, y = rng.normal(0.5, 0.12), rng.normal(0.6, 0.035)
        if 0.27 < x < 0.73:
            canvas.paint(
                canvas.disc((x, y), rng.uniform(0.002, 0.0045), blur=0.001),
                look.shadow,
                rng.uniform(0.3, 0.8),
            )


def _clown(canvas: Canvas, look: Look, rng: np.random.Generator) -> None:
    """A red ball for a nose, painted stars of eyes, red cheeks."""
    red = (226, 24, 36)
    for flip in (False, True):
        for tip in (-0.085, 0.09):
            x, y = EYE
            spike = canvas.shape(
                mirror(
                    [
                        (x - 0.022, y + 0.04 * np.sign(tip)),
                        (x, y + tip * 1.15),
                        (x + 0.022, y + 0.04 * np.sign(tip)),
                    ],
                    flip,
                ),
                0.001,
                smooth=False,
            )
            canvas.paint(spike, (40, 90, 210), 0.9)
        cheek = mirror([(0.3, 0.66)], flip)[0]
        canvas.paint(canvas.disc(cheek, 0.05, blur=0.003), red, 0.85)
        canvas.paint(canvas.glow((cheek[0] - 0.015, cheek[1] - 0.018), 0.02), WHITE, 0.45)
    canvas.paint(canvas.glow((0.51, 0.66), 0.064), BLACK, 0.35)
    canvas.ball((0.5, 0.615), 0.064, red)


def _wrinkles(canvas: Canvas, look: Look, rng: np.random.Generator) -> None:
    for y, wide in ((0.2, 0.11), (0.245, 0.14), (0.29, 0.12)):
        canvas.paint(
            canvas.line(
                [
                    (0.5 - wide, y + 0.008),
                    (0.47, y - 0.004),
                    (0.53, y + 0.004),
                    (0.5 + wide, y + 0.006),
                ],
                0.007,
                0.002,
            ),
            look.shadow,
            0.7,
        )
    for flip in (False, True):
        for dy in (-0.02, 0.01, 0.04):
            crow = mirror(
                [(0.3, 0.485 + dy * 0.3), (0.275, 0.485 + dy), (0.26, 0.485 + 1.4 * dy)], flip
            )
            canvas.paint(canvas.line(crow, 0.006, 0.001), look.shadow, 0.75)
        bag = mirror([(0.33, 0.53), (0.38, 0.55), (0.43, 0.53)], flip)
        canvas.paint(canvas.line(bag, 0.009, 0.002), look.shadow, 0.6)
        canvas.paint(
            canvas.line(mirror([(0.478, 0.4), (0.472, 0.44)], flip), 0.006, 0.001), look.shadow, 0.7
        )


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
    _hair(
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
    half: list[tuple[float, float]],
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
        canvas.paint(
            rim * canvas.glow((centre[0] - 0.06, centre[1] - 0.07), 0.05), (214, 150, 100), 0.8
        )
        canvas.paint(
            canvas.line(
                mirror([(0.28, 0.475), (0.24, 0.465), (0.21, 0.46)], flip), 0.014, taper=False
            ),
            frame,
        )
    canvas.paint(canvas.line([(0.47, 0.48), (0.5, 0.465), (0.53, 0.48)], 0.012, taper=False), frame)


def _pearl(canvas: Canvas, look: Look, rng: np.random.Generator) -> None:
    canvas.ball((0.8, 0.665), 0.036, (236, 232, 226))


EXTRAS: dict[str, Painter] = {
    "freckles": _freckles,
    "clown": _clown,
    "wrinkles": _wrinkles,
    "beard": _beard,
    "moustache": _moustache,
    "glasses": _glasses,
    "pearl": _pearl,
}
