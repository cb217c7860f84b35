"""Two critics for the generator, one of pixels and one of the frozen face network's feature maps;
what both see is altered alike.

Non-saturating logistic loss (Goodfellow et al. 2014), lazy R1 (Mescheder et al. 2018; StyleGAN2,
section 4.1), adaptive augmentation (Karras et al. 2020, arXiv 2006.06676) with a smaller set of
changes than the paper's.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

GROUP = 4  # pictures over which a deviation is taken


class PixelCritic(nn.Module):
    """Pictures [B, 3, S, S] to scores: of patches [B, 1, S/8, S/8] and of the whole [B, 1]."""

    def __init__(self, size: int, widths: Sequence[int] = (24, 48, 96, 160)):
        super().__init__()
        chain = [3, *widths]
        self.blocks = nn.ModuleList(
            CriticBlock(a, b) for a, b in zip(chain, chain[1:], strict=False)
        )
        self.patch = nn.Conv2d(widths[-2], 1, 3, padding=1)
        corner = size >> len(widths)
        self.whole = nn.Sequential(
            nn.Conv2d(widths[-1] + 1, widths[-1], 3, padding=1),
            nn.LeakyReLU(0.2),
            nn.Flatten(),
            nn.Linear(widths[-1] * corner**2, 1),
        )

    def forward(self, x: Tensor) -> list[Tensor]:
        for i, block in enumerate(self.blocks):
            x = block(x)
            if i == len(self.blocks) - 2:
                patch = self.patch(x)
        return [patch, self.whole(torch.cat([x, deviation(x)], 1))]


class CriticBlock(nn.Module):
    def __init__(self, in_ch: int, out_ch: int):
        super().__init__()
        self.conv1 = nn.Conv2d(in_ch, out_ch, 3, padding=1, stride=2)
        self.conv2 = nn.Conv2d(out_ch, out_ch, 3, padding=1)
        self.skip = nn.Conv2d(in_ch, out_ch, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y = F.leaky_relu(self.conv2(F.leaky_relu(self.conv1(x), 0.2)), 0.2)
        return (y + self.skip(F.avg_pool2d(x, 2))) / 2**0.5


def deviation(x: Tensor) -> Tensor:
    """Minibatch standard deviation (Karras et al. 2018, section 3), [B, 1, H, W]: pictures that are
    all alike give themselves away.
    """
    batch, _, height, width = x.shape
    group = math.gcd(GROUP, batch)
    parts = x.float().view(group, batch // group, *x.shape[1:])
    spread = (parts.var(dim=0, unbiased=False) + 1e-8).sqrt().mean(dim=(1, 2, 3))
    return spread.repeat(group).view(batch, 1, 1, 1).expand(-1, -1, height, width).to(x.dtype)


class FeatureCritic(nn.Module):
    """A small head on each of the face network's maps: projected critics (Sauer et al. 2021, arXiv
    2111.01007), without the projections.
    """

    def __init__(self, channels: Sequence[int] = (32, 64, 128, 256), width: int = 64):
        super().__init__()
        self.heads = nn.ModuleList(self._head(c, width) for c in channels)

    @staticmethod
    def _head(channels: int, width: int) -> nn.Sequential:
        first, second, last = (
            spectral_norm(nn.Conv2d(a, b, k, padding=k // 2))
            for a, b, k in ((channels, width, 3), (width, width, 3), (width, 1, 1))
        )
        return nn.Sequential(first, nn.LeakyReLU(0.2), second, nn.LeakyReLU(0.2), last)

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """`features`: maps, the finest first; scores of each [B, 1, H, W]."""
        return [
            head(x / SCALES[i])
            for i, (head, x) in enumerate(zip(self.heads, features, strict=False))
        ]


SCALES = (0.5, 0.5, 0.5, 0.5)  # about the mean of each stage's maps


def believe(scores: Sequence[Tensor]) -> Tensor:
    """How far the scores are from calling everything real: mean softplus(-D), over heads."""
    return torch.stack([F.softplus(-s.float()).mean() for s in scores]).mean()


def doubt(scores: Sequence[Tensor]) -> Tensor:
    """How far the scores are from calling everything generated."""
    return torch.stack([F.softplus(s.float()).mean() for s in scores]).mean()


def r1(scores: Sequence[Tensor], pictures: Tensor) -> Tensor:
    """Mean squared norm of the gradient of the scores with respect to real pictures."""
    total = sum(s.float().mean(dim=tuple(range(1, s.ndim))).sum() for s in scores)
    (gradient,) = torch.autograd.grad(total, pictures, create_graph=True)
    return gradient.square().sum(dim=(1, 2, 3)).mean()


# ---- augmentation


class Alteration:
    """A random change of shape and colour for each of `count` pictures; with probability 1 - p
    none. Applied alike to whatever is given.
    """

    def __init__(self, count: int, p: float, rng: torch.Generator):
        def normal(scale: float) -> Tensor:
            return (
                torch.randn(count, generator=rng) * scale * (torch.rand(count, generator=rng) < p)
            )

        angle, zoom = normal(0.05), torch.exp(normal(0.08))
        cos, sin = torch.cos(angle) * zoom, torch.sin(angle) * zoom
        self.theta = torch.stack(
            [torch.stack([cos, -sin, normal(0.05)], 1), torch.stack([sin, cos, normal(0.05)], 1)], 1
        )
        self.gain, self.lift, self.colour = (
            x.view(-1, 1, 1, 1)
            for x in (torch.exp(normal(0.15)), normal(0.1), torch.exp(normal(0.3)))
        )

    def __call__(self, x: Tensor) -> Tensor:
        grid = F.affine_grid(self.theta.to(x), list(x.shape), align_corners=False)
        x = F.grid_sample(x, grid, padding_mode="reflection", align_corners=False)
        grey = x.mean(1, keepdim=True)
        return (grey + (x - grey) * self.colour.to(x)) * self.gain.to(x) + self.lift.to(x)
