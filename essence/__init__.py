"""Essence: transfer what makes one face itself to another. Importing this loads no model and touches no device."""

from . import align, catalogue, checkpoints
from .errors import BadFile, EssenceMismatch, NoFaceFound, OversizedImage, UnreadableImage, UserError
from .images import load_image
from .methods.optimize import PRESETS, OptimizeOptions
from .methods.refine import RefineOptions
from .studio import Studio, bundled
from .studios import Studios
from .types import Essence, Source, Step

__version__ = "0.1.0"

__all__ = [
    "BadFile", "Essence", "EssenceMismatch", "NoFaceFound", "OptimizeOptions", "OversizedImage", "PRESETS", "RefineOptions", "Source",
    "Step", "Studio", "Studios", "UnreadableImage", "UserError", "align", "bundled", "catalogue", "checkpoints", "load_image",
]  # fmt: skip
