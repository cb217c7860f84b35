"""`python -m essence`, and the console script `essence`: what comes before the first import of
anything large. The page begins with the same.
"""

from __future__ import annotations

import os
import signal
import sys
from typing import NoReturn


def main() -> NoReturn:
    """Run one command."""
    prepare_process()
    from .cli.main import run_and_exit

    run_and_exit()


def prepare_process() -> None:
    """What must be so before torch is imported."""
    open_missing_streams()
    # Nothing is under way that could be kept: Ctrl-C ends the process at once, without a traceback
    # out of some half imported library.
    if signal.getsignal(signal.SIGINT) != signal.SIG_IGN:  # as of a script's background job
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    # What torch cannot compute on an Apple GPU, the CPU does; it is asked when torch is imported.
    os.environ.setdefault("PYTORCH_ENABLE_MPS_FALLBACK", "1")


def open_missing_streams() -> None:
    """Nowhere for a stream that was closed (`>&-`): else the next file that is opened would be in
    its place, and get what is printed.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115 - for good


if __name__ == "__main__":
    main()
