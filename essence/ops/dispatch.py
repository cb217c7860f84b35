"""Which implementation of an operation runs: CUDA kernels, C++ kernels for a CPU, or plain torch.

`ESSENCE_OPS=auto|cuda|reference`: auto takes the kernels where they compile, else plain torch; cuda
raises where those of a GPU do not; reference takes plain torch.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable
from functools import lru_cache

import torch
from torch import Tensor

from ..errors import UserError
from ..runtime import hardware
from . import build, cuda, winograd
from .build import BuildError, NoCompiler

CHOICES = ("auto", "cuda", "reference")


def is_learned(weights: Iterable[Tensor]) -> bool:
    """Whether a gradient of one of these may be asked for. Only the plain path has them."""
    return torch.is_grad_enabled() and any(weight.requires_grad for weight in weights)


def takes_cuda_kernels(x: Tensor) -> bool:
    """Whether cuda.py computes what becomes of `x`."""
    # torch.compile makes kernels of its own out of the reference.
    return x.is_cuda and cuda.supports(x) and not torch.compiler.is_compiling() and cuda_kernels()


def takes_cpu_kernels(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    taps: tuple[float, ...] | None = None,
    noise: Tensor | None = None,
) -> bool:
    """Whether winograd.py computes the convolution of `x` with `weight`: it needs float32 on a
    CPU, and weights and noise that nobody learns."""
    if torch.compiler.is_compiling() or is_learned((weight, bias)):
        return False
    if noise is not None and (len(noise) != 1 or noise.requires_grad):
        return False
    return winograd.supports(x, weight, taps) and cpu_kernels()


@lru_cache
def cuda_kernels() -> bool:
    """Whether the CUDA kernels are wanted and compile here; found out once. Raises UserError where
    ESSENCE_OPS=cuda demands them and they do not compile.
    """
    choice = _choice()
    if choice == "reference":
        return False
    try:
        cuda.compile_kernels()
    except BuildError as error:
        if choice == "cuda":
            raise UserError(
                f"ESSENCE_OPS=cuda, but {error}. Without it plain torch is used, "
                "which gives the same pictures."
            ) from error
        warnings.warn(
            f"Plain torch instead of our CUDA kernels, slower with the same pictures: {error}.",
            stacklevel=2,
        )
        return False
    return True


@lru_cache
def cpu_kernels() -> bool:
    """Whether the C++ kernels are wanted and compile here; found out once."""
    if _choice() == "reference":
        return False
    try:
        build.cpu_library()
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


def bfloat16_pays(device: str | torch.device) -> bool:
    """Whether networks whose weights nobody learns should work in bfloat16;
    ESSENCE_PRECISION=full|half overrides.

    The C++ kernels take float32. On a CPU without a unit that multiplies matrices of bfloat16 they
    are faster than torch's layers in bfloat16 (docs/BACKEND.md).
    """
    pays = hardware.bfloat16_pays(device)
    if torch.device(device).type != "cpu" or hardware.precision_asked():
        return pays
    return pays and (hardware.has_matrix_unit() or not cpu_kernels())


def backend() -> str:
    """What runs here, in words, for a person."""
    if torch.cuda.is_available():
        return "CUDA kernels" if cuda_kernels() else "reference (torch)"
    if cpu_kernels():
        return "C++ kernels for this processor; no GPU"
    if _choice() == "reference":
        return "reference (torch) as ESSENCE_OPS wants it; no GPU"
    try:
        build.cpu_library()
    except BuildError as error:
        return f"reference (torch): {error}; no GPU"
    return "reference (torch); no GPU"
