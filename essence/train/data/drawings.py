"""Pictures that are no photographs: training pictures painted or sketched by the project's own
strokes, and faces drawn at random.
"""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..face_landmarks import SIDE
from .drawing.canvas import Colour
from .drawing.draw import draw_face
from .drawing.parts import Look
from .drawing.strokes import oil, pencil

STROKES_SIDE = 256  # pixels that strokes are laid on
HAIR: dict[str, Colour] = {
    "black": (26, 20, 24),
    "brown": (96, 58, 34),
    "blond": (226, 188, 110),
    "red": (196, 62, 20),
    "grey": (196, 196, 200),
}
SKINS: tuple[tuple[Colour, Colour], ...] = (
    ((252, 214, 188), (210, 128, 100)),
    ((240, 196, 165), (176, 104, 82)),
    ((216, 160, 120), (130, 74, 50)),
    ((160, 104, 72), (90, 50, 34)),
    ((104, 66, 48), (52, 30, 24)),
)


def painted(pictures: Tensor, seed: int = 0) -> Tensor:
    """uint8 [N, 3, 128, 128], every second one in oil, the others in pencil."""
    found = []
    for i, picture in enumerate(pictures):
        image = Image.fromarray(picture.permute(1, 2, 0).numpy())
        image = image.resize((STROKES_SIDE, STROKES_SIDE), Image.Resampling.BICUBIC)
        found.append(_reduced((oil, pencil)[i % 2](image, seed + i)))
    return torch.stack(found)


def cartoons(count: int) -> Tensor:
    """uint8 [N, 3, 128, 128]: faces drawn at random, a third of them painted over."""
    found = []
    for seed in range(count):
        picture = draw_face(random_look(seed)[0], seed)
        if seed % 3 == 0:
            picture = (oil, pencil)[seed // 3 % 2](picture, seed)
        found.append(_reduced(picture))
    return torch.stack(found)


def random_look(seed: int) -> tuple[Look, dict[str, str]]:
    """The face of a cartoon, and what a label file would say of it."""
    rng = np.random.default_rng(seed)
    style = str(rng.choice(["long", "bob", "receding", "quiff", "turban"]))
    manly = style in ("receding", "quiff")
    beard, glasses = manly and rng.random() < 0.4, rng.random() < 0.3
    moustache = manly and (beard or rng.random() < 0.3)
    extras = [
        name
        for name, there in (
            ("beard", beard),
            ("moustache", moustache and not beard),
            ("glasses", glasses),
            ("freckles", rng.random() < 0.15),
            ("wrinkles", rng.random() < 0.2),
        )
        if there
    ]
    name = str(rng.choice(list(HAIR)))
    hair = HAIR[name] if style != "turban" else _colour(rng)
    skin, shadow = SKINS[rng.integers(len(SKINS))]
    backdrop = _colour(rng)
    look = Look(
        skin=skin,
        shadow=shadow,
        hair=hair,
        gleam=_towards(hair, 255, 0.4),
        brow=_towards(HAIR[name], 0, 0.3),
        iris=_colour(rng),
        lips=(190 + int(rng.integers(40)), 50 + int(rng.integers(60)), 70),
        smile=float(rng.random()),
        teeth=bool(rng.random() < 0.3),
        backdrop=(_towards(backdrop, 255, 0.4), backdrop),
        cloth=_colour(rng),
        style=style,
        extras=tuple(extras),
    )
    yes = {True: "yes", False: "no"}
    known = {"drawing": "yes", "glasses": yes[glasses], "sunglasses": "no"}
    known |= {"beard": yes[beard], "moustache": yes[moustache], "headscarf": "no"}
    known |= {"hat": yes[style == "turban"]}
    return look, known | ({"hair": name} if style in ("long", "bob", "quiff") else {})


def _colour(rng: np.random.Generator) -> Colour:
    red, green, blue = rng.integers(20, 240, 3).tolist()
    return red, green, blue


def _towards(colour: Colour, end: int, share: float) -> Colour:
    red, green, blue = (round(c + (end - c) * share) for c in colour)
    return red, green, blue


def _reduced(image: Image.Image) -> Tensor:
    image = image.resize((SIDE, SIDE), Image.Resampling.LANCZOS)
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)
