"""Where the essence that is being learned lives, where it starts, and what of it is not learned."""

from __future__ import annotations

import torch
from torch import Tensor

from ..errors import UserError
from ..models.latents import LatentAxes, move
from ..models.model_set import ModelSet
from ..values import Target
from .base import initial_direction
from .descent import Descent, schedule
from .encode import encoded_direction
from .map import mapped_essence
from .optimize_options import OptimizeOptions
from .own_share import with_own


class Direction:
    """What is learned: b itself, free in W+, and a coefficient c_i for each source where they are
    learned. Beside it the target's `own` share of the essence, which the loss does not see.
    """

    def __init__(
        self,
        models: ModelSet,
        b: Tensor,
        own: Tensor | None,
        count: int,
        options: OptimizeOptions,
    ):
        self.models, self.own, self.options = models, own, options
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

    def whole(self, b: Tensor) -> Tensor:
        """The essence: what is learned, and the target's own share."""
        return with_own(b, self.own)

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


def make_direction(
    models: ModelSet, b: Tensor, own: Tensor | None, count: int, options: OptimizeOptions
) -> Direction:
    kind = AxesDirection if uses_axes(models, options) else Direction
    return kind(models, b, own, count, options)


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
