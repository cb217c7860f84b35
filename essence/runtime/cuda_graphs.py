"""Steps captured as CUDA graphs, so that small kernels need not wait for Python to launch them."""

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
    """Callable: the values of an objective, whose gradients it leaves in `parameters`. Moving the
    parameters is the optimiser's work.

    `evaluate(batch)` returns detached tensors and leaves the gradients; batches that do not fit the
    memory are halved. With `capture`, on a GPU, it is captured as a CUDA graph once and replayed
    from then on, provided that all `count` pictures fit into one batch. What a call returns is
    overwritten by the next call.
    """

    def __init__(
        self,
        evaluate: Callable[[int], Values],
        parameters: Sequence[Tensor],
        count: int,
        batch: int,
        capture: bool,
    ):
        self.evaluate, self.parameters, self.count = evaluate, parameters, count
        self.capture, self.halving = capture, BatchHalving(batch)
        self._graph: CapturedGraph | None = None

    def __call__(self) -> Values:
        return self.halving(self._step)

    def _step(self, batch: int) -> Values:
        if not self.capture or batch < self.count:
            self._graph = None
            return self._launch(batch)
        if self._graph is None:
            try:
                self._graph = CapturedGraph(lambda: self._launch(batch), self.parameters)
            except torch.OutOfMemoryError:
                raise
            except RuntimeError as error:  # something in the step that cannot be captured
                log.warning("No CUDA graph, the steps are launched one by one: %s", error)
                self.capture = False
                return self._launch(batch)
        return self._graph()

    def _launch(self, batch: int) -> Values:
        for parameter in self.parameters:
            parameter.grad = None
        return self.evaluate(batch)


class CapturedGraph:
    """A function that leaves gradients in `parameters`, captured as one CUDA graph. Its outputs and
    gradients stay at fixed addresses.
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
            parameter.grad = gradient  # it may have been set to None since
        return self.values
