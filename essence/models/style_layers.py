"""The layers of StyleGAN2 (Karras et al. 2020, arXiv 1912.04958), under the names of the common
PyTorch checkpoints.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..ops import leaky_relu, upfirdn2d

# The filter [1, 3, 3, 1] of every StyleGAN2, along one axis. It sums to two: the zeros put between
# the pixels halve the light on each axis.
BLUR = (0.25, 0.75, 0.75, 0.25)
# The mapping network learns 100 times slower; its stored weights are larger by as much.
MAPPING_LR = 0.01


def enlarge(picture: Tensor) -> Tensor:
    """The picture so far [B, 3, H, W] to twice the side (figure 7b)."""
    return upfirdn2d(picture, BLUR, up=2, pad=(2, 1))


class EqualLinear(nn.Module):
    """Linear layer with an equalised learning rate: the stored weight has unit variance and is
    scaled by 1 / sqrt(fan in) as it runs.
    """

    def __init__(self, in_dim: int, out_dim: int, bias: float = 0.0, lr: float = 1.0):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(out_dim, in_dim) / lr)
        self.bias = nn.Parameter(torch.full((out_dim,), bias))
        self.scale, self.lr = lr / math.sqrt(in_dim), lr

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight * self.scale, self.bias * self.lr)


class MappingLayer(EqualLinear):
    """A layer of the mapping network: linear, then leaky ReLU."""

    def __init__(self, dim: int):
        super().__init__(dim, dim, lr=MAPPING_LR)

    def forward(self, x: Tensor) -> Tensor:
        return leaky_relu(super().forward(x))


class PixelNorm(nn.Module):
    """z [B, D] to length sqrt(D)."""

    def forward(self, z: Tensor) -> Tensor:
        return z * torch.rsqrt(z.square().mean(dim=1, keepdim=True) + 1e-8)


class StoredBlur(nn.Module):
    """The blur as checkpoints have it, the same in all: `blur.kernel` behind an upsampling
    convolution, `upsample.kernel` for the picture so far. Nothing reads it.
    """

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("kernel", torch.outer(torch.tensor(BLUR), torch.tensor(BLUR)))


class ModulatedConv(nn.Module):
    """Modulation, convolution, demodulation (section 2.2, figure 2d).

    The paper multiplies the weights, w'_ijk = s_i w_ijk (eq. 1) and w''_ijk = w'_ijk / |w'_j|
    (eq. 3), for each picture; multiplying the maps before and behind the convolution gives the same
    numbers with one ordinary convolution for the whole batch.
    """

    def __init__(
        self,
        in_ch: int,
        out_ch: int,
        kernel: int,
        style_dim: int,
        upsample: bool = False,
        demodulate: bool = True,
    ):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(1, out_ch, in_ch, kernel, kernel))
        self.modulation = EqualLinear(style_dim, in_ch, bias=1.0)
        self.scale = 1 / math.sqrt(in_ch * kernel * kernel)
        self.upsample, self.demodulate = upsample, demodulate
        if upsample:
            self.blur = StoredBlur()

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        """x [B, in, H, W] and w [B, D] to [B, out, H, W], or twice the sides if it upsamples."""
        return self.with_style(x, self.modulation(w))

    def with_style(self, x: Tensor, s: Tensor) -> Tensor:
        """The same from the style s [B, in] itself."""
        s = s * self.scale
        x = x * s[:, :, None, None].to(x.dtype)
        weight = self.weight[0]
        if self.upsample:
            x = F.conv_transpose2d(x, weight.transpose(0, 1), stride=2)
            x = upfirdn2d(x, BLUR, pad=(1, 1))
        else:
            x = F.conv2d(x, weight, padding=weight.shape[-1] // 2)
        if self.demodulate:
            energy = weight.float().square().sum(dim=(2, 3))  # [out, in]
            inverse = torch.rsqrt(s.float().square() @ energy.T + 1e-8)  # 1 / |w'_j|, [B, out]
            x = x * inverse[:, :, None, None].to(x.dtype)
        return x


class NoiseStrength(nn.Module):
    """The factor B of figure 2, one for all channels, under the checkpoints' name."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))


class ActivationBias(nn.Module):
    """The bias b of figure 2, under the checkpoints' name."""

    def __init__(self, channels: int):
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(channels))


class StyledConv(nn.Module):
    """A style block of figure 2d: modulated convolution, noise and bias, leaky ReLU."""

    def __init__(self, in_ch: int, out_ch: int, style_dim: int, upsample: bool = False):
        super().__init__()
        self.conv = ModulatedConv(in_ch, out_ch, 3, style_dim, upsample)
        self.noise = NoiseStrength()
        self.activate = ActivationBias(out_ch)

    def forward(self, x: Tensor, s: Tensor, noise: Tensor) -> Tensor:
        """x [B, in, H, W], style s [B, in], noise [1, 1, H', W'] to [B, out, H', W']."""
        x = self.conv.with_style(x, s)
        return leaky_relu(x, self.activate.bias, self.noise.weight * noise)


class ToRGB(nn.Module):
    """tRGB of figure 7b: a map to colours by a modulated 1x1 convolution, not demodulated."""

    def __init__(self, in_ch: int, style_dim: int, upsample: bool):
        super().__init__()
        self.conv = ModulatedConv(in_ch, 3, 1, style_dim, demodulate=False)
        self.bias = nn.Parameter(torch.zeros(1, 3, 1, 1))
        if upsample:
            self.upsample = StoredBlur()

    def forward(self, x: Tensor, s: Tensor) -> Tensor:
        """x [B, in, H, W], style s [B, in] to [B, 3, H, W], float32: in bfloat16 the sum of nine of
        these would show as bands.
        """
        return self.conv.with_style(x, s).float() + self.bias


class ConstantInput(nn.Module):
    """The learned 4x4 map that every picture starts from."""

    def __init__(self, channels: int):
        super().__init__()
        self.input = nn.Parameter(torch.randn(1, channels, 4, 4))
