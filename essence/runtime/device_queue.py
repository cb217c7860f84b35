"""One piece of work at a time on the device, and work that runs beside it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import TypeVar

from .memory import explain_memory_errors
from .sharing import shared_threads

T = TypeVar("T")
BACKGROUND = "background"  # name of the threads of `in_background`


class DeviceQueue:
    """Serialises work on the device: `run` blocks until it is the caller's turn. Raises UserError
    where the memory does not suffice.

    Not re-entrant: work must not call `run` again.
    """

    def __init__(self, single_thread: bool = False):
        """With `single_thread` all work runs on the same thread, whoever calls. A server on a CPU
        wants that: OpenMP keeps one pool of threads for every thread that starts parallel work,
        and once there are more of those than processors everything becomes slower
        (docs/BACKEND.md). Not for programs that fork.
        """
        self._lock = threading.Lock()
        self._executor = ThreadPoolExecutor(1, "device") if single_thread else None

    def run(self, work: Callable[[], T]) -> T:
        def sharing() -> T:
            with shared_threads():
                return work()

        with self._lock, explain_memory_errors():
            if self._executor is None:
                return sharing()
            future = self._executor.submit(sharing)
            try:
                return future.result()
            finally:
                # Ctrl-C interrupts the waiting, not the work, and nobody may start before it ends.
                wait([future])
                del future  # else an error and its traceback would keep each other alive

    @property
    def busy(self) -> bool:
        return self._lock.locked()


def in_background(work: Callable[[], T]) -> Future[T]:
    """Run `work` on a daemon thread of its own, which ends with it."""
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, name=BACKGROUND, daemon=True).start()
    return future
