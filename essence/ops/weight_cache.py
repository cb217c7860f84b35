"""What follows from frozen weights, computed once."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from torch import Tensor

T = TypeVar("T")


class WeightCache:
    """Values computed from weights, kept by name for as long as the weights stay the same.

    A weight that is moved, replaced or written to in place is noticed, and the value is computed
    again. Nothing is kept of weights that require a gradient.
    """

    def __init__(self) -> None:
        self._values: dict[str, tuple[list[tuple[int, int]], object]] = {}

    def __call__(self, name: str, compute: Callable[..., T], *weights: Tensor) -> T:
        """compute(*weights), or the value that it returned for the same weights before."""
        if any(weight.requires_grad for weight in weights):
            return compute(*weights)
        state = [(weight.data_ptr(), weight._version) for weight in weights]
        if name not in self._values or self._values[name][0] != state:
            self._values[name] = state, compute(*weights)
        return self._values[name][1]  # type: ignore[return-value]
