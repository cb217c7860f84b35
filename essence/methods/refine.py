"""Refinement: a few optimisation steps that bring an inversion closer to its photograph
(docs/METHOD.md, section 8).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from ..errors import UserError
from ..models.identity import face_chip
from ..models.latents import LatentAxes
from ..models.model_set import ModelSet
from ..pictures.tensors import resample, to_tensor, to_uint8
from ..runtime.cuda_graphs import WORTH_CAPTURING, RecordedStep
from ..values import Source, Step
from . import losses
from .descent import Descent

INVERTERS = ("e4e", "clip")


@dataclass(frozen=True)
class RefineOptions:
    steps: int = 50  # 0: the inverter alone
    # What refinement begins with: the e4e encoder's answer, or the mapper's, which sees of a
    # picture what its CLIP embedding says.
    inverter: str = "e4e"
    learning_rate: float = 0.12  # of u, shared by the layers, in standard deviations
    layer_learning_rate: float = 0.07  # of v, for each layer
    pixels: float = 8.0  # weight of the mean absolute difference
    care: float = 8.0  # how much more the pixels of eyes and mouth count in aligned faces
    # Weight of the colour of eyes and mouth, in patches: teeth are too few pixels for the other
    # terms to keep them white.
    chroma: float = 6.0
    # Of the face network's maps, relative, averaged over its stages: of the inner face, and of the
    # whole crop, which sharpens hair, ears and clothes.
    features: float = 1.0
    surroundings: float = 2.0
    descriptor: float = 1.5  # of the squared distance between descriptors
    penalty: float = 0.0005  # on |u|^2 + layer_penalty * mean |v|^2
    layer_penalty: float = 3.0
    preview_every: int = 5

    def __post_init__(self) -> None:
        if self.inverter not in INVERTERS:
            raise UserError(
                f"inverter must be one of {', '.join(INVERTERS)}, not '{self.inverter}'."
            )
        if self.steps < 0:
            raise UserError(
                f"The number of refinement steps must be zero or more, not {self.steps}."
            )


def refine(
    models: ModelSet,
    sources: Sequence[Source],
    options: RefineOptions = RefineOptions(),  # noqa: B008 - frozen
) -> Iterator[Step]:
    """Move each source's w so that G(w) comes closer to its crop. Yields a `Step` after each step;
    `result` is a tuple with the best of each `Source` so far, losses are means over them. Sources
    do not influence each other: together they only take less time.

    It starts at the layers' mean plus `models.deltas` of what each layer differs from it:
    differences that an encoder found to meet pixels lead out of what the generator draws sharply
    (e4e, section 3: distortion against editability), and those that matter are found again.
    """
    side, device = models.size, models.device
    # One after the other: at their own resolution they would be the largest tensors here.
    photos = torch.cat(
        [resample(to_tensor(source.crop).to(device), side, "antialias") for source in sources]
    )
    with torch.no_grad():
        faces = face_features(models, photos)
    weight = losses.care(side, options.care if faces else 0.0).to(photos)
    axes = models.latents or round_axes(models)
    w = torch.stack([source.w for source in sources]).to(device)  # [N, L, D]
    w = torch.lerp(w.mean(1, keepdim=True), w, models.deltas)
    u = torch.zeros(len(w), 1, len(axes.axes), device=device, requires_grad=True)
    v = torch.zeros(len(w), w.shape[1], len(axes.axes), device=device, requires_grad=True)
    groups = [
        {"params": [u], "lr": options.learning_rate},
        {"params": [v], "lr": options.layer_learning_rate},
    ]
    descend = Descent(groups, options.steps, lambda i: 1.0)

    def evaluate(_: int) -> dict[str, Tensor]:
        refined = w + axes.shift(u, v)
        images = models.images(refined)
        with models.precision():
            terms = reconstruction_losses(models, images, photos, faces, weight)  # [N] each
        total = sum(getattr(options, name) * term for name, term in terms.items())
        total = total + options.penalty * losses.deviation(u, v, options.layer_penalty)
        descend(torch.autograd.grad(total.sum(), [u, v]))
        found = {"w": refined, "images": images, "losses": torch.stack([total, *terms.values()])}
        return {name: value.detach() for name, value in found.items()}

    capture = device.type == "cuda" and options.steps >= WORTH_CAPTURING
    step = RecordedStep(evaluate, descend.state, len(w), None, capture)
    names = ["total", "pixels", "chroma"]
    names += ["features", "surroundings", "descriptor"] if faces else []
    best, lowest = list(sources), [math.inf] * len(w)

    for i in range(options.steps):
        found = step()
        losses_now = found["losses"].cpu()  # [terms, N]
        better = [n for n, loss in enumerate(losses_now[0].tolist()) if loss < lowest[n]]
        shown = i % options.preview_every == 0 or i + 1 == options.steps
        preview = to_uint8(found["images"]) if shown or better else None
        latents = found["w"].to("cpu", copy=True) if better else None
        for n in better:
            lowest[n] = losses_now[0, n].item()
            picture = Image.fromarray(preview[n])
            best[n] = dataclasses.replace(
                sources[n], w=latents[n].clone(), inversion=picture, fine=None
            )
        means = dict(zip(names, losses_now.mean(1).tolist(), strict=True))
        del found  # nothing of the step outlives it while the caller has us
        yield Step(i + 1, options.steps, tuple(best), means, preview if shown else None)


class FaceFeatures(NamedTuple):
    """What the face network says of pictures."""

    inner: list[Tensor]  # maps of the inner faces, the finest first
    whole: list[Tensor]  # of the whole crops
    descriptors: Tensor  # [N, 128]


def face_features(models: ModelSet, images: Tensor) -> FaceFeatures | None:
    """Of aligned pictures [N, 3, S, S]. None where the models make no faces."""
    network = models.identity
    if network is None:
        return None
    inner = network.features(face_chip(images))
    return FaceFeatures(inner, network.features(images), network.describe(inner))


def reconstruction_losses(
    models: ModelSet, images: Tensor, photos: Tensor, faces: FaceFeatures | None, weight: Tensor
) -> dict[str, Tensor]:
    """The terms of each picture, [N]: `images` against `photos` [N, 3, S, S] and their `faces`."""
    pixels = ((images - photos).abs() * weight).mean((1, 2, 3))
    terms = {"pixels": pixels, "chroma": chroma(images - photos, weight)}
    if faces is None:
        return terms
    made = face_features(models, images)
    terms["features"] = relative_difference(made.inner, faces.inner)
    terms["surroundings"] = relative_difference(made.whole, faces.whole)
    terms["descriptor"] = (made.descriptors - faces.descriptors).square().sum(1)
    return terms


def relative_difference(maps: Sequence[Tensor], goals: Sequence[Tensor]) -> Tensor:
    """Mean absolute difference relative to the goal's mean, averaged over the stages; [N]."""
    relative = [
        (a - b).abs().mean((1, 2, 3)) / b.abs().mean((1, 2, 3))
        for a, b in zip(maps, goals, strict=True)
    ]
    return torch.stack(relative).mean(0)


def chroma(difference: Tensor, weight: Tensor) -> Tensor:
    """Mean absolute difference in R - G and R - B of patches, a thirty-second of the side, where
    `weight` exceeds 1; [N].
    """
    red, green, blue = difference.unbind(1)
    patch = max(1, difference.shape[-1] // 32)
    colour = F.avg_pool2d(torch.stack([red - green, red - blue], 1), patch)
    return (colour.abs() * F.avg_pool2d(weight - 1, patch)).mean((1, 2, 3))


def round_axes(models: ModelSet) -> LatentAxes:
    """Axes where a model set brings no statistics: all coordinates alike, with the mean deviation
    of w from a small sample.
    """
    mean = models.generator.latent_avg.mean(0)
    z = torch.randn(1024, len(mean), generator=torch.Generator().manual_seed(0)).to(mean)
    with torch.no_grad():
        deviation = (models.generator.mapping(z) - mean).std()
    return LatentAxes(mean, deviation * torch.eye(len(mean), device=mean.device))
