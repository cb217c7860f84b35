"""Pictures through an inverter that is still being trained: its own answer, that refined, and a
sheet of both.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from PIL import Image
from torch import Tensor

from ..methods.refine import RefineOptions, refine
from ..models.identity import face_descriptor
from ..models.latents import LatentAxes
from ..models.model_set import ModelSet
from ..ops import bfloat16_pays
from ..pictures.grids import grid
from ..pictures.tensors import resample, to_pil
from ..values import Source


def working_set(
    generator: torch.nn.Module, inverter: torch.nn.Module, latents: LatentAxes
) -> ModelSet:
    """A model set without image-text encoder, which inversion does not need."""
    return ModelSet(
        "training",
        "training",
        generator,
        inverter,
        None,
        face_descriptor(),
        latents,
        bfloat16_pays("cpu"),
    )


@torch.no_grad()
def invert(models: ModelSet, pictures: Tensor) -> list[Source]:
    """Pictures [N, 3, H, W] in [-1, 1] through the encoder alone."""
    sources = []
    for part in pictures.split(16):
        w = models.invert(resample(part, models.inverter.input_size, "antialias"))
        images = models.images(w)
        for crop, image, code in zip(part, images, w, strict=True):
            sources.append(Source("", to_pil(crop), to_pil(image), code.cpu(), models.id))
    return sources


def refined(models: ModelSet, source: Source, marks: Sequence[int]) -> list[Source]:
    """The source after each of the given numbers of refinement steps, from one run of the
    longest.
    """
    options = RefineOptions(steps=max(marks), preview_every=max(marks))
    return [step.result[0] for step in refine(models, [source], options) if step.index in marks]


def sheet(pictures: Tensor, *rows: Sequence[Source]) -> Image.Image:
    """Crops above, then one row for each stage."""
    return grid(
        [
            [to_pil(picture) for picture in pictures],
            *[[source.inversion for source in row] for row in rows],
        ]
    )
