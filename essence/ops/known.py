"""What follows from frozen weights, computed once."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from torch import Tensor

T = TypeVar("T")


class Known:
    """Remembers by name what was computed from weights, as long as nobody learns them, moves them
    or writes to them.
    """

    def __init__(self) -> None:
        self._values: dict[str, tuple[list[tuple[int, int]], object]] = {}

    def __call__(self, what: str, compute: Callable[..., T], *weights: Tensor) -> T:
        """compute(*weights), or what it gave before."""
        if any(weight.requires_grad for weight in weights):
            return compute(*weights)
        state = [(weight.data_ptr(), weight._version) for weight in weights]
        if what not in self._values or self._values[what][0] != state:
            self._values[what] = state, compute(*weights)
        return self._values[what][1]  # type: ignore[return-value]
