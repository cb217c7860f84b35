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
from .pictures.grids import grid as picture_grid
from .pictures.loading import load_image
from .pictures.saving import encode_picture
from .runtime.folders import ASSETS, bundled
from .runtime.progress import ProgressBar
from .studio import Studio
from .studio_pool import StudioPool
from .values import Essence, Pictures, Source, Step, Target

__version__ = "0.1.0"

__all__ = [
    "ASSETS",
    "BadFile",
    "Essence",
    "EssenceMismatch",
    "Located",
    "METHODS",
    "NoFaceFound",
    "Nudge",
    "OptimizeOptions",
    "OversizedImage",
    "PRESETS",
    "Pictures",
    "ProgressBar",
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
    "encode_picture",
    "load_image",
    "manifest",
    "picture_grid",
]
