"""Inversion: an aligned picture to w+, by the e4e encoder, or CLIP and the mapper, and some steps
of refinement.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from PIL import Image

from ..models.model_set import ModelSet
from ..pictures.tensors import resample, to_tensor
from ..values import Source, Step
from .map import mapper_of
from .refine import RefineOptions, refine


def invert(
    models: ModelSet,
    crops: Sequence[Image.Image],
    names: Sequence[str],
    options: RefineOptions = RefineOptions(),  # noqa: B008 - frozen
) -> Iterator[Step]:
    """Invert several pictures together, which takes less time than one after another. The first
    `Step` is the encoder's answer, then comes one for each refinement; `result` is a tuple of the
    `Source`s, `preview` shows all of them.

    More than the device takes at once go in batches. Latents are cached by the pictures' content:
    what was inverted before with the same options needs no further step.
    """
    keys = [("inversion", content_hash(crop), options) for crop in crops]
    cached = [models.lookup(key) for key in keys]
    found = [
        bare_source(models, encode(models, crop, options) if w is None else w, name, crop)
        for w, name, crop in zip(cached, names, crops, strict=True)
    ]
    new = [i for i, w in enumerate(cached) if w is None]
    for i, w in enumerate(cached):
        if w is not None or options.steps == 0:  # refinement moves the others first
            found[i] = with_fine_picture(models, found[i])
    batches = [new[i : i + models.render_batch] for i in range(0, len(new), models.render_batch)]
    index, total = 1, 1 + options.steps * len(batches)
    difference = float(np.mean([mean_difference(source) for source in found]))
    yield Step(index, total, tuple(found), {"total": difference}, inversions(found))
    for batch in batches:
        for step in refine(models, [found[i] for i in batch], options):
            for i, source in zip(batch, step.result, strict=True):
                found[i] = source
            index += 1
            if step.index == step.total:
                for i in batch:
                    found[i] = with_fine_picture(models, found[i])
            preview = None if step.preview is None else inversions(found)
            yield Step(index, total, tuple(found), step.losses, preview)
        for i in batch:
            models.store(keys[i], found[i].w)


@torch.no_grad()
def encode(models: ModelSet, crop: Image.Image, options: RefineOptions) -> torch.Tensor:
    """w+ [L, D] of an aligned picture by `options.inverter`. Raises UserError for "clip" without a
    mapper.
    """
    picture = to_tensor(crop).to(models.device)
    if options.inverter == "clip":
        mapper = mapper_of(models)
        w = models.generator.latent_avg.mean(0) + mapper(mapper.residual(models.encode(picture)))
        return models.generator.repeat(w)[0]
    return models.invert(resample(picture, models.inverter.input_size, "antialias"))[0]


def source_of(
    models: ModelSet, w: torch.Tensor, name: str, crop: Image.Image | None = None
) -> Source:
    """A source from its latents [L, D]; without a crop its picture is what the generator makes."""
    return with_fine_picture(models, bare_source(models, w, name, crop))


def bare_source(
    models: ModelSet, w: torch.Tensor, name: str, crop: Image.Image | None = None
) -> Source:
    """The same without the finer level's picture."""
    inversion = Image.fromarray(models.render(w[None])[0])
    return Source(name, crop or inversion, inversion, w.detach().float().cpu(), models.id)


def with_fine_picture(models: ModelSet, source: Source) -> Source:
    """With what the finer level makes of its latents, where there is one."""
    if models.finest == models.size:
        return source
    fine = Image.fromarray(models.render(source.w[None], models.finest)[0])
    return dataclasses.replace(source, fine=fine)


def inversions(sources: Sequence[Source]) -> np.ndarray:
    """The sources' inversions, uint8 [N, H, W, 3]."""
    return np.stack([np.asarray(source.inversion) for source in sources])


def mean_difference(source: Source) -> float:
    """Mean absolute difference of a crop and its inversion, in [0, 1]."""
    side = source.inversion.width
    return (to_tensor(source.crop, side) - to_tensor(source.inversion)).abs().mean().item() / 2


def content_hash(picture: Image.Image) -> bytes:
    """The same for the same pixels; the picture cannot be recovered from it."""
    return hashlib.sha256(f"{picture.mode} {picture.size}".encode() + picture.tobytes()).digest()
