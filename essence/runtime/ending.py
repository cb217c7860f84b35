"""The end of a process."""

from __future__ import annotations

import os
import sys
import threading
from contextlib import suppress
from typing import NoReturn

from .device_queue import BACKGROUND


def end_process(code: int) -> NoReturn:
    """Exit with this code. While work in the background goes on, without the interpreter's own
    end: it stops daemon threads wherever they are, and would wait for ever for the import lock of
    one that was importing, as half of loading models is.
    """
    if all(thread.name != BACKGROUND for thread in threading.enumerate()):
        sys.exit(code)
    for stream in filter(None, (sys.stdout, sys.stderr)):
        with suppress(OSError, ValueError):  # nobody reads on, or it was closed
            stream.flush()
    os._exit(code)
