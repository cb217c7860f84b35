"""What ends a program from outside."""

from __future__ import annotations

import signal
import sys
import threading
from typing import Any, NoReturn

AGAIN = 0.05  # seconds until a signal that Python dropped comes again


def stop_on_signals() -> None:
    """From now on Ctrl-C, and what ends a service or closes a terminal, raises KeyboardInterrupt in
    the main thread, with the signal's number, so that what there is can be kept.

    Python ignores what is raised in some callbacks, that of an import's lock among them: a signal
    that comes just then would be lost, and comes again.
    """
    ignored = sys.unraisablehook

    def stop(number: int, frame: object) -> NoReturn:
        raise KeyboardInterrupt(number)

    def raise_again(unraisable: Any) -> None:
        if unraisable.exc_type is not KeyboardInterrupt:
            ignored(unraisable)
            return
        timer = threading.Timer(AGAIN, interrupt_main_thread, unraisable.exc_value.args)
        timer.daemon = True
        timer.start()

    sys.unraisablehook = raise_again
    for number in stop_signals():
        signal.signal(number, stop)


def interrupt_main_thread(number: int = signal.SIGINT) -> None:
    """As if the signal came, whatever the main thread waits for."""
    if hasattr(signal, "pthread_kill"):
        signal.pthread_kill(threading.main_thread().ident, number)
    else:
        signal.raise_signal(number)


def stop_at_once() -> None:
    """From now on the same signals end the process."""
    for number in stop_signals():
        signal.signal(number, signal.SIG_DFL)


def stop_signals() -> list[signal.Signals]:
    """Those there are on this system, and that nobody asked to ignore, as nohup does."""
    names = ("SIGINT", "SIGTERM", "SIGHUP", "SIGBREAK")
    known = [getattr(signal, name) for name in names if hasattr(signal, name)]
    return [number for number in known if signal.getsignal(number) != signal.SIG_IGN]
