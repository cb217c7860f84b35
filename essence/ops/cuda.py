"""The operations of reference.py as CUDA kernels (kernels.cu). The derivatives of activation and
resampling are one of the same operations again, so there are derivatives of any order.
"""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from . import build
from .reference import GAIN, LEAK, Resample, output_sides

DTYPES = {torch.float32: 0, torch.float16: 1, torch.bfloat16: 2}  # as in kernels.cu
MAX_NUMBERS = 2**30  # of a map: the kernels count in 32 bits


def supports(*tensors: Tensor) -> bool:
    """Whether the kernels take these: on a GPU, of a type that they know, not too large."""
    return all(t.is_cuda and t.dtype in DTYPES and 0 < t.numel() < MAX_NUMBERS for t in tensors)


def compile_kernels() -> None:
    """Compile for the current GPU, or raise build.BuildError with the reason."""
    _library(torch.device("cuda"))


def leaky_relu(
    x: Tensor, bias: Tensor | None = None, noise: Tensor | None = None, scale: Tensor | None = None
) -> Tensor:
    """As ops.leaky_relu."""
    if scale is None:
        return _Activate.apply(x, bias, noise)
    scaled = x.float() * scale.float().view(*x.shape[:2], *[1] * (x.ndim - 2))
    return _Activate.apply(scaled, bias, noise).to(x.dtype)  # rounded once


def upfirdn2d(
    x: Tensor, taps: tuple[float, ...], up: int = 1, pad: tuple[int, int] = (0, 0)
) -> Tensor:
    """As ops.upfirdn2d."""
    return Resample.apply(resample, x, taps, up, 1, pad[0], output_sides(x, taps, up, pad))


def add_norm(
    x: Tensor, branch: Tensor | None, norm: torch.nn.LayerNorm, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """As ops.add_norm; derivatives of first order, those of `x` and `branch`."""
    return _AddNorm.apply(x, branch, norm.weight, norm.bias, norm.eps, dtype)


class _AddNorm(Function):
    @staticmethod
    def forward(
        ctx,
        x: Tensor,
        branch: Tensor | None,
        weight: Tensor,
        bias: Tensor,
        eps: float,
        dtype: torch.dtype,
    ) -> tuple[Tensor, Tensor]:
        x, width = x.contiguous(), x.shape[-1]
        branch = None if branch is None else branch.to(dtype).contiguous()
        rows, total, out = x.numel() // width, torch.empty_like(x), torch.empty_like(x, dtype=dtype)
        stats, sizes = x.new_empty(rows, 2), (ctypes.c_long(rows), width)
        numbers = (total, out, stats, weight, bias, *sizes, ctypes.c_float(eps))
        call(out, "essence_norm", x, branch, *numbers)
        ctx.save_for_backward(total, stats, weight)
        ctx.set_materialize_grads(False)
        ctx.sizes, ctx.has_branch = sizes, branch is not None
        return total, out

    @staticmethod
    @once_differentiable
    def backward(ctx, g_total: Tensor | None, g_out: Tensor | None) -> tuple[Tensor | None, ...]:
        (total, stats, weight), g_branch = ctx.saved_tensors, None
        if g_out is None:
            return g_total, g_total if ctx.has_branch else None, None, None, None, None
        g_out, g_total = g_out.contiguous(), None if g_total is None else g_total.contiguous()
        g_x = torch.empty_like(total)
        if ctx.has_branch:
            g_branch = torch.empty_like(g_out)
        given = (g_out, g_total, total, stats, weight, g_x, g_branch)
        call(g_out, "essence_norm_back", *given, *ctx.sizes)
        return g_x, g_branch, None, None, None, None


class _Activate(Function):
    """sqrt(2) * leaky_relu(x + noise + bias, 0.2)"""

    @staticmethod
    def forward(ctx, x: Tensor, bias: Tensor | None, noise: Tensor | None) -> Tensor:
        x, channels_last = _dense(x)
        y = torch.empty_like(x)
        b = None if bias is None else bias.detach().float().contiguous()
        n = None if noise is None else noise.detach().float().contiguous()
        channels, pixels = x.shape[1], x[0, 0].numel()
        if channels_last:
            outer, inner = len(x), channels * pixels
        else:
            outer, inner = len(x) * channels, pixels
        noise_step = 0 if n is None or len(n) == 1 else pixels  # from one picture to the next
        sizes = (outer, inner, channels, int(channels_last))
        slope = (ctypes.c_float(LEAK), ctypes.c_float(GAIN))
        call(x, "essence_activate", x, b, n, noise_step, y, *sizes, *slope)
        ctx.save_for_backward(y)
        ctx.bias, ctx.noise = (None if t is None else (t.shape, t.dtype) for t in (bias, noise))
        return y

    @staticmethod
    def backward(ctx, g: Tensor) -> tuple[Tensor | None, ...]:
        (y,) = ctx.saved_tensors
        g = _Slope.apply(g, y)
        _, for_bias, for_noise = ctx.needs_input_grad
        g_bias = g_noise = None
        if for_bias:
            others = [d for d in range(g.ndim) if d != 1]
            g_bias = g.sum(others, dtype=torch.float32).to(ctx.bias[1])
        if for_noise:
            g_noise = g.float().sum_to_size(ctx.noise[0]).to(ctx.noise[1])
        return g, g_bias, g_noise


class _Slope(Function):
    """g times the slope of the activation where its output is `y`: linear in g, and constant in y
    almost everywhere.
    """

    @staticmethod
    def forward(ctx, g: Tensor, y: Tensor) -> Tensor:
        y, channels_last = _dense(y)
        layout = torch.channels_last if channels_last else torch.contiguous_format
        g = g.to(y.dtype).contiguous(memory_format=layout)
        out, slope = torch.empty_like(g), (ctypes.c_float(LEAK), ctypes.c_float(GAIN))
        call(g, "essence_slope", g, y, out, ctypes.c_long(g.numel()), *slope)
        ctx.save_for_backward(y)
        return out

    @staticmethod
    def backward(ctx, g: Tensor) -> tuple[Tensor, None]:
        return _Slope.apply(g, ctx.saved_tensors[0]), None


def resample(
    x: Tensor, taps: tuple[float, ...], up: int, down: int, pad: int, sides: tuple[int, int]
) -> Tensor:
    x, channels_last = _dense(x)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    out = torch.empty((*x.shape[:2], *sides), dtype=x.dtype, device=x.device, memory_format=layout)
    sizes = (ctypes.c_int * 11)(*x.shape, *sides, up, down, pad, len(taps), int(channels_last))
    call(x, "essence_resample", x, out, sizes, (ctypes.c_float * len(taps))(*taps))
    return out


def _dense(x: Tensor) -> tuple[Tensor, bool]:
    """`x` without gaps between its numbers, and whether its channels lie innermost."""
    if x.is_contiguous():
        return x, False
    if x.ndim == 4 and x.is_contiguous(memory_format=torch.channels_last):
        return x, True
    return x.contiguous(), False


def _library(device: torch.device) -> ctypes.CDLL:
    major, minor = torch.cuda.get_device_capability(device)
    return build.cuda_library(f"sm_{major}{minor}")


def _stream(x: Tensor) -> ctypes.c_void_p:
    return ctypes.c_void_p(torch.cuda.current_stream(x.device).cuda_stream)


def call(x: Tensor, name: str, *arguments: object) -> None:
    """Launch a kernel on the current stream of x's device; tensors are handed over as pointers.
    Raises RuntimeError with CUDA's error code.
    """
    plain = [ctypes.c_void_p(a.data_ptr()) if isinstance(a, Tensor) else a for a in arguments]
    with torch.cuda.device_of(x):
        code = getattr(_library(x.device), name)(DTYPES[x.dtype], *plain, _stream(x))
    if code:
        raise RuntimeError(f"{name} failed with the CUDA error {code}")
