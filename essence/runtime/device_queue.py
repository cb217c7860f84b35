"""Who works in which thread: the device, for one piece of work at a time, and work apart from
it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import TypeVar

T = TypeVar("T")


class Turn:
    """Call it with work; whoever else calls it waits. Not for work that calls it again."""

    def __init__(self, one_thread: bool = False):
        """`one_thread`: all work is done by the same thread, whoever calls, as a server on a
        processor wants it.

        OpenMP keeps a pool of threads for each thread that starts parallel work; once there are
        more of them than processors they hardly wait awake any more, and all work becomes slower
        (docs/BACKEND.md). Not for programs that fork.
        """
        self._lock = threading.Lock()
        self._thread = ThreadPoolExecutor(1, "device") if one_thread else None

    def __call__(self, work: Callable[[], T]) -> T:
        with self._lock:
            if self._thread is None:
                return work()
            doing = self._thread.submit(work)
            try:
                return doing.result()
            finally:
                wait(
                    [doing]
                )  # Ctrl-C ends the waiting, not the work; nobody may begin before that has ended
                del doing  # else an error and its traceback would hold each other

    def taken(self) -> bool:
        """Whether somebody works now."""
        return self._lock.locked()


def apart(work: Callable[[], T]) -> Future[T]:
    """Begin work in a thread of its own, which ends with it and keeps no program from ending."""
    doing: Future[T] = Future()

    def run() -> None:
        try:
            doing.set_result(work())
        except BaseException as error:
            doing.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return doing
