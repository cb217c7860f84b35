"""The generator's two discriminators, one of pixels and one of the frozen face network's feature
maps, and their losses.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

LAZY = 16  # steps between R1 penalties (StyleGAN2, section 4.1)
GROUP = 4  # pictures over which a deviation is taken
FEATURE_SCALE = 0.5  # about the mean of each stage's maps of the face network


class PixelDiscriminator(nn.Module):
    """Pictures [B, 3, S, S] to scores: of patches [B, 1, S/8, S/8] and of the whole [B, 1]."""

    def __init__(self, size: int, widths: Sequence[int] = (24, 48, 96, 160)):
        super().__init__()
        chain = [3, *widths]
        self.blocks = nn.ModuleList(
            DiscriminatorBlock(a, b) for a, b in zip(chain, chain[1:], strict=False)
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
        return [patch, self.whole(torch.cat([x, minibatch_deviation(x)], 1))]


class DiscriminatorBlock(nn.Module):
    def __init__(self, in_ch: int, out_ch: int):
        super().__init__()
        self.conv1 = nn.Conv2d(in_ch, out_ch, 3, padding=1, stride=2)
        self.conv2 = nn.Conv2d(out_ch, out_ch, 3, padding=1)
        self.skip = nn.Conv2d(in_ch, out_ch, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y = F.leaky_relu(self.conv2(F.leaky_relu(self.conv1(x), 0.2)), 0.2)
        return (y + self.skip(F.avg_pool2d(x, 2))) / 2**0.5


def minibatch_deviation(x: Tensor) -> Tensor:
    """Minibatch standard deviation (Karras et al. 2018, section 3), [B, 1, H, W]: pictures that are
    all alike give themselves away.
    """
    batch, _, height, width = x.shape
    group = math.gcd(GROUP, batch)
    parts = x.float().view(group, batch // group, *x.shape[1:])
    deviation = (parts.var(dim=0, unbiased=False) + 1e-8).sqrt().mean(dim=(1, 2, 3))
    return deviation.repeat(group).view(batch, 1, 1, 1).expand(-1, -1, height, width).to(x.dtype)


class FeatureDiscriminator(nn.Module):
    """A small head on each of the face network's maps: a projected discriminator (Sauer et al.
    2021, arXiv 2111.01007) without the projections.
    """

    def __init__(self, channels: Sequence[int] = (32, 64, 128, 256), width: int = 64):
        super().__init__()

        def conv(in_ch: int, out_ch: int, kernel: int) -> nn.Module:
            return spectral_norm(nn.Conv2d(in_ch, out_ch, kernel, padding=kernel // 2))

        self.heads = nn.ModuleList(
            nn.Sequential(
                conv(c, width, 3),
                nn.LeakyReLU(0.2),
                conv(width, width, 3),
                nn.LeakyReLU(0.2),
                conv(width, 1, 1),
            )
            for c in channels
        )

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Maps, the finest first, to the scores of each [B, 1, H, W]."""
        pairs = zip(self.heads, features, strict=False)  # the last stage has no head
        return [head(x / FEATURE_SCALE) for head, x in pairs]


# ---- losses


def generator_loss(fake: Sequence[Tensor]) -> Tensor:
    """Non-saturating logistic loss (Goodfellow et al. 2014): softplus(-D(fake)), the mean over
    places, pictures and heads.
    """
    return torch.stack([F.softplus(-scores.float()).mean() for scores in fake]).mean()


def discriminator_loss(real: Sequence[Tensor], fake: Sequence[Tensor]) -> Tensor:
    """softplus(D(fake)) + softplus(-D(real)), means as in `generator_loss`."""
    return generator_loss([-scores for scores in fake]) + generator_loss(real)


def r1_penalty(scores: Sequence[Tensor], real: Tensor) -> Tensor:
    """R1 (Mescheder et al. 2018): the mean squared norm of the gradient of the scores with respect
    to the real pictures.
    """
    total = sum(s.float().mean(dim=tuple(range(1, s.ndim))).sum() for s in scores)
    (gradient,) = torch.autograd.grad(total, real, create_graph=True)
    return gradient.square().sum(dim=(1, 2, 3)).mean()
