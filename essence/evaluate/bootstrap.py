"""Confidence intervals by the bootstrap, and two ways to edit compared at equal similarity."""

from __future__ import annotations

import math
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


# Weights of targets [R, T] and sources [R, S] to a statistic of each of R replicates, [R].
Statistic = Callable[[Tensor, Tensor], Tensor]


def interval(statistic: Statistic, targets: int, sources: int, seed: int = 0) -> Interval:
    """The statistic of the whole targets x sources table, with its percentile interval.

    Targets and sources are drawn with replacement independently of each other, since pairs that
    share a target or a source are not independent; a weight is how often one was drawn. Replicates
    in which the statistic is not a number are left out.
    """
    rng = torch.Generator().manual_seed(seed)
    weights = [drawn_weights(count, rng) for count in (targets, sources)]
    whole, *drawn = statistic(*weights).tolist()
    known = torch.tensor([value for value in drawn if not math.isnan(value)], dtype=torch.float64)
    if not len(known):
        return Interval(whole, math.nan, math.nan)
    edges = torch.tensor([(1 - COVERAGE) / 2, (1 + COVERAGE) / 2], dtype=torch.float64)
    return Interval(whole, *torch.quantile(known, edges).tolist())


def drawn_weights(count: int, rng: torch.Generator) -> Tensor:
    """How often each of `count` is drawn in each replicate, [1 + REPLICATES, count], float64; in
    the first row each is there once.
    """
    drawn = torch.randint(count, (REPLICATES, count), generator=rng)
    times = torch.zeros(REPLICATES, count, dtype=torch.float64)
    times.scatter_add_(1, drawn, torch.ones_like(times))
    return torch.cat([torch.ones(1, count, dtype=torch.float64), times])


def weighted_mean(table: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Means of a table [T, S, ...] with weights of its rows [R, T] and columns [R, S], leaving out
    what is not a number: [R, ...].
    """
    known = ~table.isnan()
    total, count = (
        torch.einsum("rt,ts...,rs->r...", rows, part.double(), columns)
        for part in (torch.where(known, table, 0.0), known)
    )
    return total / torch.where(count > 0, count, torch.nan)


def mean_interval(table: Tensor, seed: int = 0) -> Interval:
    """Mean over targets and sources [T, S], leaving out what is not a number."""
    return interval(lambda *weights: weighted_mean(table, *weights), *table.shape, seed)


def crossing(similarity: Tensor, distance: Tensor, level: Tensor) -> Tensor:
    """The distance at the first strength at which similarity reaches `level` [R], both [R, K] and
    linear between strengths; [R], not a number where it never does.
    """
    reached = similarity >= level[:, None]
    k = reached.double().argmax(1).clamp(min=1)[:, None]  # the first one, or the one after it

    def ends(values: Tensor) -> list[Tensor]:
        return [values.gather(1, place)[:, 0] for place in (k - 1, k)]

    (low, high), (near, far) = ends(similarity), ends(distance)
    share = ((level - low) / torch.where(high > low, high - low, 1.0)).clamp(0, 1)
    found = torch.lerp(near, far, share)
    return torch.where(reached.any(1), found, torch.nan)


def difference_at_equal_similarity(
    ours: tuple[Tensor, Tensor], other: tuple[Tensor, Tensor], strength: int, seed: int = 0
) -> tuple[Interval, float]:
    """How much further from themselves the other method takes people than ours, where both look as
    much like the target: positive, ours keeps identity better.

    Each is similarity and identity distance, [T, K, S] and [T, K, S], at K strengths from zero. The
    level is that of ours at its `strength`-th, or what the other reaches at most, if that is less;
    the second number is the level's share of what ours gains. Curves are means over the pairs: the
    crossing of one noisy pair would favour whichever curve is noisier.
    """
    targets, _, sources = ours[0].shape

    def levels(a: Tensor, b: Tensor) -> Tensor:
        return torch.minimum(a[:, strength], b.amax(1))

    def curves(weights: tuple[Tensor, ...]) -> list[Tensor]:
        return [weighted_mean(t.transpose(1, 2), *weights) for t in (*ours, *other)]  # [R, K]

    def statistic(*weights: Tensor) -> Tensor:
        a, far_a, b, far_b = curves(weights)
        level = levels(a, b)
        return crossing(b, far_b, level) - crossing(a, far_a, level)

    once = (torch.ones(1, targets).double(), torch.ones(1, sources).double())
    a, _, b, _ = curves(once)
    share = (levels(a, b) - a[:, 0]) / (a[:, strength] - a[:, 0])
    return interval(statistic, targets, sources, seed), share.item()
