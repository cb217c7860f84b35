"""Operations of the networks: one public function each, our kernel or plain torch behind it.

`dispatch.py` decides which; the values are the same. Maps are [B, C, H, W], weights of convolutions
[out, in, 3, 3] or, for colours, [3, in, 1, 1].
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from . import cuda, reference, winograd
from .dispatch import (
    backend,
    bfloat16_pays,
    cuda_kernels,
    is_learned,
    takes_cpu_kernels,
    takes_cuda_kernels,
)
from .weight_cache import WeightCache
from .winograd import OutputSkip

__all__ = [
    "OutputSkip",
    "WeightCache",
    "add_norm",
    "backend",
    "bfloat16_pays",
    "compile_kernels",
    "conv_leaky_relu",
    "is_learned",
    "leaky_relu",
    "styled_conv",
    "styled_conv_to_rgb",
    "upfirdn2d",
]


def compile_kernels() -> None:
    """Compile the CUDA kernels, where they are wanted and are not there yet. Raises UserError where
    ESSENCE_OPS=cuda demands them and they do not compile.
    """
    cuda_kernels()


def leaky_relu(
    x: Tensor, bias: Tensor | None = None, noise: Tensor | None = None, scale: Tensor | None = None
) -> Tensor:
    """sqrt(2) * leaky_relu(scale * x + noise + bias, 0.2); the gain keeps the variance of a normal
    input.

    `x` [B, C, ...], `bias` [C], `noise` [1, 1, H, W] or [B, 1, H, W], already multiplied by its
    strength, `scale` [B, C].
    """
    module = cuda if takes_cuda_kernels(x) else reference
    return module.leaky_relu(x, bias, noise, scale)


def add_norm(
    x: Tensor, branch: Tensor | None, norm: torch.nn.LayerNorm, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """x + branch, float32 like `x` [..., D], and its layer norm in `dtype`, in which the branch
    is, too, where there is one.
    """
    fast = takes_cuda_kernels(x) and x.dtype == torch.float32 and not is_learned(norm.parameters())
    return (cuda if fast else reference).add_norm(x, branch, norm, dtype)


def upfirdn2d(
    x: Tensor, taps: tuple[float, ...], up: int = 1, pad: tuple[int, int] = (0, 0)
) -> Tensor:
    """Resample a map: put up-1 zeros behind each pixel, pad both axes by `pad` on their two sides,
    convolve both with the symmetric `taps`, k of them.

    Output side = H * up + pad0 + pad1 - k + 1.
    """
    return (cuda if takes_cuda_kernels(x) else reference).upfirdn2d(x, taps, up, pad)


def conv_leaky_relu(
    x: Tensor, weight: Tensor, bias: Tensor, leak: float, cache: WeightCache
) -> Tensor:
    """leaky_relu(conv2d(x, weight, bias, padding=1), leak); a leak of 0 is an ordinary ReLU, 1 is
    no activation at all. `cache` keeps what follows from the weight.
    """
    if takes_cpu_kernels(x, weight, bias):
        return winograd.conv_leaky_relu(x, weight, bias, leak, cache)
    x = F.conv2d(x, weight, bias, padding=1)
    return x if leak == 1 else F.leaky_relu(x, leak)


def styled_conv(
    x: Tensor,
    weight: Tensor,
    style: Tensor,
    scale: Tensor,
    bias: Tensor,
    noise: Tensor,
    taps: tuple[float, ...] | None,
    cache: WeightCache,
) -> Tensor:
    """sqrt(2) * leaky_relu(scale * conv(style * x) + noise + bias, 0.2): a layer of StyleGAN2
    (arXiv 1912.04958, figure 2d), where modulation and demodulation multiply the maps before and
    behind the convolution, which is the same as multiplying its weights (eq. 1 and 3).

    `style` [B, in], `scale` [B, out], `bias` [out], `noise` [1, 1, H', W']. With the `taps` of a
    blur the convolution is a transposed one with stride 2, blurred: H' = 2 H. Without: H' = H.
    `cache` keeps what follows from the weight.
    """
    if takes_cpu_kernels(x, weight, bias, taps, noise):
        return winograd.styled_conv(x, weight, style, scale, bias, noise, taps, cache)
    x = x * style[:, :, None, None].to(x.dtype)
    if taps is None:
        x = F.conv2d(x, weight, padding=1)
    else:
        x = upfirdn2d(F.conv_transpose2d(x, weight.transpose(0, 1), stride=2), taps, pad=(1, 1))
    return leaky_relu(x, bias, noise, scale)


def styled_conv_to_rgb(
    x: Tensor,
    weight: Tensor,
    style: Tensor,
    scale: Tensor,
    bias: Tensor,
    noise: Tensor,
    skip: OutputSkip,
    cache: WeightCache,
) -> tuple[Tensor, Tensor]:
    """The map y of a `styled_conv` without upsampling, and the picture so far, [B, 3, H, W],
    float32: conv1x1(skip.style * y) + skip.bias + upsample(skip.below). Output skips sum these up
    (figure 7b).
    """
    if (
        takes_cpu_kernels(x, weight, bias, None, noise)
        and winograd.supports_skip(skip)
        and not is_learned((skip.weight, skip.bias))
    ):
        return winograd.styled_conv_to_rgb(x, weight, style, scale, bias, noise, skip, cache)
    y = styled_conv(x, weight, style, scale, bias, noise, None, cache)
    # Summed in float32: in bfloat16 eight additions would show as bands.
    picture = F.conv2d(y * skip.style[:, :, None, None].to(y.dtype), skip.weight).float()
    picture = picture + skip.bias[:, None, None]
    if skip.below is not None:
        picture = picture + upfirdn2d(skip.below, skip.taps, up=2, pad=(2, 1))
    return y, picture
