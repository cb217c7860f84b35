"""Steps recorded as CUDA graphs: small kernels no longer wait for Python to launch them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from .memory import BatchHalving

log = logging.getLogger(__name__)


WARM_UP = 3  # steps before a capture: libraries choose their kernels and allocate their workspaces


WORTH_CAPTURING = 20  # steps; the capture takes as long as four or five


Values = dict[str, Tensor]


class GradientStep:
    """Computes steps: values and gradients of `parameters`, never the optimiser's move.

    `measure(batch)` returns detached tensors and leaves the gradients. On a GPU, when all `count`
    pictures fit and `capture` is set, it is recorded once and then replayed: small kernels no
    longer wait for Python. What a call returns is overwritten by the next one.
    """

    def __init__(
        self,
        measure: Callable[[int], Values],
        parameters: Sequence[Tensor],
        count: int,
        batch: int,
        capture: bool,
    ):
        self.measure, self.parameters, self.count, self.capture = (
            measure,
            parameters,
            count,
            capture,
        )
        self.halving = BatchHalving(batch)
        self._recording: CapturedGraph | None = None

    def __call__(self) -> Values:
        return self.halving(self._step)

    def _step(self, batch: int) -> Values:
        if not self.capture or batch < self.count:
            self._recording = None
            return self._measured(batch)
        try:
            self._recording = self._recording or CapturedGraph(
                lambda: self._measured(batch), self.parameters
            )
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:  # something in the step that cannot be recorded
            log.warning("No CUDA graph, the steps are launched one by one: %s", error)
            self.capture = False
            return self._measured(batch)
        return self._recording()

    def _measured(self, batch: int) -> Values:
        for parameter in self.parameters:
            parameter.grad = None
        return self.measure(batch)


class CapturedGraph:
    """A function that leaves gradients in `parameters`, as one CUDA graph. Its outputs and
    gradients live at fixed places.
    """

    def __init__(self, function: Callable[[], Values], parameters: Sequence[Tensor]):
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(WARM_UP):
                function()
        torch.cuda.current_stream().wait_stream(side)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            self.values = function()
        self.parameters, self.gradients = parameters, [parameter.grad for parameter in parameters]

    def __call__(self) -> Values:
        self.graph.replay()
        for parameter, gradient in zip(self.parameters, self.gradients, strict=True):
            parameter.grad = gradient  # whoever cleared it meant the last step's
        return self.values
