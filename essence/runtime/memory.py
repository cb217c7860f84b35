"""Memory: how much is free, keeping what the next step will ask for again, and what to do when a
batch does not fit.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import torch

from ..errors import UserError

T = TypeVar("T")


MEMINFO = Path("/proc/meminfo")


M_TRIM_THRESHOLD, M_MMAP_MAX, M_ARENA_MAX = -1, -4, -8  # glibc's malloc.h: what `mallopt` sets


def free_memory(device: torch.device) -> int | None:
    """Bytes that new tensors on `device` may take; None where nobody says."""
    if device.type == "cuda":
        held = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + held
    if device.type == "cpu" and MEMINFO.is_file():
        lines = dict(line.split(":", 1) for line in MEMINFO.read_text().splitlines() if ":" in line)
        return int(lines["MemAvailable"].split()[0]) * 1024 if "MemAvailable" in lines else None
    return None


def keep_memory() -> None:
    """Let glibc keep what is freed, until `release_memory`, in one heap for all threads that are
    still to come.

    Each step frees its feature maps and the next asks for as much again. Given back to the system,
    that memory returns page by page: a seventh of a step's time at 128 pixels, a third of it at
    1024 (docs/BACKEND.md). Other C libraries do as they always did.
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


class BatchHalving:
    """Runs work on batches of at most `batch`; when memory runs out it halves the batch and does
    the work again.
    """

    def __init__(self, batch: int):
        self.batch = max(1, batch)

    def __call__(self, work: Callable[[int], T]) -> T:
        """work(batch), again with half of it after torch.OutOfMemoryError. Raises UserError when a
        batch of one does not fit.
        """
        while True:
            try:
                return work(self.batch)
            except torch.OutOfMemoryError as error:
                if self.batch == 1:
                    raise UserError(
                        f"Not even one picture at a time fits into the memory: {_first_sentence(error)} "
                        "Close what else uses it, or choose a smaller loss_resolution."
                    ) from error
            # Behind the except block the error's traceback is gone, and with it the tensors that it
            # held.
            self.batch = (self.batch + 1) // 2
            if torch.cuda.is_initialized():
                torch.cuda.empty_cache()


def _first_sentence(error: Exception) -> str:
    return str(error).split(". ")[0].rstrip(".") + "."
