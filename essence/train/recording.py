"""Training on a GPU without waiting for the processor: whole steps captured as CUDA graphs. On a
CPU the same code runs step by step.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence

import torch
from torch import Tensor

from ..runtime.cuda_graphs import CapturedGraph, Values, capture
from .parallel import world_size


class RecordedTraining:
    """Callable: step(variant, *inputs), optimisers included. On a GPU it is captured once for each
    `variant`, which stands for everything that Python decides in it; the inputs are tensors that
    keep their shapes.

    `moved()` names the tensors that a step changes in place. What a call returns is overwritten by
    the next call of its variant.
    """

    def __init__(
        self,
        step: Callable[..., Values],
        moved: Callable[[], Sequence[Tensor]],
        device: str | torch.device,
    ):
        self.step, self.moved, self.device = step, moved, torch.device(device)
        # Gradients that are averaged over processes need more than a graph of one of them.
        self.captures = self.device.type == "cuda" and world_size() == 1
        self._inputs: list[Tensor] = []
        self._graphs: dict[Hashable, CapturedGraph] = {}

    def __call__(self, variant: Hashable, *inputs: Tensor) -> Values:
        if not self.captures:
            return self.step(variant, *(x.to(self.device) for x in inputs))
        if not self._inputs:
            self._inputs = [x.to(self.device, copy=True) for x in inputs]
        for held, new in zip(self._inputs, inputs, strict=True):
            held.copy_(new, non_blocking=True)
        if variant not in self._graphs:
            graph = capture(lambda: self.step(variant, *self._inputs), self.moved)
            if graph is None:
                self.captures = False
                return self(variant, *inputs)
            self._graphs[variant] = graph
        return self._graphs[variant]()


def adam(
    groups: Sequence[dict],
    betas: tuple[float, float],
    device: str | torch.device,
    kind: type[torch.optim.Adam] = torch.optim.Adam,
) -> torch.optim.Adam:
    """Adam or AdamW over groups, each with its "lr"; on a GPU one kernel, which reads the rates
    there.
    """
    if torch.device(device).type != "cuda":
        return kind(groups, betas=betas)
    groups = [group | {"lr": torch.tensor(group["lr"], device=device)} for group in groups]
    return kind(groups, betas=betas, fused=True, capturable=True)


def set_rates(optimizer: torch.optim.Optimizer, rates: Sequence[float]) -> None:
    """Learning rates of the groups, in place where they are tensors, as after a checkpoint too."""
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(rate)
        else:
            group["lr"] = rate


def state_of(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    """The tensors that an optimiser keeps of each parameter."""
    kept = (each for state in optimizer.state.values() for each in state.values())
    return [each for each in kept if isinstance(each, Tensor)]
