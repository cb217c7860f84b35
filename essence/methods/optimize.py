"""Essence by optimisation (paper section 3; docs/METHOD.md, section 1).

One direction b in W+ that makes every source look like the target to CLIP, and changes all of them
in the same way.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence
from contextlib import closing
from functools import cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..models.model_set import ModelSet
from ..runtime.cuda_graphs import WORTH_CAPTURING, RecordedStep
from ..runtime.files import timestamp
from ..values import Essence, Source, Step, Target
from . import losses
from .base import check_loss, latents_of
from .batching import (
    batch_for,
    loss_resolution,
    render_and_embed,
    source_embeddings,
    with_descriptors,
)
from .directions import Direction, first_direction, make_direction
from .optimize_options import OptimizeOptions
from .own_share import own_shift, without_own
from .previews import Previews

TERMS = ("total", "transfer", "consistency", "identity", "penalty")


def optimize(
    models: ModelSet,
    target: Target,
    sources: Sequence[Source],
    options: OptimizeOptions = OptimizeOptions(),  # noqa: B008 - frozen
    start: Essence | None = None,
) -> Iterator[Step]:
    """Learn an essence. Yields a `Step` after each step; `result` is the best essence so far by
    its own loss. `start` is an essence to continue from. Closing the generator stops the work.
    Raises UserError for sources or a start of another generator.
    """
    with closing(optimize_together(models, [target], sources, options, [start])) as steps:
        for (step,) in steps:
            yield step


def optimize_together(
    models: ModelSet,
    targets: Sequence[Target],
    sources: Sequence[Source],
    options: OptimizeOptions = OptimizeOptions(),  # noqa: B008 - frozen
    starts: Sequence[Essence | None] | None = None,
) -> Iterator[tuple[Step, ...]]:
    """Learn the essences of T targets at once: the same as one after another, to rounding, with all
    T N edited sources in one batch where they fit (see `targets_at_once`). Yields a tuple with a
    `Step` for each target after each step; everything else is as in `optimize`.
    """
    z = latents_of(models, sources)
    starts = starts or [None] * len(targets)
    objective = Objective(models, z, targets, options)
    directions = []
    for target, start in zip(targets, starts, strict=True):
        if start is None:
            b = first_direction(models, target, options)
        else:
            start.check(models.latent_shape, models.id)
            b = without_own(models, start, target)
        own = own_shift(models, target, options.target_share)
        directions.append(make_direction(models, b, own, len(z), options))
    parameters = [parameter for each in directions for parameter in each.parameters]

    def evaluate(batch: int) -> dict[str, Tensor]:
        found = objective(directions, batch)
        # Each total depends on its own direction alone.
        gradients = iter(torch.autograd.grad(found["losses"][:, 0].sum(), parameters))
        for direction in directions:
            direction.descend([next(gradients) for _ in direction.parameters])
        return {name: value.detach() for name, value in found.items()}

    count = len(targets) * len(z)
    capture = models.device.type == "cuda" and options.steps >= WORTH_CAPTURING
    batch = batch_for(models, count, objective.resolution)

    def state() -> list[Tensor]:
        return [tensor for each in directions for tensor in each.descend.state()]

    step = RecordedStep(evaluate, state, count, batch, capture)
    known = {"options": dataclasses.asdict(options), "seed": options.seed, "created": timestamp()}
    known |= {"loss_resolution": objective.resolution}
    best: list[Essence | None] = [None] * len(targets)
    lowest = [math.inf] * len(targets)

    with closing(Previews(models)) as previews:
        for i in range(options.steps):
            found, last = step(), i + 1 == options.steps
            pictures = previews(found, last or i % options.preview_every == 0, last)
            rows = found["losses"].cpu().tolist()
            losses_now = [dict(zip(TERMS, row, strict=True)) for row in rows]
            for t, (target, loss) in enumerate(zip(targets, losses_now, strict=True)):
                check_loss(loss["total"], best[t], target)
                if loss["total"] < lowest[t]:
                    lowest[t], continues = loss["total"], starts[t].name if starts[t] else None
                    best[t] = Essence(
                        found["b"][t].to("cpu", copy=True),  # the next step writes over it
                        target.name,
                        models.id,
                        "optimize",
                        provenance={**known, "continues": continues, "losses": loss, "step": i + 1},
                        thumbnail=target.picture,
                        reach=options.reach,
                        text=target.text,
                        neutral=target.neutral,
                    )
            del found  # nothing of the step outlives it while the caller holds us
            shown = [None] * len(targets) if pictures is None else np.split(pictures, len(targets))
            yield tuple(
                Step(i + 1, options.steps, essence, loss, preview)
                for essence, loss, preview in zip(best, losses_now, shown, strict=True)
            )


def targets_at_once(
    models: ModelSet,
    targets: int,
    sources: int,
    options: OptimizeOptions = OptimizeOptions(),  # noqa: B008 - frozen
) -> int:
    """How many of so many targets fit into the memory together, with all their sources: at least
    one. More than that would be learned in parts, each of them computed twice.
    """
    side = options.loss_resolution or models.size
    return max(1, min(targets, batch_for(models, targets * sources, side) // sources))


class Objective:
    """The paper's loss for a set of sources and each of T targets (eq. 6-8), and beside it how
    far people are from themselves.

    Where a target is the way from one text to another, each source has a goal of its own: where
    it is, and from there that way.
    """

    def __init__(
        self, models: ModelSet, z: Tensor, targets: Sequence[Target], options: OptimizeOptions
    ):
        self.models, self.z, self.options = models, z, options
        self.e_t = [target.embedding.to(z.device)[None] for target in targets]
        self.ways = [
            None if target.direction is None else target.direction.to(z.device)
            for target in targets
        ]
        with torch.no_grad():
            self.resolution = loss_resolution(models, z, options.loss_resolution)
        keeps = options.lambda_identity and models.has_faces
        self.look = look = with_descriptors(models) if keeps else None
        side = self.resolution
        self.before = cache(lambda batch: source_embeddings(models, z, side, batch, look))

    def __call__(self, directions: Sequence[Direction], batch: int) -> dict[str, Tensor]:
        """The essences `b` [T, L, D], the w+ `w` [T N, L, D] edited with them, the `losses`
        [T, 5], one for each of TERMS, and the `images` [T N, 3, R, R] that they were measured on,
        where these are pictures of `w`.
        """
        # What has been encoded with another batch would differ by rounding.
        before = self.before(min(batch, len(self.z)))
        b = [direction.b() for direction in directions]
        edited = torch.cat([d.edit(self.z, each) for d, each in zip(directions, b, strict=True)])
        images, after = render_and_embed(self.models, edited, self.resolution, batch, self.look)
        parts = zip(directions, after.split(len(before)), self.e_t, self.ways, strict=True)
        terms = [self.terms(direction, before, *part) for direction, *part in parts]
        whole = [d.whole(each) for d, each in zip(directions, b, strict=True)]
        found = {"losses": torch.stack(terms), "b": torch.stack(whole)}
        if all(direction.own is None for direction in directions):
            return found | {"w": edited, "images": images}
        w = [d.edit(self.z, each) for d, each in zip(directions, whole, strict=True)]
        return found | {"w": torch.cat(w)}

    def terms(
        self, direction: Direction, before: Tensor, after: Tensor, e_t: Tensor, way: Tensor | None
    ) -> Tensor:
        """The terms of one target's loss. `before` and `after` the edit: what the networks say of
        the sources, [N, E] or, with descriptors, [N, E + DESCRIPTOR].
        """
        options, width = self.options, e_t.shape[-1]
        e, e_edited = before[:, :width], after[:, :width]
        goal = e_t if way is None else F.normalize(e, dim=-1) + way
        if options.unit_differences:
            d = F.normalize(e_edited, dim=-1) - F.normalize(e, dim=-1)
        else:
            d = e_edited - e
        transfer, consistency = losses.transfer(e_edited, goal), losses.consistency(d)
        identity = (after[:, width:] - before[:, width:]).square().sum(1).mean()
        penalty = direction.penalty()
        total = (
            options.lambda_transfer * transfer
            + options.lambda_consistency * consistency
            + options.lambda_identity * identity
            + penalty
        )
        return torch.stack([total, transfer, consistency, identity, penalty])
