"""Convolutions on a processor, StyleGAN2's and plain ones, by Winograd's algorithm in our own C++
(styled.cpp); the weights are frozen.
"""

from __future__ import annotations

import ctypes
from typing import NamedTuple

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from . import build
from .known import Known
from .reference import GAIN, LEAK

PANEL, WRITTEN, COLOURS = 16, 4, 3  # as in styled.cpp
TAPS = (0.25, 0.75, 0.75, 0.25)  # of the blur, as well
SMALLEST = 4  # side of a picture; one tile of less would be too empty
# The six matrices along one axis from its three weights, see styled.cpp: of a flat convolution and
# of its way back, with the weights turned round; of a transposed one with stride 2, where the even
# pixels see the outer weights, the odd ones the inner, and of its way back.
FLAT = (
    (1 / 4, 0, 0),
    (-1 / 6, -1 / 6, -1 / 6),
    (-1 / 6, 1 / 6, -1 / 6),
    (1 / 24, 1 / 12, 1 / 6),
    (1 / 24, -1 / 12, 1 / 6),
    (0, 0, 1),
)
BACK = tuple(row[::-1] for row in FLAT)
DOWN = ((2, 0, 0), (1, 0, 1), (-1 / 3, 0, 1 / 3), (-8 / 3, 0, -4 / 3), (0, 0, 1), (0, 1, 0))
UP = tuple(row[::-1] for row in DOWN)


def _structure(numbers: str, pointers: str, factors: str = "") -> list[tuple[str, type]]:
    kinds = {ctypes.c_float: factors, ctypes.c_long: numbers, ctypes.c_void_p: pointers}
    return [(name, kind) for kind, names in kinds.items() for name in names.split()]


class _Layer(ctypes.Structure):
    """As in styled.cpp."""

    _fields_ = _structure(
        "pictures height width inner out fold threads",
        "x weights before after noise bias result y input factors colours in_sums out_sums factor_sums",
        "leak gain",
    )


class ToRgb(NamedTuple):
    """What a picture takes beside a map [B, C, H, W]."""

    weight: Tensor  # [3, C, 1, 1], frozen
    style: Tensor  # [B, C]
    bias: Tensor  # [3], frozen
    below: Tensor | None  # the picture so far, [B, 3, H/2, W/2]
    taps: tuple[float, ...]  # of the blur that enlarges it


class _Picture(ctypes.Structure):
    """As in styled.cpp."""

    _fields_ = _structure("pictures height width channels threads", "x factors bias below g result")


def load() -> None:
    """Compile, or raise build.BuildError with the reason."""
    build.processor_library()


def suits(x: Tensor, weight: Tensor, bias: Tensor, taps: tuple[float, ...] | None) -> bool:
    """Whether the layer can be computed here, and should be: float32 on a processor, no weight to
    be learned, not too small.
    """
    fits = (
        weight.shape[0] % PANEL == weight.shape[1] % PANEL == 0
        and weight.shape[2:] == (3, 3)
        and taps in (None, TAPS)
    )
    return fits and min(x.shape[2:]) >= SMALLEST and _plain(x, weight, bias)


def suits_picture(rgb: ToRgb) -> bool:
    """The same of a picture of a layer."""
    fits = (
        len(rgb.weight) == COLOURS
        and rgb.weight.shape[2:] == (1, 1)
        and rgb.taps == TAPS
        and rgb.weight.dtype == torch.float32
    )
    return fits and not (
        torch.is_grad_enabled() and (rgb.weight.requires_grad or rgb.bias.requires_grad)
    )


def _plain(x: Tensor, *frozen: Tensor) -> bool:
    learned = torch.is_grad_enabled() and any(t.requires_grad for t in frozen)
    if torch.compiler.is_compiling():  # it makes kernels of its own
        return False
    return (
        x.device.type == "cpu"
        and x.dtype == torch.float32
        and not learned
        and not torch.is_autocast_enabled("cpu")
    )


def layer(
    x: Tensor,
    weight: Tensor,
    style: Tensor,
    scale: Tensor,
    bias: Tensor,
    noise: Tensor,
    taps: tuple[float, ...] | None,
    known: Known,
) -> Tensor:
    """As ops.styled_conv, `noise` [1, 1, H', W'] and frozen; the result's channels lie innermost.
    No second derivatives.
    """
    return _Convolution.apply(
        x, style, scale, None, None, weight, bias, noise, None, taps, (LEAK, GAIN), known
    )[0]


def layer_and_picture(
    x: Tensor,
    weight: Tensor,
    style: Tensor,
    scale: Tensor,
    bias: Tensor,
    noise: Tensor,
    known: Known,
    rgb: ToRgb,
) -> tuple[Tensor, Tensor]:
    """As ops.styled_conv_to_rgb, otherwise as `layer`."""
    factors = rgb.style[:, None] * rgb.weight[:, :, 0, 0]
    return _Convolution.apply(
        x,
        style,
        scale,
        factors,
        rgb.below,
        weight,
        bias,
        noise,
        rgb.bias,
        None,
        (LEAK, GAIN),
        known,
    )


def conv(x: Tensor, weight: Tensor, bias: Tensor, leak: float, known: Known) -> Tensor:
    """As ops.conv; the result's channels lie innermost. No second derivatives."""
    style, scale = x.new_ones(len(x), x.shape[1]), x.new_ones(len(x), len(weight))
    return _Convolution.apply(
        x,
        style,
        scale,
        None,
        None,
        weight,
        bias,
        x.new_zeros(x.shape[2:]),
        None,
        None,
        (leak, 1.0),
        known,
    )[0]


class _Convolution(Function):
    """A layer's map, and where there are `factors` [B, 3, out] the picture of it, else None."""

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
        known: Known,
    ) -> tuple[Tensor, Tensor | None]:
        x, fold = x.contiguous(memory_format=torch.channels_last), 1 if taps is None else 2
        style, scale, bias, noise = (t.float().contiguous() for t in (style, scale, bias, noise))
        count, inner, height, width = x.shape
        y = torch.empty(
            count, len(weight), height * fold, width * fold, memory_format=torch.channels_last
        )
        weights = known("forward", lambda w: matrices(w, FLAT if taps is None else UP), weight)
        places = _places(
            x=x, weights=weights, before=style, after=scale, noise=noise, bias=bias, result=y
        )
        _call(
            "essence_styled",
            _Layer(
                *slope,
                count,
                height,
                width,
                inner,
                len(weight),
                fold,
                torch.get_num_threads(),
                **places,
            ),
        )
        picture = None
        if factors is not None:
            factors, below = factors.contiguous(), None if below is None else below.contiguous()
            picture = x.new_empty(count, COLOURS, height, width)
            places = _places(
                x=y, factors=factors, bias=rgb_bias.contiguous(), below=below, result=picture
            )
            _call(
                "essence_picture",
                _Picture(count, height, width, len(weight), torch.get_num_threads(), **places),
            )
        ctx.save_for_backward(x, y, style, scale, factors, weight, bias, noise)
        ctx.set_materialize_grads(False)
        ctx.taps, ctx.fold, ctx.slope, ctx.known, ctx.enlarged = (
            taps,
            fold,
            slope,
            known,
            below is not None,
        )
        return y, picture

    @staticmethod
    @once_differentiable
    def backward(ctx, g: Tensor | None, g_picture: Tensor | None) -> tuple[Tensor | None, ...]:
        x, y, style, scale, factors, weight, bias, noise = ctx.saved_tensors
        (count, inner, height, width), out, threads = x.shape, y.shape[1], torch.get_num_threads()
        if g is None and g_picture is None:
            return (None,) * 12
        g = None if g is None else g.contiguous(memory_format=torch.channels_last)
        g_picture = None if g_picture is None else g_picture.contiguous()
        tiles, (_, for_style, for_scale, for_factors, for_below, *_) = (
            -(-height // WRITTEN) * -(-width // WRITTEN),
            ctx.needs_input_grad,
        )
        style_sums = x.new_empty(count, tiles, inner) if for_style else None
        scale_sums = x.new_empty(count, tiles, out) if for_scale else None
        factor_sums = (
            x.new_empty(count, tiles, COLOURS, out)
            if for_factors and g_picture is not None
            else None
        )
        for_x, below = torch.empty_like(x), None
        weights = ctx.known(
            "backward",
            lambda w: matrices(w.transpose(0, 1), BACK if ctx.taps is None else DOWN),
            weight,
        )
        places = _places(
            x=g,
            weights=weights,
            before=scale,
            after=style,
            noise=noise,
            bias=bias,
            result=for_x,
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
            _Layer(*ctx.slope, count, height, width, out, inner, ctx.fold, threads, **places),
        )
        if ctx.enlarged and for_below and g_picture is not None:
            below = x.new_empty(count, COLOURS, height // 2, width // 2)
            _call(
                "essence_picture_back",
                _Picture(count, height, width, out, threads, **_places(g=g_picture, result=below)),
            )
        sums = [None if t is None else t.sum(1) for t in (style_sums, scale_sums, factor_sums)]
        # Those for the scale are of what it has multiplied already.
        return for_x, sums[0], sums[1] / scale if for_scale else None, sums[2], below, *[None] * 7


def _places(**tensors: Tensor | None) -> dict[str, ctypes.c_void_p]:
    return {
        name: ctypes.c_void_p(None if t is None else t.data_ptr()) for name, t in tensors.items()
    }


def _call(name: str, argument: ctypes.Structure) -> None:
    getattr(build.processor_library(), name)(ctypes.byref(argument))


def matrices(weight: Tensor, of_weights: tuple[tuple[float, ...], ...]) -> Tensor:
    """Weights [out, in, 3, 3] to the 36 matrices that styled.cpp multiplies by, [36, out / PANEL,
    in, PANEL].

    `of_weights` says how each of the six along an axis follows from the three weights there.
    """
    axis = torch.tensor(of_weights, dtype=torch.float64)
    found = torch.einsum("ka,lb,oiab->kloi", axis, axis, weight.double())
    return (
        found.reshape(len(axis) ** 2, len(weight) // PANEL, PANEL, -1)
        .transpose(2, 3)
        .float()
        .contiguous()
    )
