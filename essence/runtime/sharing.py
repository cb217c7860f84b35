"""As many of torch's threads as other programs leave processors for (docs/BACKEND.md).

A step of learning is hundreds of pieces of parallel work, at the end of each of which all threads
wait for the last one, spinning. Where another program keeps a processor busy that one has none to
run on, and the spinning ones keep it from theirs: three to four times slower beside one busy
process, twenty times beside two. With a thread for each processor that is free nobody waits.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

STAT = Path("/proc/stat")
WINDOW = 0.3  # seconds between two looks; the kernel counts hundredths
# Of a processor: a browser, a logger and the like are no reason for a thread less.
TOLERATED = 0.4
BUSY_COLUMNS = (0, 1, 2, 5, 6, 7)  # user, nice, system, interrupts, and what a hypervisor took


def busy_seconds() -> tuple[float, int] | None:
    """What the processors that this process may use have computed for anybody, in seconds, and how
    many they are. None where the system does not tell.
    """
    if not hasattr(os, "sched_getaffinity"):
        return None
    try:
        lines = [line.split() for line in STAT.read_text().splitlines()]
    except OSError:
        return None
    ours = {f"cpu{i}" for i in os.sched_getaffinity(0)}
    counts = [[int(n) for n in columns] for name, *columns in lines if name in ours]
    ticks = sum(columns[i] for columns in counts for i in BUSY_COLUMNS)
    return (ticks / os.sysconf("SC_CLK_TCK"), len(counts)) if counts else None


class FreeProcessors:
    """How many processors the others have left over, as measured since the last look."""

    def __init__(
        self,
        busy: Callable[[], tuple[float, int] | None] = busy_seconds,
        own: Callable[[], float] = time.process_time,
        clock: Callable[[], float] = time.monotonic,
    ):
        self.busy, self.own, self.clock = busy, own, clock
        self._lock, self._free = threading.Lock(), float("inf")
        self._before = self._look()

    def _look(self) -> tuple[float, float, float, int] | None:
        seen = self.busy()
        return seen and (self.clock(), self.own(), *seen)

    def __call__(self) -> float:
        """At least 0; infinite where the system does not tell."""
        with self._lock:
            if self._before is None or self.clock() - self._before[0] < WINDOW:
                return self._free
            if (now := self._look()) is not None:
                wall, own, busy = (b - a for a, b in zip(self._before[:3], now[:3], strict=True))
                self._free = max(0.0, now[3] - max(0.0, busy - own) / wall)
            self._before = now
            return self._free


free_processors = FreeProcessors()


@contextmanager
def shared_threads(free: Callable[[], float] = free_processors) -> Iterator[None]:
    """The body's torch threads are no more than the others leave processors for; afterwards they
    are as many as before.
    """
    before = torch.get_num_threads()
    count = min(before, max(1, int(min(before, free() + TOLERATED))))
    if count != before:
        torch.set_num_threads(count)
    try:
        yield
    finally:
        if count != before:
            torch.set_num_threads(before)
