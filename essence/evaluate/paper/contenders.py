"""What is compared with what, and how much of it is computed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ...methods import METHODS, PRESETS, instant_methods
from ...methods.base import adjusted
from ...methods.style_transfer import network_name
from ...studio import Studio

STRENGTHS = (0.0, 0.5, 1.0, 1.5, 2.0)
# Of methods for which more than all is nonsense: a cross-fade, another's layers.
SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)


@dataclass(frozen=True)
class Scale:
    """How much is computed."""

    targets: int = 20
    sources: int = 20
    learned_on: int = 4
    steps: int = 100  # of the methods that learn
    clip_blend_steps: int = 40
    refinement: int = 25
    gatys_steps: int = 20
    gatys_sources: int = 8
    reference: int = 800  # samples of the generator for KID and FID
    persons: int = 10  # of whom two pictures are targets
    ablation_targets: int = 2
    ablation_sources: int = 12
    ablation_steps: int = 50
    ablation_values: int = 3  # of each option


WHOLE = Scale()
QUICK = Scale(4, 6, 4, 40, 20, 10, 12, 3, 60, 4, 1, 6, 20, 2)


@dataclass(frozen=True)
class Contender:
    """A way to edit, as the report names it."""

    name: str
    options: Any
    strengths: tuple[float, ...] = STRENGTHS
    sources: int | None = None  # at most so many; None: all
    learned_on: int | None = None  # sources to learn on; None: as many as the scale says
    note: str = ""

    @property
    def one(self) -> int:
        """The place of strength 1."""
        return self.strengths.index(1.0)


def contenders(studio: Studio, scale: Scale) -> list[Contender]:
    """Ours first, then every method that these models bear and the paper's rivals."""
    models, steps = studio.models, scale.steps
    found = [Contender("ours", adjusted(PRESETS["essence"], steps=steps))]
    for name in instant_methods(models):
        found.append(Contender(name, METHODS[name].options, note=METHODS[name].title))
    gatys = adjusted(PRESETS["gatys"], steps=scale.gatys_steps, preview_every=scale.gatys_steps)
    clip_blend = adjusted(
        PRESETS["clip-blend"], steps=scale.clip_blend_steps, preview_every=scale.clip_blend_steps
    )
    refined = {"steps": scale.refinement, "preview_every": scale.refinement}
    return [
        *found,
        Contender("released", adjusted(PRESETS["released"], steps=steps, preview_every=steps)),
        Contender("StyleGAN blend", adjusted(PRESETS["blend"], **refined)),
        Contender("CLIP blend", clip_blend),
        Contender("style mixing", adjusted(PRESETS["mixing"], **refined), SHARES),
        Contender(f"Gatys ({network_name()})", gatys, SHARES, scale.gatys_sources),
    ]
