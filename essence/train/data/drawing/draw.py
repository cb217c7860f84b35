"""Faces drawn by code: targets from outside the generator's domain, the same on every machine."""

from __future__ import annotations

import numpy as np
from PIL import Image

from ....pictures.tensors import resize
from . import parts
from .accessories import ACCESSORIES
from .canvas import Canvas
from .hair import HAIR
from .parts import Look
from .strokes import oil, pencil

DRAWN = 768  # pixels; drawn at this size, then reduced: that is the anti-aliasing

LOOKS = {
    "redhead": Look(
        skin=(252, 214, 188),
        shadow=(210, 128, 100),
        hair=(196, 62, 20),
        gleam=(255, 150, 60),
        brow=(150, 60, 24),
        iris=(64, 150, 90),
        lips=(214, 50, 60),
        smile=1.0,
        teeth=True,
        backdrop=((130, 214, 205), (28, 128, 140)),
        cloth=(250, 205, 60),
        style="long",
        extras=("freckles",),
    ),
    "clown": Look(
        skin=(250, 246, 240),
        shadow=(190, 176, 186),
        hair=(30, 96, 220),
        gleam=(120, 200, 255),
        brow=(40, 60, 180),
        iris=(60, 110, 60),
        lips=(214, 20, 40),
        smile=0.9,
        teeth=True,
        backdrop=((255, 214, 90), (236, 110, 40)),
        cloth=(230, 60, 120),
        style="puffs",
        extras=("clown",),
    ),
    "greybeard": Look(
        skin=(228, 176, 146),
        shadow=(150, 86, 70),
        hair=(205, 205, 210),
        gleam=(255, 255, 255),
        brow=(232, 232, 236),
        brow_width=0.03,
        iris=(70, 120, 170),
        lips=(176, 92, 88),
        smile=0.3,
        backdrop=((90, 110, 90), (28, 40, 36)),
        cloth=(110, 30, 34),
        style="receding",
        extras=("wrinkles", "beard"),
    ),
    "moustache": Look(
        skin=(216, 160, 120),
        shadow=(130, 74, 50),
        hair=(26, 20, 24),
        gleam=(100, 90, 104),
        brow=(22, 16, 18),
        brow_width=0.028,
        iris=(90, 60, 36),
        lips=(170, 84, 76),
        smile=0.45,
        backdrop=((236, 222, 190), (190, 150, 100)),
        cloth=(34, 60, 54),
        style="quiff",
        extras=("moustache", "glasses"),
    ),
    "pencil": Look(
        hair=(50, 40, 36),
        gleam=(140, 120, 110),
        lips=(150, 90, 90),
        smile=0.5,
        style="bob",
        backdrop=((250, 250, 250), (225, 225, 225)),
        cloth=(120, 120, 120),
    ),
    "oil": Look(
        skin=(246, 206, 160),
        shadow=(140, 70, 40),
        hair=(36, 84, 170),
        gleam=(120, 170, 230),
        iris=(90, 70, 50),
        lips=(196, 60, 56),
        smile=0.15,
        backdrop=((60, 54, 44), (14, 14, 16)),
        cloth=(170, 120, 40),
        style="turban",
        extras=("pearl",),
    ),
}
NAMES = tuple(LOOKS)


def draw_target(name: str, size: int = 256, seed: int = 0) -> Image.Image:
    """The drawing `name` (one of `NAMES`) as RGB, `size` x `size`; a seed varies its strands and
    strokes.
    """
    if name not in LOOKS:
        raise ValueError(f"unknown drawing {name!r}: {', '.join(NAMES)}")
    picture = draw_face(LOOKS[name], seed)
    if name in ("pencil", "oil"):
        picture = {"pencil": pencil, "oil": oil}[name](picture, seed)
    return resize(picture, size)


def draw_face(look: Look, seed: int = 0) -> Image.Image:
    """A cartoon of `look`, DRAWN x DRAWN, from the backdrop forward."""
    canvas, rng = Canvas(DRAWN), np.random.default_rng(seed)
    parts.backdrop(canvas, look)
    behind, before = HAIR[look.style]
    behind(canvas, look, rng)
    parts.body(canvas, look)
    head = parts.head(canvas, look)
    parts.cheeks(canvas, look, head)
    parts.nose(canvas, look)
    parts.mouth(canvas, look)
    for flip in (False, True):
        parts.eye(canvas, look, flip)
    before(canvas, look, rng)
    for extra in look.extras:
        ACCESSORIES[extra](canvas, look, rng)
    return canvas.image()
