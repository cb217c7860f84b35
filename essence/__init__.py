"""Essence: transfer what makes one face itself to another. Importing this loads no model and
touches no device.
"""

from .errors import (
    BadFile,
    EssenceMismatch,
    NoFaceFound,
    OversizedImage,
    UnreadableImage,
    UserError,
)
from .library import checkpoints, manifest
from .methods.optimize import PRESETS, OptimizeOptions
from .methods.refine import RefineOptions
from .pictures import align
from .pictures.loading import load_image
from .runtime.folders import ASSETS
from .studio import Studio, bundled
from .studio_pool import Studios
from .values import Essence, Source, Step

__version__ = "0.1.0"

__all__ = [
    "ASSETS",
    "BadFile",
    "Essence",
    "EssenceMismatch",
    "NoFaceFound",
    "OptimizeOptions",
    "OversizedImage",
    "PRESETS",
    "RefineOptions",
    "Source",
    "Step",
    "Studio",
    "Studios",
    "UnreadableImage",
    "UserError",
    "align",
    "bundled",
    "checkpoints",
    "load_image",
    "manifest",
]
