"""Work captured as CUDA graphs, so that small kernels need not wait for Python to launch them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from .memory import BatchHalving

log = logging.getLogger(__name__)

WARM_UP = 3  # runs before a capture: libraries choose their kernels and allocate their workspaces
WORTH_CAPTURING = 20  # steps; the capture takes as long as four or five
RECORDINGS = 8  # shapes of input that one function is recorded for

Values = dict[str, Tensor]


class RecordedStep:
    """Callable: one step of an optimiser, gradients and the move of its parameters included.

    `step(batch)` returns detached tensors; batches that do not fit the memory are halved. `state()`
    names the tensors that it moves in place. With `capture`, on a GPU, it is captured as a CUDA
    graph once and replayed from then on, provided that all `count` pictures fit into one batch.
    What a call returns is overwritten by the next call.
    """

    def __init__(
        self,
        step: Callable[[int], Values],
        state: Callable[[], Sequence[Tensor]],
        count: int,
        batch: int | None,
        capture: bool,
    ):
        """`batch` None: all pictures at once, or the memory's own error."""
        self.step, self.state, self.count, self.capture = step, state, count, capture
        self.halving = None if batch is None else BatchHalving(batch)
        self._graph: CapturedGraph | None = None

    def __call__(self) -> Values:
        return self._run(self.count) if self.halving is None else self.halving(self._run)

    def _run(self, batch: int) -> Values:
        if not self.capture or batch < self.count:
            self._graph = None
            return self.step(batch)
        if self._graph is None:
            self._graph = capture(lambda: self.step(batch), self.state)
            self.capture = self._graph is not None
        return self._graph() if self._graph else self.step(batch)


class RecordedFunction:
    """Callable: function(x) for a tensor on a GPU, recorded for each shape of x that comes a second
    time, the first `RECORDINGS` of them. What a call returns is overwritten by the next call.

    Where one of the `weights` that the function reads besides has been moved or written to, the
    recordings are dropped.
    """

    def __init__(self, function: Callable[[Tensor], Tensor]):
        self.function = function
        self._seen: set[tuple[int, ...]] = set()
        self._recorded: dict[tuple[int, ...], tuple[Tensor, CapturedGraph | None]] = {}
        self._state: list[tuple[int, int]] = []

    def __call__(self, x: Tensor, device: torch.device, weights: Sequence[Tensor] = ()) -> Tensor:
        """`x` may lie elsewhere than on the `device`."""
        state = [(weight.data_ptr(), weight._version) for weight in weights]
        if state != self._state:
            self._seen, self._recorded, self._state = set(), {}, state
        shape = tuple(x.shape)
        if shape not in self._seen:  # it may never come again
            self._seen.add(shape)
            return self.function(x.to(device))
        if shape not in self._recorded and len(self._recorded) < RECORDINGS:
            given = x.to(device, copy=True)
            self._recorded[shape] = given, capture(lambda: self.function(given))
        given, graph = self._recorded.get(shape, (x, None))
        if graph is None:
            return self.function(x.to(device))
        given.copy_(x)
        return graph()


def capture(
    function: Callable[[], object], state: Callable[[], Sequence[Tensor]] = list
) -> CapturedGraph | None:
    """A graph of the function; None, with a line in the log, where it does something that cannot be
    captured. Raises torch.OutOfMemoryError.
    """
    try:
        return CapturedGraph(function, state)
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        log.warning("No CUDA graph, the steps are launched one by one: %s", error)
        return None


class CapturedGraph:
    """A function, captured as one CUDA graph. Its results stay at fixed addresses.

    It warms up on the stream that it is captured on: what autograd and the allocator keep of a run
    belongs to a stream. The tensors of `state()` are then put back to what they were; those that
    only came into being, as Adam's moments do in its first step, to zero.
    """

    def __init__(self, function: Callable[[], object], state: Callable[[], Sequence[Tensor]]):
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            before = remember(state())
            for _ in range(WARM_UP):
                function()
            restore(state(), before)
        torch.cuda.current_stream().wait_stream(stream)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph, stream=stream):
            self.values = function()

    def __call__(self):  # noqa: ANN204
        self.graph.replay()
        return self.values


def remember(state: Sequence[Tensor]) -> dict[int, Tensor]:
    """Copies of tensors by where they lie: what names them again may be another object."""
    return {tensor.data_ptr(): tensor.detach().clone() for tensor in state}


@torch.no_grad()
def restore(state: Sequence[Tensor], before: dict[int, Tensor]) -> None:
    for tensor in state:
        place = tensor.data_ptr()
        tensor.copy_(before[place]) if place in before else tensor.zero_()
