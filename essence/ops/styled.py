"""StyleGAN2's layer on a processor, by Winograd's algorithm in our own C++ (styled.cpp), with the gradients of all but the weights."""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from . import build
from .known import Known

WIDE, PANEL, WRITTEN, COLOURS = 8, 16, 4, 3  # as in styled.cpp
TAPS = 4  # of a blur, here
SMALLEST, SMALLEST_UP = 8, 16  # sides below which there are too few tiles for matrices four times as large as the weights
# The six matrices along one axis from its three weights, see styled.cpp: of a flat convolution and of its way back, with the weights turned
# round; of a transposed one with stride 2, where the even pixels see the outer weights, the odd ones the inner, and of its way back.
FLAT = ((1 / 4, 0, 0), (-1 / 6, -1 / 6, -1 / 6), (-1 / 6, 1 / 6, -1 / 6), (1 / 24, 1 / 12, 1 / 6), (1 / 24, -1 / 12, 1 / 6), (0, 0, 1))
BACK = tuple(row[::-1] for row in FLAT)
DOWN = ((2, 0, 0), (1, 0, 1), (-1 / 3, 0, 1 / 3), (-8 / 3, 0, -4 / 3), (0, 0, 1), (0, 1, 0))
UP = tuple(row[::-1] for row in DOWN)


def _structure(numbers: str, pointers: str) -> list[tuple[str, type]]:
    return [(name, ctypes.c_long) for name in numbers.split()] + [(name, ctypes.c_void_p) for name in pointers.split()]


class _Layer(ctypes.Structure):
    """As in styled.cpp."""

    _fields_ = _structure("pictures height width inner out fold threads",
                          "x weights before after noise bias y input result in_sums out_sums")  # fmt: skip


class _Picture(ctypes.Structure):
    """As in styled.cpp."""

    _fields_ = _structure("pictures height width channels threads", "x factors bias taps below g result for_below sums")


def load() -> None:
    """Compile, or raise build.BuildError with the reason."""
    build.processor_library()


def suits(x: Tensor, weight: Tensor, bias: Tensor, noise: Tensor, taps: tuple[float, ...] | None) -> bool:
    """Whether the layer can be computed here, and should be: float32 on a processor, no weight to be learned, not too small."""
    smallest = SMALLEST if taps is None else SMALLEST_UP
    fits = weight.shape[0] % PANEL == weight.shape[1] % PANEL == 0 and len(noise) == 1 and (taps is None or len(taps) == TAPS)
    return fits and min(x.shape[2:]) >= smallest and _plain(x, weight, bias, noise)


def suits_picture(x: Tensor, weight: Tensor, bias: Tensor, taps: tuple[float, ...]) -> bool:
    """The same of a picture of the layer."""
    return x.shape[1] % WIDE == 0 and len(weight) == COLOURS and len(taps) == TAPS and _plain(x, weight, bias)


def _plain(x: Tensor, *frozen: Tensor) -> bool:
    learned = torch.is_grad_enabled() and any(t.requires_grad for t in frozen)
    return x.device.type == "cpu" and x.dtype == torch.float32 and not learned and not torch.is_autocast_enabled("cpu")


def layer(x: Tensor, weight: Tensor, style: Tensor, scale: Tensor, bias: Tensor, noise: Tensor, taps: tuple[float, ...] | None,
          known: Known) -> Tensor:  # fmt: skip
    """As ops.styled_conv; the result's channels lie innermost. No second derivatives."""
    return _Styled.apply(x, style, scale, weight, bias, noise, taps, known)


class _Styled(Function):
    @staticmethod
    def forward(ctx, x: Tensor, style: Tensor, scale: Tensor, weight: Tensor, bias: Tensor, noise: Tensor, taps: tuple[float, ...] | None,
                known: Known) -> Tensor:  # fmt: skip
        x, fold = x.contiguous(memory_format=torch.channels_last), 1 if taps is None else 2
        style, scale, bias, noise = (t.float().contiguous() for t in (style, scale, bias, noise))
        count, inner, height, width = x.shape
        y = torch.empty(count, len(weight), height * fold, width * fold, memory_format=torch.channels_last)
        weights = known("forward", weight, lambda w: matrices(w, FLAT if taps is None else UP))
        places = _places(x=x, weights=weights, before=style, after=scale, noise=noise, bias=bias, result=y)
        _call("essence_styled", _Layer(count, height, width, inner, len(weight), fold, torch.get_num_threads(), **places))
        ctx.save_for_backward(x, y, style, scale, weight, bias, noise)
        ctx.taps, ctx.fold, ctx.known = taps, fold, known
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx, g: Tensor) -> tuple[Tensor | None, ...]:
        x, y, style, scale, weight, bias, noise = ctx.saved_tensors
        (count, inner, height, width), out, g = x.shape, y.shape[1], g.contiguous(memory_format=torch.channels_last)
        tiles = count * -(-height // WRITTEN) * -(-width // WRITTEN)
        for_x, for_scale, for_style = torch.empty_like(x), x.new_empty(tiles, out), x.new_empty(tiles, inner)
        weights = ctx.known("backward", weight, lambda w: matrices(w.transpose(0, 1), BACK if ctx.taps is None else DOWN))
        places = _places(x=g, weights=weights, before=scale, after=style, noise=noise, bias=bias, y=y, input=x, result=for_x,
                         in_sums=for_scale, out_sums=for_style)  # fmt: skip
        _call("essence_styled_back", _Layer(count, height, width, out, inner, ctx.fold, torch.get_num_threads(), **places))
        # The sums for the scale are of what it has multiplied already.
        return for_x, for_style.view(count, -1, inner).sum(1), for_scale.view(count, -1, out).sum(1) / scale, *[None] * 5


def picture(x: Tensor, weight: Tensor, style: Tensor, bias: Tensor, below: Tensor | None, taps: tuple[float, ...]) -> Tensor:
    """As ops.to_rgb. No second derivatives."""
    return _Mix.apply(x, style[:, None] * weight[:, :, 0, 0], below, bias, taps)


class _Mix(Function):
    @staticmethod
    def forward(ctx, x: Tensor, factors: Tensor, below: Tensor | None, bias: Tensor, taps: tuple[float, ...]) -> Tensor:
        x, factors, bias = x.contiguous(memory_format=torch.channels_last), factors.float().contiguous(), bias.float().contiguous()
        below = None if below is None else below.contiguous()
        ctx.save_for_backward(x, factors, bias)
        ctx.taps, ctx.smaller = torch.tensor(taps), below is not None
        result = x.new_empty(len(x), COLOURS, *x.shape[2:])
        _call("essence_picture", _picture(x, factors, bias, ctx.taps, below=below, result=result))
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx, g: Tensor) -> tuple[Tensor | None, ...]:
        (x, factors, bias), g = ctx.saved_tensors, g.contiguous()
        count, channels, height, width = x.shape
        for_x, sums = torch.empty_like(x), x.new_empty(count, height, COLOURS, channels)
        for_below = x.new_empty(count, COLOURS, height // 2, width // 2) if ctx.smaller else None
        _call("essence_picture_back", _picture(x, factors, bias, ctx.taps, g=g, result=for_x, for_below=for_below, sums=sums))
        return for_x, sums.sum(1), for_below, None, None


def _picture(x: Tensor, factors: Tensor, bias: Tensor, taps: Tensor, **tensors: Tensor | None) -> _Picture:
    count, channels, height, width = x.shape
    places = _places(x=x, factors=factors, bias=bias, taps=taps, **tensors)
    return _Picture(count, height, width, channels, torch.get_num_threads(), **places)


def _places(**tensors: Tensor | None) -> dict[str, ctypes.c_void_p]:
    return {name: ctypes.c_void_p(None if t is None else t.data_ptr()) for name, t in tensors.items()}


def _call(name: str, argument: ctypes.Structure) -> None:
    getattr(build.processor_library(), name)(ctypes.byref(argument))


def matrices(weight: Tensor, of_weights: tuple[tuple[float, ...], ...]) -> Tensor:
    """Weights [out, in, 3, 3] to the 36 matrices that styled.cpp multiplies by, [36, out / PANEL, in, PANEL].

    `of_weights` says how each of the six along an axis follows from the three weights there.
    """
    axis = torch.tensor(of_weights, dtype=torch.float64)
    found = torch.einsum("ka,lb,oiab->kloi", axis, axis, weight.double())
    return found.reshape(len(axis) ** 2, len(weight) // PANEL, PANEL, -1).transpose(2, 3).float().contiguous()
