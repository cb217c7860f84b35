"""The settings that a browser remembers and a link carries: how to learn and refine. Never
pictures.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import isfinite
from typing import Any

import gradio as gr

from essence import OptimizeOptions, RefineOptions

from .learning import CHOICES, DEFAULT

STORAGE = {
    "storage_key": "essence-settings",
    "secret": "essence",
}  # not secret: the same after a restart
# name: (lowest, highest, default)
NUMBERS = {
    "steps": (4, 1000, OptimizeOptions().steps),
    "consistency": (0.0, 2.0, OptimizeOptions().lambda_consistency),
    "seed": (0, 2**31, OptimizeOptions().seed),
    "refine": (0, 100, RefineOptions().steps),
}
NAMES = ("preset", *NUMBERS)


def checked(values: Mapping[str, Any]) -> dict[str, Any]:
    """Only what is known, inside its limits: this comes from a browser or a link."""
    clean: dict[str, Any] = {"preset": values["preset"]} if values.get("preset") in CHOICES else {}
    for name, (low, high, default) in NUMBERS.items():
        try:
            value = float(values[name])
        except (KeyError, TypeError, ValueError):
            continue
        if isfinite(value):
            clean[name] = type(default)(min(max(value, low), high))
    return clean


def restored(saved: Mapping[str, Any] | None, query: Mapping[str, Any]) -> list[Any]:
    """Values of the controls in the order of `NAMES`: the link's, else the browser's, else the
    defaults. A preset in the link brings its own steps and lambda."""
    linked, remembered = checked(query), checked(saved or {})
    preset = linked.get("preset", remembered.get("preset", DEFAULT))
    if "preset" in linked:
        remembered.pop("steps", None), remembered.pop("consistency", None)
    options = CHOICES[preset]
    defaults = {
        "preset": preset,
        "steps": options.steps,
        "consistency": getattr(options, "lambda_consistency", NUMBERS["consistency"][2]),
        "seed": NUMBERS["seed"][2],
        "refine": NUMBERS["refine"][2],
    }
    return list({**defaults, **remembered, **linked}[name] for name in NAMES)


def restore(saved: Mapping[str, Any] | None, request: gr.Request) -> list[Any]:
    """From now on they may be changed."""
    return [
        gr.update(value=value, interactive=True)
        for value in restored(saved, dict(request.query_params))
    ]


def remember(*values: Any) -> dict[str, Any]:
    """Values of the controls in the order of `NAMES`, for the browser's storage."""
    return checked(dict(zip(NAMES, values, strict=True)))
