"""StyleGAN2's layers and plain 3x3 convolutions on a CPU, with frozen weights, by Winograd's
algorithm (Lavin and Gray, arXiv 1509.09308) in C++ (winograd.cpp).

There are first derivatives only. Results have their channels innermost (channels_last).
"""

from __future__ import annotations

import ctypes
from typing import NamedTuple

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from . import build
from .reference import GAIN, LEAK
from .weight_cache import WeightCache

PANEL, TILE, COLOURS = 16, 4, 3  # as in winograd.cpp
BLUR = (0.25, 0.75, 0.75, 0.25)  # the only blur that winograd.cpp knows
MIN_SIDE = 4  # of a map; tiles of smaller ones would be almost empty
# Rows: the six matrices of one axis, from its three weights (see winograd.cpp). FLAT is for an
# ordinary convolution, FLAT_BACK for its derivative, whose weights are turned round. UP is for a
# transposed convolution with stride 2, whose even outputs see the outer two weights and whose odd
# ones the inner, UP_BACK for its derivative.
FLAT = (
    (1 / 4, 0, 0),
    (-1 / 6, -1 / 6, -1 / 6),
    (-1 / 6, 1 / 6, -1 / 6),
    (1 / 24, 1 / 12, 1 / 6),
    (1 / 24, -1 / 12, 1 / 6),
    (0, 0, 1),
)
FLAT_BACK = tuple(row[::-1] for row in FLAT)
UP_BACK = ((2, 0, 0), (1, 0, 1), (-1 / 3, 0, 1 / 3), (-8 / 3, 0, -4 / 3), (0, 0, 1), (0, 1, 0))
UP = tuple(row[::-1] for row in UP_BACK)


def _fields(floats: str, integers: str, pointers: str) -> list[tuple[str, type]]:
    kinds = {ctypes.c_float: floats, ctypes.c_long: integers, ctypes.c_void_p: pointers}
    return [(name, kind) for kind, names in kinds.items() for name in names.split()]


class _Layer(ctypes.Structure):
    """`struct Layer` of winograd.cpp."""

    _fields_ = _fields(
        "leak gain",
        "pictures height width inner out fold threads",
        "x weights before after noise bias result "
        "y input factors colours in_sums out_sums factor_sums",
    )


class _Picture(ctypes.Structure):
    """`struct Picture` of winograd.cpp."""

    _fields_ = _fields(
        "", "pictures height width channels threads", "x factors bias below g result"
    )


class OutputSkip(NamedTuple):
    """What the picture so far takes besides a map [B, C, H, W]."""

    weight: Tensor  # [3, C, 1, 1], frozen
    style: Tensor  # [B, C]
    bias: Tensor  # [3], frozen
    below: Tensor | None  # the picture of half the side, [B, 3, H/2, W/2]
    taps: tuple[float, ...]  # of the blur that enlarges it


def supports(x: Tensor, weight: Tensor, taps: tuple[float, ...] | None = None) -> bool:
    """Whether the convolution of `x` with `weight` can be computed here: float32 on a CPU, full
    panels of channels, StyleGAN2's own blur, and a map that is not too small.
    """
    return (
        x.device.type == "cpu"
        and x.dtype == torch.float32
        and not torch.is_autocast_enabled("cpu")
        and weight.shape[0] % PANEL == weight.shape[1] % PANEL == 0
        and weight.shape[2:] == (3, 3)
        and taps in (None, BLUR)
        and min(x.shape[2:]) >= MIN_SIDE
    )


def supports_skip(skip: OutputSkip) -> bool:
    """The same for the picture of a layer that `supports` accepts."""
    return (
        skip.weight.shape[0] == COLOURS
        and skip.weight.shape[2:] == (1, 1)
        and skip.weight.dtype == torch.float32
        and skip.taps == BLUR
    )


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
    """As ops.styled_conv; `noise` [1, 1, H', W'] is frozen."""
    return _Convolution.apply(
        x, style, scale, None, None, weight, bias, noise, None, taps, (LEAK, GAIN), cache
    )[0]


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
    """As ops.styled_conv_to_rgb; `noise` [1, 1, H, W] is frozen."""
    factors, slope = skip.style[:, None] * skip.weight[:, :, 0, 0], (LEAK, GAIN)
    return _Convolution.apply(
        x, style, scale, factors, skip.below, weight, bias, noise, skip.bias, None, slope, cache
    )


def conv_leaky_relu(
    x: Tensor, weight: Tensor, bias: Tensor, leak: float, cache: WeightCache
) -> Tensor:
    """As ops.conv_leaky_relu."""
    style, scale = x.new_ones(len(x), x.shape[1]), x.new_ones(len(x), len(weight))
    noise = x.new_zeros(x.shape[2:])
    return _Convolution.apply(
        x, style, scale, None, None, weight, bias, noise, None, None, (leak, 1.0), cache
    )[0]


class _Convolution(Function):
    """A layer's map, and, where there are `factors` [B, 3, out] of the colours, the picture so far,
    else None.
    """

    @staticmethod
    def forward(
        ctx,
        x: Tensor,
        style: Tensor,
        scale: Tensor,
        factors: Tensor | None,
        below: Tensor | None,
        weight: Tensor,
        bias: Tensor,
        noise: Tensor,
        rgb_bias: Tensor | None,
        taps: tuple[float, ...] | None,
        slope: tuple[float, float],
        cache: WeightCache,
    ) -> tuple[Tensor, Tensor | None]:
        x, fold = x.contiguous(memory_format=torch.channels_last), 1 if taps is None else 2
        style, scale, bias, noise = (t.float().contiguous() for t in (style, scale, bias, noise))
        (count, inner, height, width), out = x.shape, len(weight)
        threads = torch.get_num_threads()
        y = torch.empty(count, out, height * fold, width * fold, memory_format=torch.channels_last)
        weights = cache(
            "forward", lambda w: winograd_matrices(w, FLAT if taps is None else UP), weight
        )
        tensors = _pointers(
            x=x, weights=weights, before=style, after=scale, noise=noise, bias=bias, result=y
        )
        _call(
            "essence_styled",
            _Layer(*slope, count, height, width, inner, out, fold, threads, **tensors),
        )
        picture = None
        if factors is not None:
            factors, below = factors.contiguous(), None if below is None else below.contiguous()
            picture = x.new_empty(count, COLOURS, height, width)
            tensors = _pointers(
                x=y, factors=factors, bias=rgb_bias.contiguous(), below=below, result=picture
            )
            _call("essence_picture", _Picture(count, height, width, out, threads, **tensors))
        ctx.save_for_backward(x, y, style, scale, factors, weight, bias, noise)
        ctx.set_materialize_grads(False)
        ctx.fold, ctx.slope, ctx.cache, ctx.has_below = fold, slope, cache, below is not None
        return y, picture

    @staticmethod
    @once_differentiable
    def backward(ctx, g: Tensor | None, g_picture: Tensor | None) -> tuple[Tensor | None, ...]:
        if g is None and g_picture is None:
            return (None,) * 12
        x, y, style, scale, factors, weight, bias, noise = ctx.saved_tensors
        (count, inner, height, width), out, threads = x.shape, y.shape[1], torch.get_num_threads()
        g = None if g is None else g.contiguous(memory_format=torch.channels_last)
        g_picture = None if g_picture is None else g_picture.contiguous()
        _, for_style, for_scale, for_factors, for_below, *_ = ctx.needs_input_grad
        for_factors &= g_picture is not None
        for_below &= g_picture is not None and ctx.has_below
        # One sum for each tile, so that threads need not wait for each other.
        tiles = -(-height // TILE) * -(-width // TILE)
        style_sums = x.new_empty(count, tiles, inner) if for_style else None
        scale_sums = x.new_empty(count, tiles, out) if for_scale else None
        factor_sums = x.new_empty(count, tiles, COLOURS, out) if for_factors else None
        g_x, g_below = torch.empty_like(x), None
        matrices = FLAT_BACK if ctx.fold == 1 else UP_BACK
        weights = ctx.cache(
            "backward", lambda w: winograd_matrices(w.transpose(0, 1), matrices), weight
        )
        tensors = _pointers(
            x=g,
            weights=weights,
            before=scale,
            after=style,
            noise=noise,
            bias=bias,
            result=g_x,
            y=y,
            input=x,
            factors=factors,
            colours=g_picture,
            in_sums=scale_sums,
            out_sums=style_sums,
            factor_sums=factor_sums,
        )
        _call(
            "essence_styled_back",
            _Layer(*ctx.slope, count, height, width, out, inner, ctx.fold, threads, **tensors),
        )
        if for_below:
            g_below = x.new_empty(count, COLOURS, height // 2, width // 2)
            tensors = _pointers(g=g_picture, result=g_below)
            _call("essence_picture_back", _Picture(count, height, width, out, threads, **tensors))
        g_style, g_scale, g_factors = (
            None if sums is None else sums.sum(1) for sums in (style_sums, scale_sums, factor_sums)
        )
        if g_scale is not None:
            g_scale = g_scale / scale  # the sums are of g * scale * conv
        return g_x, g_style, g_scale, g_factors, g_below, *[None] * 7


def _pointers(**tensors: Tensor | None) -> dict[str, ctypes.c_void_p]:
    return {
        name: ctypes.c_void_p(None if t is None else t.data_ptr()) for name, t in tensors.items()
    }


def _call(name: str, argument: ctypes.Structure) -> None:
    getattr(build.cpu_library(), name)(ctypes.byref(argument))


def winograd_matrices(weight: Tensor, rows: tuple[tuple[float, ...], ...]) -> Tensor:
    """Weights [out, in, 3, 3] to the 36 matrices that winograd.cpp multiplies by,
    [36, out / PANEL, in, PANEL]. `rows` is FLAT, UP or one of their derivatives.
    """
    axis = torch.tensor(rows, dtype=torch.float64)
    found = torch.einsum("ka,lb,oiab->kloi", axis, axis, weight.double())
    panels = found.reshape(len(axis) ** 2, len(weight) // PANEL, PANEL, -1)
    return panels.transpose(2, 3).float().contiguous()
