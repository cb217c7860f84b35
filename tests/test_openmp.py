"""Threads that wait for each other sleep soon, unless somebody has chosen otherwise."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CODE = """
import os
{first}import essence
before = os.environ.get("GOMP_SPINCOUNT")
import torch
from essence.runtime import hardware
hardware.limit_threads()
print(before, os.environ.get("GOMP_SPINCOUNT"))
"""


@pytest.mark.parametrize(
    "first, chosen, expected",
    [
        ("", {}, "3000 None"),  # nothing is left for child processes
        ("", {"GOMP_SPINCOUNT": "77"}, "77 77"),
        ("", {"OMP_WAIT_POLICY": "active"}, "None None"),
        ("import torch; ", {}, "None None"),  # too late: the host program has loaded it
    ],
)
def test_what_is_asked_of_libgomp(first, chosen, expected):
    plain = {k: v for k, v in os.environ.items() if not k.startswith(("OMP_", "GOMP_"))}
    run = subprocess.run(
        [sys.executable, "-c", CODE.format(first=first)],
        cwd=ROOT,
        env=plain | chosen,
        capture_output=True,
        text=True,
        check=True,
    )
    assert run.stdout.split() == expected.split()
