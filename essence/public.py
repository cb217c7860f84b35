"""Where the public names of the package come from."""
# ruff: noqa: F401

from __future__ import annotations

from .errors import (
    BadFile,
    EssenceMismatch,
    NoFaceFound,
    OversizedImage,
    UnreadableImage,
    UserError,
)
from .library import manifest
from .methods import METHODS, PRESETS, instant_methods, instant_options
from .methods.base import adjusted
from .methods.imagine import ImagineOptions
from .methods.optimize_options import OptimizeOptions
from .methods.photograph import LOOKS, PhotographEdit
from .methods.refine import RefineOptions
from .models.vocabulary import notions, similar_notions, with_notion
from .pictures.align import Located, Nudge, Square
from .pictures.detail import Change
from .pictures.grids import animation as picture_animation
from .pictures.grids import grid as picture_grid
from .pictures.loading import load_image
from .pictures.metadata import xmp_packet
from .pictures.paste import paste
from .pictures.regions import REGIONS, drawn_mask
from .pictures.saving import encode_picture
from .runtime.folders import ASSETS, bundled
from .runtime.progress import ProgressBar
from .runtime.signals import stop_on_signals
from .studio import Studio
from .studio_pool import StudioPool
from .values import Essence, Pictures, Source, Step, Target
