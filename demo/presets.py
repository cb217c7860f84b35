"""How to learn, in words: the presets that the page and its endpoints offer, built from those of
all methods.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from essence import METHODS, PRESETS, OptimizeOptions, adjusted

DEFAULT = "balanced"
# Presets that begin at the essence that was made at once; the others where they were published to.
PATIENT = ("quick", DEFAULT, "thorough")
LABELS = {"paper": "as in the paper", "released": "as released"}  # other names speak for themselves


def presets() -> dict[str, Any]:
    """Options by name: "essence" with more or less patience, then every other preset that works
    with all models.
    """
    essence = PRESETS["essence"]
    steps = zip(PATIENT, (40, essence.steps, 300), strict=True)
    patience = {name: dataclasses.replace(essence, steps=count) for name, count in steps}
    anywhere = [
        method.presets for method in METHODS.values() if not (method.needs or method.baseline)
    ]
    others = {name for presets in anywhere for name in presets} - {"essence"}
    return patience | {name: options for name, options in PRESETS.items() if name in others}


def preset_values(preset: str) -> tuple[int, float, float]:
    """Steps, lambda_consistency and lambda_identity of a preset, for the controls; methods without
    a lambda leave its control as it is by default.
    """
    options, default = presets()[preset], OptimizeOptions()
    weights = (
        getattr(options, name, getattr(default, name))
        for name in ("lambda_consistency", "lambda_identity")
    )
    return options.steps, *weights


def options_of(
    preset: str,
    steps: float,
    seed: float | None,
    consistency: float,
    identity: float,
    starts: float = 1,
) -> Any:
    """A preset with the visitor's changes; a picture after every step, because somebody is
    watching.
    """
    return adjusted(
        presets()[preset],
        steps=int(steps),
        seed=int(seed or 0),
        lambda_consistency=float(consistency),
        lambda_identity=float(identity),
        starts=int(starts),
        preview_every=1,
    )
