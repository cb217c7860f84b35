"""The settings that a browser remembers and a link carries: how to learn and refine. Never
pictures.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import isfinite
from typing import Any

import gradio as gr

from essence import OptimizeOptions, RefineOptions

from .events import NOW, Components, Page
from .messages import inform
from .presets import DEFAULT, preset_values, presets

# The secret is none: what is stored can be read after a restart.
STORAGE = {"storage_key": "essence-settings", "secret": "essence"}
OF_PRESET = ("steps", "consistency", "identity")  # a preset brings its own
NAMES = ("preset", *OF_PRESET, "starts", "seed", "refine")
MOST_STARTS = 6
FEWEST_STEPS = 4  # unless a preset has fewer
LINK_JS = f"(...values) => {{ essence.link({list(NAMES)}, values); }}"


def connect(page: Page, browser: gr.BrowserState, parts: Components) -> None:
    """`parts`: the controls by `NAMES`, and the button "link"."""
    controls = [parts[name] for name in NAMES]
    remember_all = {"fn": remember, "inputs": controls, "outputs": browser, **NOW}
    page.blocks.load(restore, browser, controls, **NOW)
    preset, *others = controls
    chosen = preset.input(preset_values, preset, [parts[name] for name in OF_PRESET], **NOW)
    chosen.then(**remember_all)
    gr.on([control.input for control in others], trigger_mode="always_last", **remember_all)
    parts["link"].click(tell_link, None, None, **NOW)
    parts["link"].click(None, controls, None, js=LINK_JS, **NOW)


def limits() -> dict[str, tuple[float, float, float]]:
    """(lowest, highest, default) of each number among `NAMES`."""
    defaults = OptimizeOptions()
    fewest = min(FEWEST_STEPS, *(options.steps for options in presets().values()))
    return {
        "steps": (fewest, 1000, defaults.steps),
        "consistency": (0.0, 2.0, defaults.lambda_consistency),
        "identity": (0.0, 3.0, defaults.lambda_identity),
        "starts": (1, MOST_STARTS, defaults.starts),
        "seed": (0, 2**31, defaults.seed),
        "refine": (0, 100, RefineOptions().steps),
    }


def tell_link() -> None:
    inform("The address bar and the clipboard hold a link to these settings.")


def checked(values: Mapping[str, Any]) -> dict[str, Any]:
    """Only what is known, inside its limits: this comes from a browser or a link."""
    clean: dict[str, Any] = {}
    if values.get("preset") in presets():
        clean["preset"] = values["preset"]
    for name, (low, high, default) in limits().items():
        try:
            value = float(values[name])
        except (KeyError, TypeError, ValueError):
            continue
        if isfinite(value):
            clean[name] = type(default)(min(max(value, low), high))
    return clean


def restored(saved: Mapping[str, Any] | None, query: Mapping[str, Any]) -> list[Any]:
    """Values of the controls in the order of `NAMES`: the link's, else the browser's, else the
    defaults. A preset in the link brings its own steps and lambdas.
    """
    linked, remembered = checked(query), checked(saved or {})
    preset = linked.get("preset", remembered.get("preset", DEFAULT))
    if "preset" in linked:
        remembered = {k: value for k, value in remembered.items() if k not in OF_PRESET}
    values: dict[str, Any] = {name: default for name, (_, _, default) in limits().items()}
    values["preset"] = preset
    values |= dict(zip(OF_PRESET, preset_values(preset), strict=True))
    values |= remembered | linked
    return [values[name] for name in NAMES]


def restore(saved: Mapping[str, Any] | None, request: gr.Request) -> list[Any]:
    """From now on they may be changed."""
    values = restored(saved, dict(request.query_params))
    return [gr.update(value=value, interactive=True) for value in values]


def remember(*values: Any) -> dict[str, Any]:
    """Values of the controls in the order of `NAMES`, for the browser's storage."""
    return checked(dict(zip(NAMES, values, strict=True)))
