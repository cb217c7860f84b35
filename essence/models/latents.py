"""The latents' own axes: mean and covariance of w, so that a step of one size means as much along
every axis (docs/METHOD.md).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

# Enough for the covariance of 512 coordinates: its smallest axes are then known to about a part in
# a thousand.
SAMPLES = 1_000_000
SAMPLES_AT_ONCE = 8192
# Axes with less than this share of the largest variance carry rounding errors, not faces.
SMALLEST_SHARE = 1e-5
# `hold`: standard deviations that are left to a source at or beyond its reach, and how sharp the
# bend is before it.
LEAST_ROOM = 0.5
SHARPNESS = 4


@dataclass(frozen=True, eq=False)
class LatentAxes:
    """Principal axes of w: `mean` m [D] and `axes` diag(sqrt l) U^T [K, D], of which row k is one
    standard deviation long along axis k.
    """

    mean: Tensor
    axes: Tensor

    @classmethod
    def of(cls, mean: Tensor, covariance: Tensor) -> LatentAxes:
        """From m [D] and the covariance U diag(l) U^T [D, D]; axes without variance are
        dropped.
        """
        variance, directions = torch.linalg.eigh(covariance.double())
        keep = variance > SMALLEST_SHARE * variance.max()
        axes = variance[keep].sqrt()[:, None] * directions.T[keep]
        return cls(mean.float(), axes.flip(0).float())

    def to(self, device: torch.device | str) -> LatentAxes:
        return LatentAxes(self.mean.to(device), self.axes.to(device))

    def shift(self, common: Tensor, own: Tensor) -> Tensor:
        """(u + v) diag(sqrt l) U^T: u [..., 1, K] shared by all layers, v [..., L, K] for each
        layer, to a shift of w+ [..., L, D].
        """
        return (common + own) @ self.axes

    def coordinates(self, delta: Tensor) -> Tensor:
        """Coordinates [..., K] of a shift [..., D] along the axes, in standard deviations; what
        lies outside them is left out.
        """
        return delta @ (self.axes / self.axes.square().sum(1, keepdim=True)).T

    def hold(self, w: Tensor, shift: Tensor, reach: float | None) -> Tensor:
        """`shift` [..., L, D] of w+ `w`, shortened where it would lead further along itself than
        `reach` standard deviations of w.

        The truncation trick (Karras et al. 2019, section 4), along one line only: beyond what the
        mapping network gives, a generator draws half-transparent hair and light around heads. A
        source that is already far out on the line of an essence, as a bald man is on that of age,
        moves little; others move as before. None: `shift` as it is.
        """
        if reach is None:
            return shift
        line = shift.mean(-2)
        # Standard deviation of w @ line, where the covariance of w is axes^T axes.
        deviation = (line @ self.axes.T).norm(dim=-1, keepdim=True).clamp(min=1e-6)
        place = ((w.mean(-2) - self.mean) * line).sum(-1, keepdim=True) / deviation
        length = line.square().sum(-1, keepdim=True) / deviation
        room = (reach - place).clamp(min=LEAST_ROOM)
        return shift / (1 + (length / room) ** SHARPNESS)[..., None] ** (1 / SHARPNESS)

    def sample(self, count: int, generator: torch.Generator | None = None) -> Tensor:
        """w [count, D] from the Gaussian."""
        device = generator.device if generator else None
        normal = torch.randn(count, len(self.axes), generator=generator, device=device)
        normal = normal.to(self.axes)
        return self.mean + normal @ self.axes


def move(w: Tensor, shift: Tensor, axes: LatentAxes | None, reach: float | None) -> Tensor:
    """w + `shift`, shortened to end within `reach` (LatentAxes.hold) where the axes are known."""
    return w + (shift if axes is None else axes.hold(w, shift, reach))


@torch.no_grad()
def mean_and_covariance(
    mapping: Callable[[Tensor], Tensor],
    width: int,
    device: torch.device | str = "cpu",
    samples: int = SAMPLES,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[Tensor, Tensor]:
    """Mean [D] and covariance [D, D] of w = mapping(z) over `samples` standard normal z [B, D],
    D = `width`; float64, on the CPU.

    `progress(done, samples)` is called after each batch. Sums are taken around the first batch's
    mean, so that a latent far from zero loses no digits.
    """
    random = torch.Generator().manual_seed(0)
    total, square = torch.zeros(width).double(), torch.zeros(width, width).double()
    done, centre = 0, None
    while done < samples:
        count = min(SAMPLES_AT_ONCE, samples - done)
        w = mapping(torch.randn(count, width, generator=random).to(device)).float()
        centre = w.mean(0) if centre is None else centre
        w = w - centre
        total += w.sum(0).cpu().double()  # MPS has no float64
        square += (w.T @ w).cpu().double()
        done += count
        if progress is not None:
            progress(done, samples)
    mean = total / samples
    return mean + centre.cpu().double(), square / samples - torch.outer(mean, mean)
