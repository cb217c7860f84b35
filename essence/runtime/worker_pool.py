"""Many small pieces of work side by side, each on one thread.

Torch splits every operation between the CPUs and waits for all of them at its end. For small
operations the waiting costs more than it gains, and beside other busy processes, where a thread
often has no CPU to run on, ten times as much.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

from .hardware import cpu_count

T, R = TypeVar("T"), TypeVar("R")


class WorkerPool:
    """Threads in which torch computes by itself; started when they are first needed."""

    def __init__(self) -> None:
        self._executor: ThreadPoolExecutor | None = None
        self._lock = threading.Lock()

    def map(self, work: Callable[[T], R], items: Iterable[T]) -> list[R]:
        """[work(item) for each item], several at a time."""
        with self._lock:
            if self._executor is None:
                self._executor = start_executor(cpu_count())
        return list(self._executor.map(work, items))


def start_executor(count: int) -> ThreadPoolExecutor:
    """`count` threads, each of which asked torch for one thread of its own."""
    started = threading.Barrier(count + 1)

    def prepare() -> None:
        torch.ones(
            1 << 16
        ).sum()  # torch decides on a thread's threads at its first large operation
        torch.set_num_threads(1)
        started.wait()

    threads = torch.get_num_threads()
    executor = ThreadPoolExecutor(count, "compose", initializer=prepare)
    for _ in range(count):
        executor.submit(int)
    started.wait()
    torch.set_num_threads(threads)  # for those that are still to come
    return executor
