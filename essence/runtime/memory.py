"""Memory: how much is free, keeping what the next step will ask for again, and smaller batches
when one does not fit.
"""

from __future__ import annotations

import ctypes
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import torch

from ..errors import UserError

T = TypeVar("T")
MEMINFO = Path("/proc/meminfo")
M_TRIM_THRESHOLD, M_MMAP_MAX, M_ARENA_MAX = -1, -4, -8  # parameters of mallopt, from malloc.h
# How those say it that have no exception of their own: torch's allocators for CPUs and for MPS,
# C++'s, cuBLAS, cuDNN and oneDNN.
EXHAUSTED = re.compile(
    r"out of memory|not enough memory|can't allocate memory|bad_alloc|ALLOC_FAILED"
    r"|could not create a (primitive|memory)",
    re.IGNORECASE,
)


def is_exhausted(error: BaseException) -> bool:
    """Whether an error says that the memory is used up."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and EXHAUSTED.search(str(error)) is not None


@contextmanager
def explain_memory_errors() -> Iterator[None]:
    """UserError instead of whatever says that the memory is used up."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_exhausted(error):
            raise
        raise UserError(
            f"The memory does not suffice: {_reason(error)}. Take fewer pictures at once, or close "
            "what else uses it."
        ) from error


def _reason(error: BaseException) -> str:
    """The sentence of a library's message that says so."""
    sentences = str(error).split(". ")
    said = next(filter(EXHAUSTED.search, sentences), sentences[0])
    return said.strip().rstrip(".") or type(error).__name__


def free_memory(device: torch.device) -> int | None:
    """Bytes that new tensors on `device` may take; None where the system does not say."""
    if device.type == "cuda":
        held = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + held
    if device.type == "cpu" and MEMINFO.is_file():
        lines = dict(line.split(":", 1) for line in MEMINFO.read_text().splitlines() if ":" in line)
        return int(lines["MemAvailable"].split()[0]) * 1024 if "MemAvailable" in lines else None
    return None


def keep_memory() -> None:
    """Make glibc keep freed memory until `release_memory`, in one heap for all threads that start
    from now on.

    Each step frees its feature maps and the next asks for as much again. Had the system taken that
    memory back, it would return page by page: a seventh of a step's time at 128 pixels, a third of
    it at 1024 (docs/BACKEND.md). Other C libraries are left as they are.
    """
    if (mallopt := _libc("mallopt")) is not None:
        mallopt(M_TRIM_THRESHOLD, -1)
        mallopt(M_MMAP_MAX, 0)  # large blocks come from the heap too
        mallopt(M_ARENA_MAX, 1)


def release_memory() -> None:
    """Give freed memory back to the system, at the end of work in many steps."""
    if (malloc_trim := _libc("malloc_trim")) is not None:
        malloc_trim(0)


def _libc(name: str) -> Callable[..., int] | None:
    """A function of the C library; None where this one lacks it."""
    try:
        return getattr(ctypes.CDLL(None), name)
    except (AttributeError, OSError, TypeError):
        return None


class BatchHalving:
    """Runs work with a batch size, and again with half of it whenever the memory is exhausted. The
    size that worked is kept in `batch`.
    """

    def __init__(self, batch: int):
        self.batch = max(1, batch)

    def __call__(self, work: Callable[[int], T]) -> T:
        """work(batch), retried with half the batch when the memory is exhausted. Raises UserError
        when a batch of one does not fit.
        """
        while True:
            try:
                return work(self.batch)
            except (RuntimeError, MemoryError) as error:
                if not is_exhausted(error):
                    raise
                if self.batch == 1:
                    raise UserError(
                        f"Not even one picture at a time fits into the memory: {_reason(error)}. "
                        "Close what else uses it, or choose a smaller loss_resolution."
                    ) from error
            # Only after the except block is the error's traceback gone, and with it the tensors
            # that it kept alive.
            self.batch = (self.batch + 1) // 2
            if torch.cuda.is_initialized():
                torch.cuda.empty_cache()
