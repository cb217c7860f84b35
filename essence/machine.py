"""What the machine has: memory that is free, processors that may be used, and what to do when a batch does not fit."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import torch

from .errors import UserError

T = TypeVar("T")
MEMINFO = Path("/proc/meminfo")
QUOTA = Path("/sys/fs/cgroup/cpu.max")
M_TRIM_THRESHOLD, M_MMAP_MAX, M_ARENA_MAX = -1, -4, -8  # glibc's malloc.h: what `mallopt` sets


def device() -> str:
    """Where models work best."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def free_memory(device: torch.device) -> int | None:
    """Bytes that new tensors on `device` may take; None where nobody says."""
    if device.type == "cuda":
        held = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + held
    if device.type == "cpu" and MEMINFO.is_file():
        lines = dict(line.split(":", 1) for line in MEMINFO.read_text().splitlines() if ":" in line)
        return int(lines["MemAvailable"].split()[0]) * 1024 if "MemAvailable" in lines else None
    return None


def processors() -> int:
    """Processors that this process may keep busy: those it is bound to, no more than the container's quota."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = QUOTA.read_text().split()
        return max(1, min(count, int(quota) // int(period)))
    except (OSError, ValueError):  # no such file, or "max"
        return count


def use_processors() -> None:
    """Never more threads than processors. Torch counts the host's, not the container's; a thread without a processor delays the others."""
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(min(torch.get_num_threads(), processors()))


def keep_memory() -> None:
    """Let glibc keep what is freed, until `release_memory`, in one heap for all threads that are still to come.

    Each step frees its feature maps and the next asks for as much again. Given back to the system, that memory returns page by page: a
    seventh of a step's time at 128 pixels, a third of it at 1024 (docs/BACKEND.md). Other C libraries do as they always did.
    """
    if (mallopt := _libc("mallopt")) is not None:
        mallopt(M_TRIM_THRESHOLD, -1)
        mallopt(M_MMAP_MAX, 0)  # large blocks come from the heap too
        mallopt(M_ARENA_MAX, 1)


def release_memory() -> None:
    """Give back what is free, at the end of work in many steps."""
    if (malloc_trim := _libc("malloc_trim")) is not None:
        malloc_trim(0)


def _libc(name: str) -> Callable[..., int] | None:
    """A function of the C library that not every one has."""
    try:
        return getattr(ctypes.CDLL(None), name)
    except (AttributeError, OSError, TypeError):
        return None


def precision_asked() -> str | None:
    """What ESSENCE_PRECISION asks for: full, half or nothing."""
    asked = os.environ.get("ESSENCE_PRECISION")
    return asked if asked in ("full", "half") else None


def bfloat16_pays(device: str | torch.device) -> bool:
    """True where the processor multiplies bfloat16 itself; ESSENCE_PRECISION=full|half overrides."""
    if asked := precision_asked():
        return asked == "half"
    if torch.device(device).type == "cuda":
        return torch.cuda.is_bf16_supported()
    return torch.device(device).type == "cpu" and torch.ops.mkldnn._is_mkldnn_bf16_supported()


def has_matrix_unit() -> bool:
    """Whether this processor multiplies matrices of bfloat16 in a unit for them (Intel's AMX): many times as fast as in its vectors."""
    return torch.cpu._is_amx_tile_supported()


class Halving:
    """Runs work on batches of at most `batch`; when memory runs out it halves the batch and does the work again."""

    def __init__(self, batch: int):
        self.batch = max(1, batch)

    def __call__(self, work: Callable[[int], T]) -> T:
        """work(batch), again with half of it after torch.OutOfMemoryError. Raises UserError when a batch of one does not fit."""
        while True:
            try:
                return work(self.batch)
            except torch.OutOfMemoryError as error:
                if self.batch == 1:
                    raise UserError(f"Not even one picture at a time fits into the memory: {_first_sentence(error)} "
                                    "Close what else uses it, or choose a smaller loss_resolution.") from error  # fmt: skip
            # Behind the except block the error's traceback is gone, and with it the tensors that it held.
            self.batch = (self.batch + 1) // 2
            if torch.cuda.is_initialized():
                torch.cuda.empty_cache()


def _first_sentence(error: Exception) -> str:
    return str(error).split(". ")[0].rstrip(".") + "."
