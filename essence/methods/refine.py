"""Refinement: a few optimisation steps that bring an inversion closer to its photograph
(docs/METHOD.md, section 8).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import UserError
from ..models.identity import face_chip
from ..models.latents import LatentAxes
from ..models.model_set import ModelSet
from ..pictures.tensors import resample, to_pil, to_tensor, to_uint8
from ..values import Source, Step
from . import losses


@dataclass(frozen=True)
class RefineOptions:
    steps: int = 25  # 0: the inverter alone
    learning_rate: float = 0.05  # of u, shared by the layers, in standard deviations
    layer_learning_rate: float = 0.03  # of v, for each layer
    pixels: float = 3.0  # weight of the mean absolute difference
    care: float = 8.0  # how much more the pixels of eyes and mouth count in aligned faces
    # weight of the colour of eyes and mouth, in patches: teeth are too few pixels for the others to
    # keep white
    chroma: float = 6.0
    features: float = (
        1.0  # of the face network's maps of the inner face, relative, averaged over its stages
    )
    descriptor: float = 1.5  # of the squared distance between descriptors
    penalty: float = 0.002  # on |u|^2 + layer_penalty * mean |v|^2
    layer_penalty: float = 6.0
    preview_every: int = 5

    def __post_init__(self) -> None:
        if self.steps < 0:
            raise UserError(
                f"The number of refinement steps must be zero or more, not {self.steps}."
            )


def refine(
    models: ModelSet, sources: Sequence[Source], options: RefineOptions = RefineOptions()
) -> Iterator[Step]:  # noqa: B008 - frozen
    """Move each source's w so that G(w) comes closer to its crop. Yields a `Step` after each step;
    its `result` is a tuple with the best of each `Source` so far, its losses are means over them.
    None influences another: together they only take less time.

    It begins at the layers' mean plus `models.deltas` of what each differs from it: differences
    that an inverter has found to meet pixels lead out of what the generator draws sharply (e4e,
    section 3: distortion against editability); those that matter it finds again.
    """
    photos = torch.cat(
        [
            resample(to_tensor(source.crop).to(models.device), models.size, "antialias")
            for source in sources
        ]
    )
    with torch.no_grad():
        faces = _faces(models, photos)
    weight = losses.care(models.size, options.care if faces else 0.0).to(photos)
    latents = models.latents or _round_axes(models)
    w = torch.stack([source.w for source in sources]).to(models.device)  # [N, L, D]
    w = torch.lerp(w.mean(1, keepdim=True), w, models.deltas)
    u = torch.zeros(len(w), 1, len(latents.axes), device=w.device, requires_grad=True)
    v = torch.zeros(len(w), w.shape[1], len(latents.axes), device=w.device, requires_grad=True)
    optimizer = torch.optim.Adam(
        [
            {"params": [u], "lr": options.learning_rate},
            {"params": [v], "lr": options.layer_learning_rate},
        ]
    )
    best, best_losses = list(sources), [math.inf] * len(w)

    for i in range(options.steps):
        moved = w + latents.shift(u, v)
        images = models.images(moved)
        with models.precision():
            terms = _losses(models, images, photos, faces, weight)  # [N] each
        own = v.square().sum(2).mean(1)
        total = sum(getattr(options, key) * term for key, term in terms.items())
        total = total + options.penalty * (u.square().sum((1, 2)) + options.layer_penalty * own)
        optimizer.zero_grad(set_to_none=True)
        total.sum().backward()
        optimizer.step()
        for n, loss in enumerate(total.tolist()):
            if loss < best_losses[n]:
                best_losses[n] = loss
                best[n] = dataclasses.replace(
                    sources[n], w=moved[n].detach().cpu(), inversion=to_pil(images[n].detach())
                )
        values = {"total": total.mean().item()} | {
            key: term.mean().item() for key, term in terms.items()
        }
        shown = i % options.preview_every == 0 or i + 1 == options.steps
        preview = to_uint8(images.detach()) if shown else None
        del moved, images, terms, own, total
        yield Step(i + 1, options.steps, tuple(best), values, preview)


def _faces(models: ModelSet, photos: Tensor) -> tuple[list[Tensor], Tensor] | None:
    """What the face network sees of the inner faces: its maps and the descriptors. None where the
    models make no faces.
    """
    if models.identity is None:
        return None
    maps = models.identity.features(face_chip(photos))
    return maps, models.identity.describe(maps)


def _losses(
    models: ModelSet,
    images: Tensor,
    photos: Tensor,
    faces: tuple[list[Tensor], Tensor] | None,
    weight: Tensor,
) -> dict[str, Tensor]:
    """The terms of each picture, [N]."""
    pixels = {
        "pixels": _mean((images - photos).abs() * weight),
        "chroma": _chroma(images - photos, weight),
    }
    if models.identity is None or faces is None:
        return pixels
    ours, (maps, descriptors) = models.identity.features(face_chip(images)), faces
    relative = [_mean((a - b).abs()) / _mean(b.abs()) for a, b in zip(ours, maps, strict=True)]
    difference = models.identity.describe(ours) - descriptors
    return pixels | {
        "features": torch.stack(relative).mean(0),
        "descriptor": difference.square().sum(1),
    }


def _chroma(difference: Tensor, weight: Tensor) -> Tensor:
    """Mean absolute difference in R - G and R - B of patches, a thirty-second of the side, where
    `weight` exceeds 1.
    """
    red, green, blue = difference.unbind(1)
    patch = max(1, difference.shape[-1] // 32)
    colour = F.avg_pool2d(torch.stack([red - green, red - blue], 1), patch)
    return _mean(colour.abs() * F.avg_pool2d(weight - 1, patch))


def _mean(x: Tensor) -> Tensor:
    """Over all of each picture: [N, ...] to [N]."""
    return x.flatten(1).mean(1)


def _round_axes(models: ModelSet) -> LatentAxes:
    """Where a model set brings no statistics: all coordinates alike, with the mean deviation of w
    from a small sample.
    """
    mean = models.generator.latent_avg.mean(0)
    z = torch.randn(1024, len(mean), generator=torch.Generator().manual_seed(0)).to(mean)
    with torch.no_grad():
        spread = (models.generator.mapping(z) - mean).std()
    return LatentAxes(mean, spread * torch.eye(len(mean), device=mean.device))
