"""What the machine has: a GPU, CPUs that may be used, arithmetic in bfloat16."""

from __future__ import annotations

import os
from pathlib import Path

import torch

from ..errors import UserError

QUOTA = Path("/sys/fs/cgroup/cpu.max")  # "quota period" of the container, or "max period"
DEVICES = ("cpu", "cuda", "mps")


def device(asked: str | None = None) -> str:
    """The torch device that is asked for; None: the one on which models run fastest here. Raises
    UserError for one that is not here.
    """
    if asked is None:
        return "cuda" if torch.cuda.is_available() else "cpu"
    kind, _, index = asked.partition(":")
    if kind not in DEVICES or not (index.isdecimal() or asked in DEVICES):
        raise UserError(f"There is no device '{asked}'. There are: {', '.join(DEVICES)}.")
    available = {"cuda": torch.cuda.is_available, "mps": torch.backends.mps.is_available}
    if kind in available and not available[kind]():
        raise UserError(
            f"torch sees no {kind.upper()} device here; leave the device away to use the CPU."
        )
    last = torch.cuda.device_count() - 1 if kind == "cuda" else 0
    if index and int(index) > last:
        raise UserError(f"There is no device '{asked}'; the last one is {kind}:{last}.")
    return asked


def cpu_count() -> int:
    """CPUs that this process may keep busy: those it is bound to, but no more than the container's
    quota.
    """
    if hasattr(os, "sched_getaffinity"):
        count = len(os.sched_getaffinity(0))
    else:
        count = os.cpu_count() or 1
    try:
        quota, period = QUOTA.read_text().split()
        return max(1, min(count, int(quota) // int(period)))
    except (OSError, ValueError):  # no such file, or "max"
        return count


def limit_threads() -> None:
    """Keep torch from starting more threads than there are CPUs: it counts the host's, not the
    container's, and a thread that waits for a CPU delays all others. OMP_NUM_THREADS overrides.
    """
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(min(torch.get_num_threads(), cpu_count()))


def precision_asked() -> str | None:
    """The precision that ESSENCE_PRECISION asks for, full or half, or None."""
    asked = os.environ.get("ESSENCE_PRECISION")
    return asked if asked in ("full", "half") else None


def bfloat16_pays(device: str | torch.device) -> bool:
    """Whether the device multiplies bfloat16 itself; ESSENCE_PRECISION=full|half overrides."""
    if asked := precision_asked():
        return asked == "half"
    if torch.device(device).type == "cuda":
        return torch.cuda.is_bf16_supported()
    return torch.device(device).type == "cpu" and multiplies_bfloat16()


def multiplies_bfloat16() -> bool:
    """Whether the CPU has instructions for it. oneDNN says so of every AVX-512: without them it
    converts, and takes three times as long as in float32.
    """
    if not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return False
    if torch.cpu._is_avx512_supported() or torch.cpu._is_avx2_supported():
        return torch.cpu._is_avx512_bf16_supported() or has_matrix_unit()
    return True


def has_matrix_unit() -> bool:
    """Whether the CPU has a unit that multiplies matrices of bfloat16 (Intel's AMX), many times as
    fast as its vector instructions.
    """
    return torch.cpu._is_amx_tile_supported()
