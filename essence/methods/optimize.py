"""Essence by optimisation: one direction b that makes every source look like the target to CLIP
(paper section 3; docs/METHOD.md).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import UserError
from ..models.latents import LatentAxes, moved
from ..models.model_set import ModelSet
from ..pictures.tensors import to_uint8
from ..runtime.cuda_graphs import WORTH_CAPTURING, Stepper, Values
from ..runtime.memory import Halving
from ..values import Essence, Step, now
from . import losses
from .batching import batch_for, embeddings, pictures

# L2 on the c_i, which no paper mentions: found by comparing gradients with the recorded walk of the
# released optimiser.
RELEASED_COEFFICIENT_DECAY = 0.01
TERMS = ("total", "transfer", "consistency", "penalty")
# loss_resolution None: the early picture is taken where every source's embedding has at least this
# cosine to that of the full picture.
CLOSE_ENOUGH = 0.98


@dataclass(frozen=True)
class OptimizeOptions:
    steps: int = 100
    seed: int = 0  # matters for start="random" alone; everything else is deterministic
    # "axes": b = (u + v) diag(sqrt l) U^T in the latents' own axes; "w+": b itself; "auto": axes
    # where the models bring them.
    space: str = "auto"
    # Of b: "zero", "centred" (target's w - mean), "inverted" (target's w, as released), "random"
    # (truncated w, as released).
    start: str = "centred"
    lambda_transfer: float = 1.0
    lambda_consistency: float = 0.5
    learning_rate: float = 0.05  # of b in w+
    axes_learning_rate: float = 0.06  # of u, shared by the layers
    layer_learning_rate: float = 0.02  # of v, for each layer
    # on |u|^2 + layer_penalty * mean over layers of |v|^2; see docs/LOG.md for what more and less
    # of it does
    penalty: float = 0.008
    layer_penalty: float = 15.0
    reach: float | None = (
        # standard deviations of w along b at which a source stops (`LatentAxes.held`); None:
        # nowhere
        3.0
    )
    weight_decay: float = 0.0  # L2 inside Adam, on b in w+
    coefficients: bool = False  # learn a c_i for each source beside b
    unit_differences: bool = (
        True  # d_i between unit embeddings, as released; the paper took them raw
    )
    # CLIP's input, the walk of the c_i and the choice of the best step as in the released code
    released: bool = False
    # Side of the pictures that the loss sees: synthesis stops there. 0: the full one. None: the
    # smallest that covers CLIP's input, if the sources look the same to CLIP at it (CLOSE_ENOUGH),
    # else the full one. Previews are always full.
    loss_resolution: int | None = None
    preview_every: int = 4

    def __post_init__(self) -> None:
        for name, allowed in (
            ("space", ("auto", "axes", "w+")),
            ("start", ("zero", "centred", "inverted", "random")),
        ):
            if getattr(self, name) not in allowed:
                raise UserError(
                    f"{name} must be one of {', '.join(allowed)}, not '{getattr(self, name)}'."
                )
        for name in ("steps", "preview_every"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} must be at least 1, not {getattr(self, name)}.")
        for name in (
            "lambda_transfer",
            "lambda_consistency",
            "learning_rate",
            "penalty",
            "weight_decay",
        ):
            if not 0 <= getattr(self, name) < math.inf:
                raise UserError(f"{name} must be zero or more, not {getattr(self, name)}.")
        if self.reach is not None and not 0 < self.reach < math.inf:
            raise UserError(f"reach must be more than zero, or None, not {self.reach}.")


PRESETS = {
    "essence": OptimizeOptions(),
    # v1 of the paper, target in the generator's domain; out of it: weight_decay .001,
    # lambda_consistency .6.
    "paper": OptimizeOptions(
        steps=1000,
        space="w+",
        start="inverted",
        lambda_consistency=0.7,
        learning_rate=0.2,
        weight_decay=0.007,
        unit_differences=False,
        loss_resolution=0,
        reach=None,
    ),
    "released": OptimizeOptions(
        steps=1000,
        space="w+",
        start="inverted",
        learning_rate=0.2,
        weight_decay=0.003,
        coefficients=True,
        released=True,
        loss_resolution=0,
        reach=None,
    ),
}


def schedule(t: float) -> float:
    """Share of the learning rate at t = step / steps: up over the first 0.5 %, flat to 25 %, cosine
    to zero at the end.
    """
    down = min(1.0, (1 - t) / 0.75)
    return (0.5 - 0.5 * math.cos(math.pi * down)) * min(1.0, t / 0.005)


class PlainDirection:
    """b itself, free in W+."""

    def __init__(self, start: Tensor, options: OptimizeOptions):
        self.b = start.clone().requires_grad_()
        self.parameters = [self.b]
        self.optimizer = torch.optim.Adam(
            [self.b], lr=options.learning_rate, weight_decay=options.weight_decay
        )

    def delta(self) -> Tensor:
        return self.b

    def penalty(self) -> Tensor:
        return self.b.new_zeros(())


class AxesDirection:
    """b = (u + v) diag(sqrt l) U^T, plus the part of the start that lies in no axis."""

    def __init__(self, start: Tensor, latents: LatentAxes, options: OptimizeOptions):
        self.latents, self.options = latents, options
        coordinates = latents.coordinates(start)  # [L, K]
        # The split of the start that the penalty likes best.
        u = coordinates.mean(0, keepdim=True) * options.layer_penalty / (1 + options.layer_penalty)
        self.u, self.v = u.requires_grad_(), (coordinates - u.detach()).requires_grad_()
        self.rest = start - latents.shift(self.u, self.v).detach()
        self.parameters = [self.u, self.v]
        groups = [
            {"params": [self.u], "lr": options.axes_learning_rate},
            {"params": [self.v], "lr": options.layer_learning_rate},
        ]
        self.optimizer = torch.optim.Adam(groups)

    def delta(self) -> Tensor:
        return self.rest + self.latents.shift(self.u, self.v)

    def penalty(self) -> Tensor:
        own = self.v.square().sum(1).mean()
        return self.options.penalty * (self.u.square().sum() + self.options.layer_penalty * own)


class Coefficients:
    """c_i, one strength for each source beside the shared b."""

    def __init__(self, count: int, device: torch.device, options: OptimizeOptions):
        self.c = torch.ones(count, 1, 1, device=device, requires_grad=options.coefficients)
        self.options = options
        self.parameters = [self.c] if options.coefficients else []
        self.optimizer = torch.optim.Adam([self.c], lr=options.learning_rate)

    def step(self) -> None:
        if not self.options.coefficients:
            return
        if (
            self.options.released
        ):  # an Adam built anew for each step walks by the sign of the gradient
            with torch.no_grad():
                gradient = self.c.grad + RELEASED_COEFFICIENT_DECAY * self.c
                self.c -= self.options.learning_rate * gradient / (gradient.abs() + 1e-8)
                self.c.grad = None
            return
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)


def optimize(
    models: ModelSet,
    sources: Tensor,
    target: Tensor,
    options: OptimizeOptions = PRESETS["essence"],  # noqa: B008 - frozen
    start: Essence | None = None,
    name: str = "essence",
) -> Iterator[Step]:
    """Learn an essence. Yields a `Step` after each step; its `result` is the best essence so far,
    by its own loss.

    `sources` w+ [N, L, D], N >= 1; `target` a picture [1, 3, H, W] in [-1, 1]; `start` an essence
    to continue from. Closing the generator stops the work. Raises UserError for sources or a start
    of another generator.
    """
    z, target = _checked(models, sources).to(models.device), target.to(models.device)
    if start is not None:
        start.check(models.latent_shape, models.id)
    with torch.no_grad():
        side = _side(models, z, options)
        e_t = models.clip.encode_whole(target) if options.released else models.encode(target)
        b = start.delta.to(z) if start is not None else _initial(models, target, options)
    direction = _direction(b, models, options)
    c = Coefficients(len(z), z.device, options)

    @cache
    def before(batch: int) -> Tensor:
        return embeddings(models, z, side, options.released, batch)

    def edited(b: Tensor) -> Tensor:
        return moved(z, c.c * b, models.latents, options.reach)

    def measure(batch: int) -> Values:
        e, b = before(batch), direction.delta()
        images, e_edited = pictures(models, edited(b), side, options.released, batch)
        terms = _losses(e, e_edited, e_t, direction.penalty(), options)
        terms["total"].backward()
        return {
            "b": b.detach(),
            "images": images.detach(),
            **{key: term.detach() for key, term in terms.items()},
        }

    keep = _keeper(models, options, name, start, side)
    rates = [group["lr"] for group in direction.optimizer.param_groups]
    stepper = _stepper(
        measure, [*direction.parameters, *c.parameters], len(z), side, models, options
    )
    best, best_loss = None, math.inf

    for i in range(options.steps):
        for group, rate in zip(direction.optimizer.param_groups, rates, strict=True):
            group["lr"] = rate * schedule(i / options.steps)
        measured = stepper()
        values = dict(
            zip(TERMS, torch.stack([measured[key] for key in TERMS]).tolist(), strict=True)
        )
        kept = measured["b"].clone()  # the optimiser moves its parameters in place
        shown = i % options.preview_every == 0 or i + 1 == options.steps
        preview = _preview(models, edited(kept).detach(), measured["images"]) if shown else None
        _step(direction, c)
        if options.released:
            kept = direction.delta().detach().clone()
        if values["total"] < best_loss:
            best, best_loss = keep(kept, values, i + 1), values["total"]
        del measured, kept  # nothing of the step outlives it while the caller holds us
        yield Step(i + 1, options.steps, best, values, preview)


def _stepper(
    measure,
    parameters: list[Tensor],
    count: int,
    side: int,
    models: ModelSet,
    options: OptimizeOptions,
) -> Stepper:
    capture = (
        models.device.type == "cuda" and options.steps >= WORTH_CAPTURING and not options.released
    )
    return Stepper(measure, parameters, count, batch_for(models, count, side), capture)


def _preview(models: ModelSet, w: Tensor, images: Tensor) -> np.ndarray:
    """The step's pictures in full resolution, uint8 [N, S, S, 3]; `images` are what the loss
    saw.
    """
    return to_uint8(images) if images.shape[-1] == models.size else models.render(w)


def _side(models: ModelSet, z: Tensor, options: OptimizeOptions) -> int:
    """Side of the pictures that the loss sees."""
    known = models.generator.config.resolutions
    if options.loss_resolution:
        if options.loss_resolution not in known:
            raise UserError(
                f"loss_resolution must be 0 (full) or one of {known}, not {options.loss_resolution}."
            )
        return options.loss_resolution
    early = next((side for side in known if side >= models.clip.size), models.size)
    if options.loss_resolution == 0 or options.released or early == models.size:
        return models.size

    def agreement(batch: int) -> float:
        a, b = (
            embeddings(models, z, side, options.released, batch) for side in (early, models.size)
        )
        return F.cosine_similarity(a, b).min().item()

    agree = Halving(batch_for(models, len(z), models.size))(agreement) >= CLOSE_ENOUGH
    return early if agree else models.size


def _losses(
    e: Tensor, e_edited: Tensor, e_t: Tensor, penalty: Tensor, options: OptimizeOptions
) -> dict[str, Tensor]:
    """Paper eq. 6-8. `e` and `e_edited` [N, E] before and after the edit, `e_t` [1, E]."""
    d = (
        F.normalize(e_edited, dim=-1) - F.normalize(e, dim=-1)
        if options.unit_differences
        else e_edited - e
    )
    transfer, consistency = losses.transfer(e_edited, e_t), losses.consistency(d)
    total = options.lambda_transfer * transfer + options.lambda_consistency * consistency + penalty
    return {"total": total, "transfer": transfer, "consistency": consistency, "penalty": penalty}


def _step(direction: PlainDirection | AxesDirection, c: Coefficients) -> None:
    direction.optimizer.step()
    direction.optimizer.zero_grad(set_to_none=True)
    c.step()


def _checked(models: ModelSet, sources: Tensor) -> Tensor:
    if sources.ndim != 3 or len(sources) == 0:
        raise UserError(
            f"An essence is learned on at least one source, as latents [N, L, D]; got {list(sources.shape)}."
        )
    models.check(sources, "The sources")
    return sources


def _initial(models: ModelSet, target: Tensor, options: OptimizeOptions) -> Tensor:
    """b to start from, [L, D]."""
    mean = models.generator.latent_avg
    if options.start == "zero" or (options.start == "centred" and _in_axes(models, options)):
        return torch.zeros_like(mean)
    if options.start == "random":
        z = torch.randn(
            1, mean.shape[-1], generator=torch.Generator().manual_seed(options.seed)
        ).to(mean)
        return models.generator.repeat(models.generator.mapping(z, truncation=0.7))[0].clone()
    size = models.inverter.input_size
    w = models.invert(F.interpolate(target, size=(size, size), mode="bilinear", antialias=True))[0]
    return w - mean if options.start == "centred" else w


def _in_axes(models: ModelSet, options: OptimizeOptions) -> bool:
    if options.space == "axes" and models.latents is None:
        raise UserError(
            f"The model set '{models.name}' brings no latent statistics; use space='w+'."
        )
    return options.space == "axes" or (options.space == "auto" and models.latents is not None)


def _direction(
    b: Tensor, models: ModelSet, options: OptimizeOptions
) -> PlainDirection | AxesDirection:
    return (
        AxesDirection(b, models.latents, options)
        if _in_axes(models, options)
        else PlainDirection(b, options)
    )


def _keeper(
    models: ModelSet, options: OptimizeOptions, name: str, start: Essence | None, side: int
) -> Callable[..., Essence]:
    known = {
        "options": dataclasses.asdict(options),
        "seed": options.seed,
        "created": now(),
        "continues": start.name if start else None,
    }
    known["loss_resolution"] = side

    def keep(delta: Tensor, values: dict[str, float], step: int) -> Essence:
        return Essence(
            delta,
            name,
            models.id,
            "optimize",
            provenance={**known, "losses": values, "step": step},
            reach=options.reach,
        )

    return keep
