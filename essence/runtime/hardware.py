"""What the machine has: memory that is free, processors that may be used, and what to do when a
batch does not fit.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TypeVar

import torch

T = TypeVar("T")
QUOTA = Path("/sys/fs/cgroup/cpu.max")


def device() -> str:
    """Where models work best."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def cpu_count() -> int:
    """Processors that this process may keep busy: those it is bound to, no more than the
    container's quota.
    """
    count = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    try:
        quota, period = QUOTA.read_text().split()
        return max(1, min(count, int(quota) // int(period)))
    except (OSError, ValueError):  # no such file, or "max"
        return count


def limit_threads() -> None:
    """Never more threads than processors. Torch counts the host's, not the container's; a thread
    without a processor delays the others.
    """
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(min(torch.get_num_threads(), cpu_count()))


def precision_asked() -> str | None:
    """What ESSENCE_PRECISION asks for: full, half or nothing."""
    asked = os.environ.get("ESSENCE_PRECISION")
    return asked if asked in ("full", "half") else None


def bfloat16_pays(device: str | torch.device) -> bool:
    """True where the processor multiplies bfloat16 itself; ESSENCE_PRECISION=full|half
    overrides.
    """
    if asked := precision_asked():
        return asked == "half"
    if torch.device(device).type == "cuda":
        return torch.cuda.is_bf16_supported()
    return torch.device(device).type == "cpu" and torch.ops.mkldnn._is_mkldnn_bf16_supported()


def has_matrix_unit() -> bool:
    """Whether this processor multiplies matrices of bfloat16 in a unit for them (Intel's AMX): many
    times as fast as in its vectors.
    """
    return torch.cpu._is_amx_tile_supported()
