"""How much of a source's identity is kept at which strength: measured at a few, interpolated."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from essence import Source

WEAKEST, STRONGEST = -1.5, 2.0  # of a strength slider
MEASURED = (-1.5, 0.0, 0.5, 1.0, 1.5, 2.0)  # strengths; at 0 nothing is lost
FINE = np.linspace(WEAKEST, STRONGEST, 71).round(2)
STRANGER = 0.6  # distance of face descriptors from which on people take two faces for two people


@dataclass(eq=False)
class Scale:
    """Of one cell."""

    source: Source
    made_of: tuple[Any, ...]  # the cell's recipe, without strengths
    distances: Sequence[float]  # of identity, at MEASURED
    suits: float | None = None  # the strength that suits the source, once it was asked for

    def distance(self) -> np.ndarray:
        """At FINE."""
        return np.interp(FINE, MEASURED, self.distances)

    def range(self, budget: float) -> tuple[float, float]:
        """The strengths around 0 at which no more than the budget is lost."""
        return kept_range(self.distance(), budget)


def kept_range(distance: np.ndarray, budget: float) -> tuple[float, float]:
    """The strengths around 0 up to which the distance at FINE does not exceed the budget."""
    zero = int(np.abs(FINE).argmin())
    lost = distance > budget
    up, down = lost[zero:], lost[zero::-1]
    high = zero + (int(up.argmax()) if up.any() else len(up)) - 1
    low = zero - (int(down.argmax()) if down.any() else len(down)) + 1
    return float(FINE[min(low, zero)]), float(FINE[max(high, zero)])
