"""The latents' own axes: mean and covariance of w, so that a step of one size means as much along every axis (docs/METHOD.md)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

# Axes with less than this share of the largest variance carry rounding errors, not faces.
SMALLEST_SHARE = 1e-5


@dataclass(frozen=True, eq=False)
class LatentAxes:
    """`mean` m [D]; `axes` diag(sqrt l) U^T [K, D]: row k is one standard deviation along axis k."""

    mean: Tensor
    axes: Tensor

    @classmethod
    def of(cls, mean: Tensor, covariance: Tensor) -> LatentAxes:
        """From m [D] and S = U diag(l) U^T [D, D]; axes without variance are dropped."""
        variance, directions = torch.linalg.eigh(covariance.double())
        keep = variance > SMALLEST_SHARE * variance.max()
        axes = variance[keep].sqrt()[:, None] * directions.T[keep]
        return cls(mean.float(), axes.flip(0).float())

    def to(self, device: torch.device | str) -> LatentAxes:
        return LatentAxes(self.mean.to(device), self.axes.to(device))

    def shift(self, common: Tensor, own: Tensor) -> Tensor:
        """(u + v) diag(sqrt l) U^T: u [..., 1, K] shared by all layers, v [..., L, K] for each layer, to a shift of w+ [..., L, D]."""
        return (common + own) @ self.axes

    def coordinates(self, delta: Tensor) -> Tensor:
        """Coordinates [..., K] of a shift [..., D] along the axes, in standard deviations; what lies outside them is left out."""
        return delta @ (self.axes / self.axes.square().sum(1, keepdim=True)).T

    def sample(self, count: int, generator: torch.Generator | None = None) -> Tensor:
        """w [count, D] from the Gaussian."""
        return self.mean + torch.randn(count, len(self.axes), generator=generator).to(self.axes) @ self.axes
