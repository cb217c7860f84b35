"""A sheet of held-out pictures through an inverter that is still being trained."""

from __future__ import annotations

import torch
from PIL import Image

from ..methods.refine import RefineOptions, refine
from ..models.e4e import Inverter
from ..models.identity import face_descriptor
from ..models.latents import LatentAxes
from ..models.model_set import ModelSet
from ..models.stylegan2 import Generator
from ..ops import bfloat16_pays
from ..pictures.grids import grid
from ..pictures.tensors import resample, to_pil
from ..values import Source
from .common import PHOTOGRAPHS, held_out, list_pictures, load_pictures, to_float

COLUMNS = 10  # pictures on a sheet
REFINEMENT_STEPS = 25


def inversion_sheet(
    data: str, generator: Generator, inverter: Inverter, axes: LatentAxes
) -> Image.Image:
    """Held-out pictures of the folder `data`, photographs first; below them the encoder's
    inversions, and those refined. The networks are on the CPU.
    """
    paths = list_pictures(data)
    held = held_out([path.name for path in paths])
    chosen = sorted(
        (path for path in paths if path.name in held),
        key=lambda path: not path.name.startswith(PHOTOGRAPHS),
    )[:COLUMNS]
    pictures = to_float(load_pictures(chosen, generator.config.size))
    # Without an image-text encoder, which inversion does not need.
    models = ModelSet(
        name="training",
        id="training",
        generator=generator,
        inverter=inverter,
        clip=None,
        identity=face_descriptor(),
        latents=axes,
        half=bfloat16_pays("cpu"),
    )
    with torch.no_grad():
        w = models.invert(resample(pictures, inverter.input_size, "antialias"))
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
