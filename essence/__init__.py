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
from .library import manifest
from .methods import METHODS, PRESETS
from .methods.base import adjusted
from .methods.optimize import OptimizeOptions
from .methods.refine import RefineOptions
from .pictures.align import Located, Nudge, Square
from .pictures.loading import load_image
from .runtime.folders import ASSETS
from .runtime.progress import ProgressBar
from .studio import Studio, bundled
from .studio_pool import StudioPool
from .values import Essence, Pictures, Source, Step, Target

__version__ = "0.1.0"

__all__ = [
    "ASSETS",
    "METHODS",
    "Located",
    "Nudge",
    "Pictures",
    "Square",
    "Target",
    "adjusted",
    "BadFile",
    "Essence",
    "EssenceMismatch",
    "NoFaceFound",
    "OptimizeOptions",
    "OversizedImage",
    "PRESETS",
    "ProgressBar",
    "RefineOptions",
    "Source",
    "Step",
    "Studio",
    "StudioPool",
    "UnreadableImage",
    "UserError",
    "bundled",
    "load_image",
    "manifest",
]
