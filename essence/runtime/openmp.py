"""How long torch's threads spin while they wait for each other (docs/BACKEND.md).

libgomp lets a thread that has come to the end of its part spin for milliseconds before it sleeps.
Beside other busy processes the thread that all wait for often has no CPU, and the spinning ones
keep it from one: learning took three to four times as long beside one busy process. Thousands of
turns instead of hundreds of thousands cost next to nothing on a quiet machine.
"""

from __future__ import annotations

import os
import sys

VARIABLE, TURNS = "GOMP_SPINCOUNT", "3000"
OTHERS = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")


def spin_briefly() -> None:
    """Ask for it before torch loads libgomp, which reads the environment once; unless torch is
    there already or somebody has chosen.
    """
    if "torch" not in sys.modules and not any(name in os.environ for name in OTHERS):
        os.environ[VARIABLE] = TURNS


def forget_choice() -> None:
    """Take the variable back once torch is loaded: child processes choose for themselves."""
    if os.environ.get(VARIABLE) == TURNS:
        del os.environ[VARIABLE]
