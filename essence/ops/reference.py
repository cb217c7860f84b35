"""The image operations of StyleGAN2 in plain torch: exact, differentiable to any order, on any
device.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import Function

LEAK = 0.2
GAIN = 2**0.5


def leaky_relu(
    x: Tensor, bias: Tensor | None = None, noise: Tensor | None = None, scale: Tensor | None = None
) -> Tensor:
    """As ops.leaky_relu. `x` is not changed."""
    if x.is_cuda and x.dtype != torch.float32:
        return _leaky_relu_rounded_once(x, bias, noise, scale)
    if bias is None and noise is None and scale is None:
        return F.leaky_relu(x, LEAK).mul_(GAIN)
    # The gain is multiplied into the small terms, so that the map itself takes two passes only:
    # multiply and add, then leak.
    channels_last = x.ndim == 4 and x.is_contiguous(memory_format=torch.channels_last)
    beside = [1] * (x.ndim - 2)
    terms = []
    if noise is not None:
        terms.append(GAIN * (noise.movedim(1, -1) if channels_last else noise))
    if bias is not None:
        terms.append(GAIN * (bias if channels_last else bias.view(1, -1, *beside)))
    added = sum(terms[1:], terms[0]).to(x.dtype) if terms else x.new_zeros(())
    # torch lays a sum out as its first operand is, so what is added must have the layout of x.
    if terms and channels_last:
        added = added.movedim(-1, 1) if noise is not None else added.view(1, -1, 1, 1)
    if scale is None:
        return F.leaky_relu_(torch.add(added, x, alpha=GAIN), LEAK)
    scale = (GAIN * scale).to(x.dtype).view(*x.shape[:2], *beside)
    return F.leaky_relu_(torch.addcmul(added, x, scale), LEAK)


def _leaky_relu_rounded_once(
    x: Tensor, bias: Tensor | None, noise: Tensor | None, scale: Tensor | None
) -> Tensor:
    """As the kernels have it: in float32, and rounded at the end. Which side of the kink a number
    lies on is decided before any rounding.
    """
    beside, total = [1] * (x.ndim - 2), x.float()
    if scale is not None:
        total = total * scale.float().view(*x.shape[:2], *beside)
    terms = [] if bias is None else [bias.float().view(1, -1, *beside)]
    terms += [] if noise is None else [noise.float()]
    if terms:
        total = total + sum(terms[1:], terms[0])
    return (F.leaky_relu(total, LEAK) * GAIN).to(x.dtype)


def add_norm(
    x: Tensor, branch: Tensor | None, norm: torch.nn.LayerNorm, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """As ops.add_norm."""
    total = x if branch is None else x + branch
    out = F.layer_norm(total, norm.normalized_shape, norm.weight, norm.bias, norm.eps)
    return total, out.to(dtype)


def upfirdn2d(
    x: Tensor, taps: tuple[float, ...], up: int = 1, pad: tuple[int, int] = (0, 0)
) -> Tensor:
    """As ops.upfirdn2d."""
    return Resample.apply(_resample, x, taps, up, 1, pad[0], output_sides(x, taps, up, pad))


def output_sides(
    x: Tensor, taps: tuple[float, ...], up: int, pad: tuple[int, int]
) -> tuple[int, int]:
    """Height and width of what upfirdn2d returns: H * up + pad0 + pad1 - k + 1."""
    height, width = (side * up + sum(pad) - len(taps) + 1 for side in x.shape[2:])
    return height, width


class Resample(Function):
    """out[o] = sum_k taps[k] * spread(x)[o * down + k - pad] along both axes, where `spread` puts
    up-1 zeros behind each pixel; `sides` are those of the output.

    `compute` does the work. The derivative is the same operation with up and down exchanged;
    autograd's own, through slices, would fill and add a map of zeros for each tap.
    """

    @staticmethod
    def forward(
        ctx,
        compute: Callable[..., Tensor],
        x: Tensor,
        taps: tuple[float, ...],
        up: int,
        down: int,
        pad: int,
        sides: tuple[int, int],
    ) -> Tensor:
        ctx.compute, ctx.geometry = compute, (taps, up, down, pad, tuple(x.shape[2:]))
        return compute(x, taps, up, down, pad, sides)

    @staticmethod
    def backward(ctx, g: Tensor) -> tuple[Tensor | None, ...]:
        taps, up, down, pad, sides = ctx.geometry
        g = Resample.apply(ctx.compute, g, taps[::-1], down, up, len(taps) - 1 - pad, sides)
        return None, g, None, None, None, None, None


def _resample(
    x: Tensor, taps: tuple[float, ...], up: int, down: int, pad: int, sides: tuple[int, int]
) -> Tensor:
    """Two passes of shifted sums: on a CPU twice as fast as a depthwise convolution."""
    if up > 1:
        b, c, h, w = x.shape
        spread = x.new_zeros(b, c, h, up, w, up)
        spread[:, :, :, 0, :, 0] = x
        x = spread.view(b, c, h * up, w * up)
    # What the outputs read behind the last pixel; negative padding cuts off what none of them does.
    bottom, right = (
        (side - 1) * down + len(taps) - pad - before
        for side, before in zip(sides, x.shape[2:], strict=True)
    )
    x = F.pad(x, (pad, right, pad, bottom))
    return _convolve_axis(_convolve_axis(x, taps, 3, down), taps, 2, down)


def _convolve_axis(x: Tensor, taps: tuple[float, ...], dim: int, down: int) -> Tensor:
    """sum_k taps[k] * x[o * down + k] along one axis."""
    side = x.shape[dim] - len(taps) + 1

    def shifted(i: int) -> Tensor:
        part = x.narrow(dim, i, side)
        return part if down == 1 else part[(slice(None),) * dim + (slice(None, None, down),)]

    out = shifted(0) * taps[0]
    for i, tap in enumerate(taps[1:], start=1):
        out.add_(shifted(i), alpha=tap)
    return out
