"""Baselines that mix a source and a target: in StyleGAN's space, and in CLIP's (the rivals of the
paper's figure 1). They learn no direction: what they give is a picture for each source.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from ..errors import UserError
from ..models.model_set import ModelSet
from ..values import BANDS, Essence, Pictures, Source, Step, Target
from . import losses
from .base import check_at_least, check_loss, latents_of, provenance
from .batching import batch_for, loss_resolution, render_and_embed, source_embeddings
from .descent import Descent
from .invert import invert
from .refine import RefineOptions, round_axes


@dataclass(frozen=True)
class BlendOptions:
    steps: int = RefineOptions.steps  # of refinement of the target's inversion
    seed: int = 0  # nothing is random in it
    share: float = 0.5  # of the target
    # The layers that are mixed (`values.BANDS`); the others stay the source's.
    bands: tuple[str, ...] = tuple(BANDS)
    preview_every: int = 5

    def __post_init__(self) -> None:
        check_at_least(self, 1, "steps", "preview_every")
        check_at_least(self, 0, "share")
        if unknown := set(self.bands) - set(BANDS):
            raise UserError(f"There is no band '{min(unknown)}'. There are: {', '.join(BANDS)}.")


@dataclass(frozen=True)
class ClipBlendOptions:
    steps: int = 100
    seed: int = 0  # nothing is random in it
    share: float = 0.5  # of the target's embedding
    learning_rate: float = 0.06  # of u, in standard deviations
    layer_learning_rate: float = 0.02  # of v, for each layer
    # On |u|^2 + layer_penalty * mean |v|^2, as in `optimize`: without it pictures break.
    penalty: float = 0.008
    layer_penalty: float = 15.0
    loss_resolution: int | None = None  # as in `OptimizeOptions`
    preview_every: int = 10

    def __post_init__(self) -> None:
        check_at_least(self, 1, "steps", "preview_every")
        check_at_least(self, 0, "share", "learning_rate", "layer_learning_rate")
        check_at_least(self, 0, "penalty", "layer_penalty")


def blend(
    models: ModelSet,
    target: Target,
    sources: Sequence[Source],
    options: BlendOptions = BlendOptions(),  # noqa: B008 - frozen
    start: Essence | None = None,
) -> Iterator[Step]:
    """G((1 - share) z_s + share z_t), z_t the target's inversion, in W+ since photographs have no
    z; with `bands` on their layers alone, which is style mixing (Karras et al. 2019, section 3.1).
    Yields a `Step` for each of the inversion's; "total" is 1 - mean cos between the blends'
    embeddings and the target's. Raises UserError for a target of words.
    """
    picture = require_picture(target, "The StyleGAN blend")
    z_s = latents_of(models, sources)
    known = provenance(options)
    refinement = RefineOptions(steps=options.steps, preview_every=options.preview_every)
    result, loss = None, {}
    with closing(invert(models, [picture], [target.name], refinement)) as steps:
        for step in steps:
            shown = step.preview is not None or step.index == step.total
            if shown:
                z_t = step.result[0].w.to(z_s)
                w = z_s.clone()
                for layers in (BANDS[band] for band in options.bands):
                    w[:, layers] = torch.lerp(z_s[:, layers], z_t[layers], options.share)
                result = made_pictures(models, w, target, "blend", known)
                loss = {"total": transfer_of(models, result, target)}
                check_loss(loss["total"], None, target)
            yield Step(step.index, step.total, result, loss, result.images if shown else None)


def clip_blend(
    models: ModelSet,
    target: Target,
    sources: Sequence[Source],
    options: ClipBlendOptions = ClipBlendOptions(),  # noqa: B008 - frozen
    start: Essence | None = None,
) -> Iterator[Step]:
    """For each source, from z_s, the latents whose picture's embedding comes closest to the mean of
    the source's and the target's (paper, section 5): CLIP's space is blended, and nothing asks
    what else changes. In the latents' own axes and with the penalty of `optimize`, from which it
    differs in what it minimises, and in that each source has a change of its own. "total" is
    1 - mean cos to those goals; `result` is the best of each source, as rendered at the last
    preview.
    """
    z = latents_of(models, sources)
    axes, known = models.latents or round_axes(models), provenance(options)
    with torch.no_grad():
        side = loss_resolution(models, z, options.loss_resolution)
    batch = batch_for(models, len(z), side)
    e_s = F.normalize(source_embeddings(models, z, side, batch), dim=1)
    e_t = F.normalize(target.embedding.to(e_s), dim=0)
    goal = (
        torch.lerp(e_s, e_t, options.share)
        if target.direction is None
        else (e_s + options.share * target.direction.to(e_s))
    )
    u = torch.zeros(len(z), 1, len(axes.axes), device=z.device, requires_grad=True)
    v = torch.zeros(len(z), z.shape[1], len(axes.axes), device=z.device, requires_grad=True)
    rates = ((u, options.learning_rate), (v, options.layer_learning_rate))
    groups = [{"params": [x], "lr": rate} for x, rate in rates]
    descend = Descent(groups, options.steps, lambda i: falling(i / options.steps))
    best, lowest, result = z, torch.full((len(z),), torch.inf, device=z.device), None

    for i in range(options.steps):
        w = z + axes.shift(u, v)
        _, e = render_and_embed(models, w, side, batch)
        distance = 1 - F.cosine_similarity(e, goal, dim=1)
        loss = distance + options.penalty * losses.deviation(u, v, options.layer_penalty)
        descend(torch.autograd.grad(loss.sum(), [u, v]))
        with torch.no_grad():
            better = loss < lowest
            best = torch.where(better[:, None, None], w, best)
            lowest = torch.where(better, loss, lowest)
        total = distance.mean().item()
        check_loss(total, None, target)
        shown = i % options.preview_every == 0 or i + 1 == options.steps
        if shown:
            result = made_pictures(models, best, target, "clip-blend", known)
        del w, e, distance, loss  # the graph is not kept while the caller has us
        yield Step(i + 1, options.steps, result, {"total": total}, result.images if shown else None)


def falling(t: float) -> float:
    """Share of the learning rate at t = step / steps: flat, then linearly to zero."""
    return min(1.0, 2 * (1 - t))


def require_picture(target: Target, what: str) -> Image.Image:
    """The target's picture. Raises UserError for a target of words."""
    if target.picture is None:
        raise UserError(f"{what} takes a picture as its target, not words.")
    return target.picture


def made_pictures(
    models: ModelSet, w: Tensor, target: Target, method: str, known: dict[str, object]
) -> Pictures:
    """The generator's pictures of w+ [N, L, D], which they remember."""
    latents = w.detach().float().cpu()
    return Pictures(models.render(w), target.name, method, known, target.picture, latents)


def transfer_of(models: ModelSet, pictures: Pictures, target: Target) -> float:
    """1 - mean cos between the pictures' embeddings and the target's (paper eq. 6)."""
    return 1 - models.similarity(target.embedding, pictures.images).mean().item()
