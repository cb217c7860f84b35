"""Hair and hats of the drawn faces."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from .canvas import BLACK, Canvas, mirror, mix, symmetric
from .parts import Look

Painter = Callable[[Canvas, Look, np.random.Generator], None]
Flow = Callable[[float, float], float]  # the angle of hair at a place


def falling(wave: float = 0.0) -> Flow:
    """Hair that falls from a parting at the top, outwards and then down, in waves."""

    def angle(x: float, y: float) -> float:
        out = np.clip((x - 0.5) * 3, -1, 1) * np.clip(0.75 - y, 0, 1)
        return np.pi / 2 - out + wave * np.sin(22 * y + 5 * x)

    return angle


def paint_hair(
    canvas: Canvas,
    look: Look,
    rng: np.random.Generator,
    mask: np.ndarray,
    flow: Flow,
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


def cast_shadow(canvas: Canvas, look: Look, fringe: np.ndarray) -> None:
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
    paint_hair(canvas, look, rng, mass, falling(0.5), 900, 0.3)


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
    cast_shadow(canvas, look, fringe)
    paint_hair(
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
    paint_hair(canvas, look, rng, mass, falling(), 700, 0.25)


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
    cast_shadow(canvas, look, fringe)
    paint_hair(canvas, look, rng, fringe, falling(), 700, 0.2)


def _puffs(count: int, reach: float) -> Painter:
    """Two clouds of lit balls beside the head."""

    def paint(canvas: Canvas, look: Look, rng: np.random.Generator) -> None:
        for _ in range(count):
            turn, far = rng.uniform(0, 2 * np.pi), reach * rng.uniform(0, 1) ** 0.5
            x, y = 0.12 + 0.7 * far * np.cos(turn), 0.33 + 1.5 * far * np.sin(turn)
            for flip in (False, True):
                (place,) = mirror([(x, y)], flip)
                canvas.ball(place, rng.uniform(0.025, 0.05), look.hair, look.gleam)

    return paint


def _receding_behind(canvas: Canvas, look: Look, rng: np.random.Generator) -> None:
    sides = canvas.shape(
        symmetric(
            [(0.4, 0.06), (0.27, 0.1), (0.18, 0.24), (0.165, 0.42), (0.19, 0.62), (0.3, 0.66)]
        ),
        0.004,
    )
    paint_hair(canvas, look, rng, sides, falling(0.3), 500, 0.1, dark=0.35)


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
        paint_hair(canvas, look, rng, side, falling(0.3), 220, 0.07, dark=0.35)


def _quiff_behind(canvas: Canvas, look: Look, rng: np.random.Generator) -> None:
    sides = canvas.shape(
        symmetric([(0.4, 0.04), (0.25, 0.09), (0.195, 0.25), (0.2, 0.44), (0.3, 0.45)]), 0.002
    )
    paint_hair(canvas, look, rng, sides, falling(), 300, 0.08)


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
    cast_shadow(canvas, look, top)
    paint_hair(canvas, look, rng, top, lambda x, y: -0.9 + 2.6 * x + 0.5 * (y > 0.25), 500, 0.14)


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
    cast_shadow(canvas, look, wrap)
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


# What lies behind the head, and what before it.
HAIR: dict[str, tuple[Painter, Painter]] = {
    "long": (_long_behind, _long_before),
    "bob": (_bob_behind, _bob_before),
    "puffs": (_puffs(90, reach=0.16), _puffs(34, reach=0.09)),
    "receding": (_receding_behind, _receding_before),
    "quiff": (_quiff_behind, _quiff_before),
    "turban": (_turban_behind, _turban_before),
}
