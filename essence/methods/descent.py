"""Adam whose learning rates follow a schedule, on a GPU without a word from the processor."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor


class Descent:
    """Callable: one step of Adam along given gradients, at `factor(i)` times the groups' learning
    rates in the i-th of so many `steps`.

    On a GPU everything that changes from step to step lies there, the rates and the count of the
    steps too, so that a step can be recorded in a CUDA graph.
    """

    def __init__(self, groups: Sequence[dict], steps: int, factor: Callable[[int], float]):
        self.parameters = [parameter for group in groups for parameter in group["params"]]
        self.rates, self.factor = [group["lr"] for group in groups], factor
        device = self.parameters[0].device
        self.on_gpu = device.type == "cuda"
        self.place = torch.zeros(1, dtype=torch.long, device=device)  # steps so far
        if self.on_gpu:
            self.factors = torch.tensor([factor(i) for i in range(steps)], device=device)
            groups = [group | {"lr": torch.tensor(group["lr"], device=device)} for group in groups]
            self.adam = torch.optim.Adam(groups, fused=True, capturable=True)
        else:
            self.adam = torch.optim.Adam(groups)

    def state(self) -> list[Tensor]:
        """Whatever a step moves in place."""
        moments = [each for kept in self.adam.state.values() for each in kept.values()]
        return [*self.parameters, *(m for m in moments if isinstance(m, Tensor)), self.place]

    @torch.no_grad()
    def __call__(self, gradients: Sequence[Tensor]) -> None:
        if self.on_gpu:
            factor = self.factors.index_select(0, self.place)[0]
            for group, rate in zip(self.adam.param_groups, self.rates, strict=True):
                torch.mul(factor, rate, out=group["lr"])
        else:
            for group, rate in zip(self.adam.param_groups, self.rates, strict=True):
                group["lr"] = rate * self.factor(int(self.place))
        self.place += 1
        for parameter, gradient in zip(self.parameters, gradients, strict=True):
            parameter.grad = gradient
        self.adam.step()
        self.adam.zero_grad(set_to_none=True)


def schedule(t: float) -> float:
    """Share of the learning rate at t = step / steps: up over the first 0.5 %, flat to 25 %,
    cosine to zero at the end.
    """
    down = min(1.0, (1 - t) / 0.75)
    return (0.5 - 0.5 * math.cos(math.pi * down)) * min(1.0, t / 0.005)
