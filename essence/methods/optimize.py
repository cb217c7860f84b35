"""Essence by optimisation (paper section 3; docs/METHOD.md, section 1).

One direction b in W+ that makes every source look like the target to CLIP, and changes all of them
in the same way.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import UserError
from ..models.latents import LatentAxes, move
from ..models.model_set import ModelSet
from ..runtime.cuda_graphs import WORTH_CAPTURING, RecordedStep
from ..runtime.files import timestamp
from ..values import Essence, Source, Step, Target
from . import losses
from .base import check_at_least, check_loss, check_reach, initial_direction, latents_of
from .batching import (
    batch_for,
    loss_resolution,
    render_and_embed,
    source_embeddings,
    with_descriptors,
)
from .descent import Descent
from .encode import encoded_direction
from .map import mapped_essence
from .previews import Previews

SPACES = ("auto", "axes", "w+")
STARTS = ("zero", "centred", "inverted", "random", "mapper", "encoder")
TERMS = ("total", "transfer", "consistency", "identity", "penalty")


@dataclass(frozen=True)
class OptimizeOptions:
    steps: int = 100
    seed: int = 0  # matters for start="random" alone; everything else is deterministic
    # "axes": b = (u + v) diag(sqrt l) U^T in the latents' own axes; "w+": b itself;
    # "auto": axes where the models bring them.
    space: str = "auto"
    # Of b: "zero", "centred" (the target's w minus the mean), "inverted" (its w, as released),
    # "random" (a truncated w, as released), "mapper" or "encoder" (their instant essence).
    start: str = "centred"
    # So many starts are learned from at once, and the best essence is kept (`methods.starts`).
    starts: int = 1
    lambda_transfer: float = 1.0
    lambda_consistency: float = 0.5
    # On the squared distance of the face network's descriptors of each person before and after
    # the edit, where the models bring one. Not in the paper: docs/LOG.md has what it is worth.
    lambda_identity: float = 0.5
    learning_rate: float = 0.05  # of b in w+
    axes_learning_rate: float = 0.06  # of u, shared by the layers
    layer_learning_rate: float = 0.02  # of v, one for each layer
    # On |u|^2 + layer_penalty * mean over layers of |v|^2; docs/LOG.md has what more and less do.
    penalty: float = 0.002
    layer_penalty: float = 15.0
    # Standard deviations of w along b at which a source stops (`LatentAxes.hold`); None: nowhere.
    reach: float | None = 3.0
    weight_decay: float = 0.0  # L2 inside Adam, on b in w+
    coefficients: bool = False  # learn a c_i for each source beside b
    unit_differences: bool = True  # d_i between unit embeddings; the paper has them raw
    # Side of the pictures that the loss sees: synthesis stops there. 0: the full one. None: the
    # smallest that covers CLIP's input, if the sources look the same to CLIP at it
    # (CLOSE_ENOUGH), else the full one. Previews are always full.
    loss_resolution: int | None = None
    preview_every: int = 4

    def __post_init__(self) -> None:
        for name, allowed in (("space", SPACES), ("start", STARTS)):
            if getattr(self, name) not in allowed:
                raise UserError(
                    f"{name} must be one of {', '.join(allowed)}, not '{getattr(self, name)}'."
                )
        check_at_least(self, 1, "steps", "starts", "preview_every")
        check_at_least(self, 0, "lambda_transfer", "lambda_consistency", "lambda_identity")
        check_at_least(self, 0, "learning_rate", "penalty", "weight_decay")
        check_reach(self.reach)


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
        if start is not None:
            start.check(models.latent_shape, models.id)
        b = start.delta.to(z) if start else first_direction(models, target, options)
        directions.append(make_direction(models, b, len(z), options))
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


def schedule(t: float) -> float:
    """Share of the learning rate at t = step / steps: up over the first 0.5 %, flat to 25 %,
    cosine to zero at the end.
    """
    down = min(1.0, (1 - t) / 0.75)
    return (0.5 - 0.5 * math.cos(math.pi * down)) * min(1.0, t / 0.005)


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
        """b [T, L, D], the edited w+ [T N, L, D], their pictures [T N, 3, R, R], and the `losses`
        [T, 5], one for each of TERMS.
        """
        # What has been encoded with another batch would differ by rounding.
        before = self.before(min(batch, len(self.z)))
        b = [direction.b() for direction in directions]
        edited = torch.cat([d.edit(self.z, each) for d, each in zip(directions, b, strict=True)])
        images, after = render_and_embed(self.models, edited, self.resolution, batch, self.look)
        parts = zip(directions, after.split(len(before)), self.e_t, self.ways, strict=True)
        terms = [self.terms(direction, before, *part) for direction, *part in parts]
        found = {"b": torch.stack(b), "w": edited, "images": images}
        return found | {"losses": torch.stack(terms)}

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


# -- where b lives


class Direction:
    """b itself, free in W+, and a coefficient c_i for each source where they are learned."""

    def __init__(self, models: ModelSet, b: Tensor, count: int, options: OptimizeOptions):
        self.models, self.options = models, options
        self.c = torch.ones(count, 1, 1, device=b.device, requires_grad=options.coefficients)
        groups = self.parametrize(b)
        if options.coefficients:
            groups.append({"params": [self.c], "lr": options.learning_rate, "weight_decay": 0.0})
        self.descend = Descent(groups, options.steps, lambda i: schedule(i / options.steps))
        self.parameters = self.descend.parameters

    def parametrize(self, b: Tensor) -> list[dict]:
        """Take up b; the optimiser's groups of parameters."""
        self._b = b.clone().requires_grad_()
        options = self.options
        return [
            {"params": [self._b], "lr": options.learning_rate, "weight_decay": options.weight_decay}
        ]

    def b(self) -> Tensor:
        return self._b

    def penalty(self) -> Tensor:
        return self._b.new_zeros(())

    def edit(self, z: Tensor, b: Tensor) -> Tensor:
        """z + c b, held to the reach."""
        return move(z, self.c * b, self.models.latents, self.options.reach)


class AxesDirection(Direction):
    """b = (u + v) diag(sqrt l) U^T (docs/METHOD.md, section 8), plus the part of the start that
    lies in no axis.
    """

    def parametrize(self, b: Tensor) -> list[dict]:
        axes, options = self.axes(), self.options
        coordinates = axes.coordinates(b)  # [L, K]
        # The split of the start that the penalty likes best.
        share = options.layer_penalty / (1 + options.layer_penalty)
        u = coordinates.mean(0, keepdim=True) * share
        self.u, self.v = u.requires_grad_(), (coordinates - u.detach()).requires_grad_()
        self.rest = b - axes.shift(self.u, self.v).detach()
        return [
            {"params": [self.u], "lr": options.axes_learning_rate},
            {"params": [self.v], "lr": options.layer_learning_rate},
        ]

    def axes(self) -> LatentAxes:
        if self.models.latents is None:
            raise UserError(
                f"The model set '{self.models.name}' brings no latent statistics; use space='w+'."
            )
        return self.models.latents

    def b(self) -> Tensor:
        return self.rest + self.axes().shift(self.u, self.v)

    def penalty(self) -> Tensor:
        layers = self.v.square().sum(1).mean()
        return self.options.penalty * (self.u.square().sum() + self.options.layer_penalty * layers)


def uses_axes(models: ModelSet, options: OptimizeOptions) -> bool:
    return options.space == "axes" or (options.space == "auto" and models.latents is not None)


def make_direction(models: ModelSet, b: Tensor, count: int, options: OptimizeOptions) -> Direction:
    kind = AxesDirection if uses_axes(models, options) else Direction
    return kind(models, b, count, options)


def first_direction(models: ModelSet, target: Target, options: OptimizeOptions) -> Tensor:
    """b to start from, [L, D]. In the axes a centred start is the origin: the penalty would pull
    the target's own latents back there at once.
    """
    if options.start == "mapper":
        return mapped_essence(models, target)
    if options.start == "encoder":
        return encoded_direction(models, target)
    centred_in_axes = options.start == "centred" and uses_axes(models, options)
    start = "zero" if centred_in_axes else options.start
    return initial_direction(models, target, start, options.seed)
