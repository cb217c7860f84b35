"""Operations of the networks: one public function each, the CUDA kernel or plain torch behind it.

`ESSENCE_OPS=auto|cuda|reference`: auto takes the kernels on a GPU where they compile, else plain torch; cuda raises where they do not.
"""

from __future__ import annotations

import os
import warnings
from functools import lru_cache

import torch
from torch import Tensor

from ..errors import UserError
from . import cuda, reference
from .build import BuildError

CHOICES = ("auto", "cuda", "reference")

__all__ = ["backend", "leaky_relu", "upfirdn2d"]


def leaky_relu(x: Tensor, bias: Tensor | None = None, noise: Tensor | None = None, scale: Tensor | None = None) -> Tensor:
    """sqrt(2) * leaky_relu(scale * x + noise + bias, 0.2). `x` [B, C, ...], `bias` [C], `noise` [1, 1, H, W] or [B, 1, H, W],
    `scale` [B, C]."""
    return (cuda if _kernels_for(x) else reference).leaky_relu(x, bias, noise, scale)


def upfirdn2d(x: Tensor, taps: tuple[float, ...], up: int = 1, pad: tuple[int, int] = (0, 0)) -> Tensor:
    """Resample [B, C, H, W]: up-1 zeros after each pixel, pad both axes by `pad`, convolve both with the symmetric `taps`."""
    return (cuda if _kernels_for(x) else reference).upfirdn2d(x, taps, up, pad)


def backend() -> str:
    """What runs on a GPU, in words, for a person."""
    if not torch.cuda.is_available():
        return "reference (torch); no GPU"
    return "CUDA kernels" if _kernels() else "reference (torch)"


def _kernels_for(x: Tensor) -> bool:
    # torch.compile makes kernels of its own out of the reference.
    return x.is_cuda and cuda.suits(x) and not torch.compiler.is_compiling() and _kernels()


@lru_cache
def _kernels() -> bool:
    """Whether the CUDA kernels are wanted and to be had; asked once. Raises UserError where they were demanded."""
    choice = os.environ.get("ESSENCE_OPS", "auto")
    if choice not in CHOICES:
        raise UserError(f"ESSENCE_OPS must be one of {', '.join(CHOICES)}, not '{choice}'.")
    if choice == "reference":
        return False
    try:
        cuda.load()
    except BuildError as error:
        if choice == "cuda":
            raise UserError(f"ESSENCE_OPS=cuda, but {error}. Without it plain torch is used, which gives the same pictures.") from error
        warnings.warn(f"Plain torch instead of our CUDA kernels, slower with the same pictures: {error}.", stacklevel=2)
        return False
    return True
