"""Confidence intervals by the bootstrap, and two ways to edit compared at equal similarity."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

REPLICATES = 1000
COVERAGE = 0.95


@dataclass(frozen=True)
class Interval:
    """A figure and the interval that holds it with COVERAGE."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"

    @property
    def sign(self) -> int:
        """-1 or 1 where the whole interval lies on one side of zero, else 0."""
        return int(self.low > 0) - int(self.high < 0)


def resampled_pairs(targets: int, sources: int, seed: int = 0) -> list[tuple[Tensor, Tensor]]:
    """For each of REPLICATES: rows and columns of the targets x sources table, drawn with
    replacement independently, since pairs that share a target or a source are not independent.
    """
    rng = torch.Generator().manual_seed(seed)
    return [
        (
            torch.randint(targets, (targets,), generator=rng),
            torch.randint(sources, (sources,), generator=rng),
        )
        for _ in range(REPLICATES)
    ]


def interval(
    statistic: Callable[[Tensor, Tensor], float], targets: int, sources: int, seed: int = 0
) -> Interval:
    """`statistic(rows, columns)` of the whole table, with its percentile interval. Replicates in
    which it is not a number are left out.
    """
    whole = statistic(torch.arange(targets), torch.arange(sources))
    drawn = torch.tensor(
        [statistic(*pair) for pair in resampled_pairs(targets, sources, seed)],
        dtype=torch.float64,
    )
    drawn = drawn[~drawn.isnan()]
    if not len(drawn):
        return Interval(whole, float("nan"), float("nan"))
    edges = torch.tensor([(1 - COVERAGE) / 2, (1 + COVERAGE) / 2], dtype=torch.float64)
    low, high = torch.quantile(drawn, edges).tolist()
    return Interval(whole, low, high)


def mean_interval(table: Tensor, seed: int = 0) -> Interval:
    """Mean over targets and sources [T, S], leaving out what is not a number."""

    def mean(rows: Tensor, columns: Tensor) -> float:
        return table[rows][:, columns].nanmean().item()

    return interval(mean, *table.shape, seed)


def crossing(similarity: Tensor, distance: Tensor, level: float) -> float:
    """The distance [K] at the first strength at which similarity [K], linear between strengths,
    reaches `level`; not a number where it never does.
    """
    if similarity[0] >= level:
        return distance[0].item()
    for k in range(1, len(similarity)):
        low, high = similarity[k - 1].item(), similarity[k].item()
        if high >= level:
            share = (level - low) / (high - low)
            return torch.lerp(distance[k - 1], distance[k], share).item()
    return float("nan")


def difference_at_equal_similarity(
    ours: tuple[Tensor, Tensor], other: tuple[Tensor, Tensor], strength: int, seed: int = 0
) -> tuple[Interval, float]:
    """How much further from themselves the other method takes people than ours, where both look as
    much like the target: positive, ours keeps identity better.

    Each is similarity and identity distance, [T, K, S] and [T, K, S], at K strengths from zero. The
    level is that of ours at its `strength`-th, or what the other reaches at most, if that is less;
    the second number is the level's share of ours. Curves are means over the pairs: the crossing
    of one noisy pair would favour whichever curve is noisier.
    """

    def mean_curves(curves: tuple[Tensor, Tensor], rows: Tensor, columns: Tensor):
        return [table[rows][:, :, columns].mean((0, 2)) for table in curves]

    def level_of(a: Tensor, b: Tensor) -> float:
        return min(a[strength].item(), b.max().item())

    def statistic(rows: Tensor, columns: Tensor) -> float:
        (a, far_a), (b, far_b) = (mean_curves(c, rows, columns) for c in (ours, other))
        level = level_of(a, b)
        return crossing(b, far_b, level) - crossing(a, far_a, level)

    targets, _, sources = ours[0].shape
    rows, columns = torch.arange(targets), torch.arange(sources)
    a, b = mean_curves(ours, rows, columns)[0], mean_curves(other, rows, columns)[0]
    gained = (a[strength] - a[0]).item()
    share = (level_of(a, b) - a[0].item()) / gained if gained else float("nan")
    return interval(statistic, targets, sources, seed), share
