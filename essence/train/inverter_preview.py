"""A sheet of held-out pictures through an inverter that is still being trained."""

from __future__ import annotations

import torch
from PIL import Image

from ..methods.refine import RefineOptions, refine
from ..models.model_set import ModelSet
from ..pictures.grids import grid
from ..pictures.tensors import resample, to_pil
from ..values import Source
from .common import PHOTOGRAPHS, held_out, list_pictures, load_pictures, to_float

COLUMNS = 10  # pictures on a sheet
REFINEMENT_STEPS = 25


def inversion_sheet(data: str, models: ModelSet) -> Image.Image:
    """Held-out pictures of the folder `data`, photographs first; below them the encoder's
    inversions, and those refined. Needs no image-text encoder.
    """
    paths = list_pictures(data)
    held = held_out([path.name for path in paths])
    chosen = sorted(
        (path for path in paths if path.name in held),
        key=lambda path: not path.name.startswith(PHOTOGRAPHS),
    )[:COLUMNS]
    pictures = to_float(load_pictures(chosen, models.size))
    with torch.no_grad():
        w = models.invert(resample(pictures, models.inverter.input_size, "antialias"))
        inversions = to_pil(models.images(w))
    crops = to_pil(pictures)
    encoded = [
        Source("", crop, inversion, code.cpu(), models.id)
        for crop, inversion, code in zip(crops, inversions, w, strict=True)
    ]
    options = RefineOptions(steps=REFINEMENT_STEPS, preview_every=REFINEMENT_STEPS)
    *_, last = refine(models, encoded, options)
    refined = [source.inversion for source in last.result]
    return grid([crops, inversions, refined])
