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
    """sqrt(2) * leaky_relu(scale * x + noise + bias, 0.2); the gain keeps the variance of a normal
    input.

    `x` [B, C, ...], `bias` [C], `noise` [1, 1, H, W] or [B, 1, H, W], scaled already, `scale` [B,
    C]. `x` stays as it is.
    """
    beside = [1] * (x.ndim - 2)
    if bias is None and noise is None and scale is None:
        return F.leaky_relu(x, LEAK).mul_(GAIN)
    # The gain goes through the leak into the small factors, so that the large one is walked over
    # twice: multiply and add, leak.
    added = _added(x, bias, noise)
    if scale is None:
        return F.leaky_relu_(torch.add(added, x, alpha=GAIN), LEAK)
    return F.leaky_relu_(
        torch.addcmul(added, x, (GAIN * scale).to(x.dtype).view(*x.shape[:2], *beside)), LEAK
    )


def _added(x: Tensor, bias: Tensor | None, noise: Tensor | None) -> Tensor:
    """GAIN * (bias + noise), of x's type and in its layout: the first operand decides over that of
    a sum.
    """
    if bias is None and noise is None:
        return x.new_zeros(())
    last = x.ndim == 4 and x.is_contiguous(memory_format=torch.channels_last)
    terms = []
    if noise is not None:
        terms.append(GAIN * (noise.movedim(1, -1) if last else noise))
    if bias is not None:
        terms.append(GAIN * (bias if last else bias.view(1, -1, *[1] * (x.ndim - 2))))
    added = sum(terms[1:], terms[0]).to(x.dtype)
    if not last:
        return added
    return added.movedim(-1, 1) if noise is not None else added.view(1, -1, 1, 1)


def upfirdn2d(
    x: Tensor, taps: tuple[float, ...], up: int = 1, pad: tuple[int, int] = (0, 0)
) -> Tensor:
    """Resample [B, C, H, W]: put up-1 zeros after each pixel, pad both axes by `pad`, convolve both
    with the symmetric `taps` (k of them).

    Output side = H * up + pad0 + pad1 - k + 1.
    """
    return Resample.apply(_resample, x, taps, up, 1, pad[0], output_sides(x, taps, up, pad))


def output_sides(
    x: Tensor, taps: tuple[float, ...], up: int, pad: tuple[int, int]
) -> tuple[int, int]:
    height, width = (side * up + sum(pad) - len(taps) + 1 for side in x.shape[2:])
    return height, width


class Resample(Function):
    """out[o] = sum_k taps[k] * spread(x)[o * down + k - pad], `spread` with up-1 zeros after each
    pixel; output sides given.

    The derivative is the same operation, `compute` again, with up and down exchanged. Autograd's
    own, through slices, fills and adds a picture of zeros for each tap.
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
        return (
            None,
            Resample.apply(ctx.compute, g, taps[::-1], down, up, len(taps) - 1 - pad, sides),
            None,
            None,
            None,
            None,
            None,
        )


def _resample(
    x: Tensor, taps: tuple[float, ...], up: int, down: int, pad: int, sides: tuple[int, int]
) -> Tensor:
    """Two passes of shifted sums: on a CPU twice as fast as a depthwise convolution."""
    if up > 1:
        b, c, h, w = x.shape
        spread = x.new_zeros(b, c, h, up, w, up)
        spread[:, :, :, 0, :, 0] = x
        x = spread.view(b, c, h * up, w * up)
    # Negative padding cuts off what no output looks at.
    ends = [
        (side - 1) * down + len(taps) - pad - before
        for side, before in zip(sides, x.shape[2:], strict=True)
    ]
    x = F.pad(x, (pad, ends[1], pad, ends[0]))
    return _filter(_filter(x, taps, 3, down), taps, 2, down)


def _filter(x: Tensor, taps: tuple[float, ...], dim: int, down: int) -> Tensor:
    side = x.shape[dim] - len(taps) + 1

    def shifted(i: int) -> Tensor:
        part = x.narrow(dim, i, side)
        return part if down == 1 else part[(slice(None),) * dim + (slice(None, None, down),)]

    out = shifted(0) * taps[0]
    for i, tap in enumerate(taps[1:], start=1):
        out.add_(shifted(i), alpha=tap)
    return out
