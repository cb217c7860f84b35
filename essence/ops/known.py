"""What follows from a frozen weight, computed once."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor


class Known:
    """Remembers by name what was computed from a weight, as long as nobody learns the weight, moves it or writes to it."""

    def __init__(self) -> None:
        self._values: dict[str, tuple[tuple[int, ...], Tensor]] = {}

    def __call__(self, what: str, weight: Tensor, compute: Callable[[Tensor], Tensor]) -> Tensor:
        if weight.requires_grad:
            return compute(weight)
        state = (weight.data_ptr(), weight._version)
        if what not in self._values or self._values[what][0] != state:
            self._values[what] = state, compute(weight)
        return self._values[what][1]
