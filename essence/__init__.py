"""Essence: transfer what makes one face itself to another. Importing this loads no model and
touches no device.
"""
# ruff: noqa: F403, F405

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .public import *

__version__ = "0.1.0"


__all__ = [
    "ASSETS",
    "BadFile",
    "Change",
    "Essence",
    "EssenceMismatch",
    "ImagineOptions",
    "LOOKS",
    "Located",
    "METHODS",
    "NoFaceFound",
    "Nudge",
    "OptimizeOptions",
    "OversizedImage",
    "PRESETS",
    "PhotographEdit",
    "Pictures",
    "ProgressBar",
    "REGIONS",
    "RefineOptions",
    "Source",
    "Square",
    "Step",
    "Studio",
    "StudioPool",
    "Target",
    "UnreadableImage",
    "UserError",
    "adjusted",
    "bundled",
    "drawn_mask",
    "encode_picture",
    "instant_methods",
    "instant_options",
    "load_image",
    "manifest",
    "notions",
    "paste",
    "picture_animation",
    "picture_grid",
    "similar_notions",
    "stop_on_signals",
    "with_notion",
    "xmp_packet",
]


def __getattr__(name: str) -> Any:
    """A public name, imported when it is first asked for: torch takes a second or more, and Ctrl-C
    is to be answered before (see `__main__`).
    """
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(".public", __name__), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
