"""Operations of the networks: one public function each, our kernel or plain torch behind it.

`ESSENCE_OPS=auto|cuda|reference`: auto takes the kernels where they compile, else plain torch; cuda
raises where those of a GPU do not.
"""

from __future__ import annotations

import os
import warnings
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import UserError
from ..runtime import hardware
from . import cuda, reference, styled
from .build import BuildError, NoCompiler
from .known import Known
from .styled import ToRgb

CHOICES = ("auto", "cuda", "reference")

__all__ = [
    "Known",
    "ToRgb",
    "backend",
    "bfloat16_pays",
    "conv",
    "leaky_relu",
    "styled_conv",
    "styled_conv_to_rgb",
    "upfirdn2d",
]


def styled_conv(
    x: Tensor,
    weight: Tensor,
    style: Tensor,
    scale: Tensor,
    bias: Tensor,
    noise: Tensor,
    taps: tuple[float, ...] | None,
    known: Known,
) -> Tensor:
    """sqrt(2) * leaky_relu(scale * conv(style * x) + noise + bias, 0.2): a layer of StyleGAN2
    (arXiv 1912.04958, section 2.2).

    `x` [B, in, H, W], `weight` [out, in, 3, 3], `style` [B, in], `scale` [B, out], `bias` [out],
    `noise` [1, 1, H', W']. With the `taps` of a blur the convolution is a transposed one with
    stride 2, blurred: H' = 2 H. `known` remembers what follows from the weight.
    """
    if _takes_kernels(x, weight, bias, noise, taps):
        return styled.layer(x, weight, style, scale, bias, noise, taps, known)
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
    known: Known,
    rgb: ToRgb,
) -> tuple[Tensor, Tensor]:
    """The map y of a flat `styled_conv`, and the picture of it, [B, 3, H, W], float32: the 1x1
    convolution of rgb.style * y, a bias, and the picture below, enlarged: StyleGAN2's sum of skip
    pictures."""
    if _takes_kernels(x, weight, bias, noise, None) and styled.suits_picture(rgb):
        return styled.layer_and_picture(x, weight, style, scale, bias, noise, known, rgb)
    y = styled_conv(x, weight, style, scale, bias, noise, None, known)
    # Summed in float32: in bfloat16 eight additions would show as bands.
    picture = (
        F.conv2d(y * rgb.style[:, :, None, None].to(y.dtype), rgb.weight).float()
        + rgb.bias[:, None, None]
    )
    return y, picture if rgb.below is None else picture + upfirdn2d(
        rgb.below, rgb.taps, up=2, pad=(2, 1)
    )


def conv(x: Tensor, weight: Tensor, bias: Tensor, leak: float, known: Known) -> Tensor:
    """leaky_relu(conv2d(x, weight, bias, padding=1), leak), `weight` [out, in, 3, 3]; 0 is an
    ordinary ReLU, and 1 none.
    """
    if styled.suits(x, weight, bias, None) and _processor_kernels():
        return styled.conv(x, weight, bias, leak, known)
    x = F.conv2d(x, weight, bias, padding=1)
    return x if leak == 1 else F.leaky_relu(x, leak)


def leaky_relu(
    x: Tensor, bias: Tensor | None = None, noise: Tensor | None = None, scale: Tensor | None = None
) -> Tensor:
    """sqrt(2) * leaky_relu(scale * x + noise + bias, 0.2). `x` [B, C, ...], `bias` [C], `noise` [1,
    1, H, W] or [B, 1, H, W],
    `scale` [B, C]."""
    return (cuda if _kernels_for(x) else reference).leaky_relu(x, bias, noise, scale)


def upfirdn2d(
    x: Tensor, taps: tuple[float, ...], up: int = 1, pad: tuple[int, int] = (0, 0)
) -> Tensor:
    """Resample [B, C, H, W]: up-1 zeros after each pixel, pad both axes by `pad`, convolve both
    with the symmetric `taps`.
    """
    return (cuda if _kernels_for(x) else reference).upfirdn2d(x, taps, up, pad)


def _takes_kernels(
    x: Tensor, weight: Tensor, bias: Tensor, noise: Tensor, taps: tuple[float, ...] | None
) -> bool:
    return (
        len(noise) == 1
        and not noise.requires_grad
        and styled.suits(x, weight, bias, taps)
        and _processor_kernels()
    )


def bfloat16_pays(device: str | torch.device) -> bool:
    """Whether networks whose weights nobody learns should work in bfloat16;
    ESSENCE_PRECISION=full|half overrides.

    The kernels for processors take float32, and are faster than torch's layers in bfloat16
    (docs/BACKEND.md) where no unit multiplies it.
    """
    if (
        torch.device(device).type != "cpu"
        or hardware.precision_asked()
        or hardware.has_matrix_unit()
    ):
        return hardware.bfloat16_pays(device)
    return hardware.bfloat16_pays(device) and not _processor_kernels()


def backend() -> str:
    """What runs here, in words, for a person."""
    if torch.cuda.is_available():
        return "CUDA kernels" if _kernels() else "reference (torch)"
    return (
        "C++ kernels for this processor; no GPU"
        if _processor_kernels()
        else f"reference (torch){_reason()}; no GPU"
    )


def _kernels_for(x: Tensor) -> bool:
    # torch.compile makes kernels of its own out of the reference.
    return x.is_cuda and cuda.suits(x) and not torch.compiler.is_compiling() and _kernels()


@lru_cache
def _kernels() -> bool:
    """Whether the CUDA kernels are wanted and to be had; asked once. Raises UserError where they
    were demanded.
    """
    choice = _choice()
    if choice == "reference":
        return False
    try:
        cuda.load()
    except BuildError as error:
        if choice == "cuda":
            raise UserError(
                f"ESSENCE_OPS=cuda, but {error}. Without it plain torch is used, which gives the same pictures."
            ) from error
        warnings.warn(
            f"Plain torch instead of our CUDA kernels, slower with the same pictures: {error}.",
            stacklevel=2,
        )
        return False
    return True


@lru_cache
def _processor_kernels() -> bool:
    """Whether the kernels for this processor are wanted and to be had; asked once."""
    if _choice() == "reference":
        return False
    try:
        styled.load()
    except NoCompiler:
        return False  # on many machines, and no fault: `doctor` says so
    except BuildError as error:
        warnings.warn(
            f"Plain torch instead of our C++ kernels, slower with the same pictures: {error}.",
            stacklevel=2,
        )
        return False
    return True


def _choice() -> str:
    choice = os.environ.get("ESSENCE_OPS", "auto")
    if choice not in CHOICES:
        raise UserError(f"ESSENCE_OPS must be one of {', '.join(CHOICES)}, not '{choice}'.")
    return choice


def _reason() -> str:
    """Why there are no kernels for this processor, in brackets."""
    if _choice() == "reference":
        return " as ESSENCE_OPS wants it"
    try:
        styled.load()
    except BuildError as error:
        return f": {error}"
    return ""
