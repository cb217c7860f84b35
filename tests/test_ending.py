"""A process ends, whatever its threads in the background are in the middle of."""

from __future__ import annotations

import signal
import subprocess
import sys
from concurrent.futures import Future
from contextlib import suppress
from types import SimpleNamespace

import pytest

from .pictures import ROOT

PROGRAM = """
import _imp, atexit, threading
from essence.runtime.device_queue import in_background
from essence.runtime.ending import end_process
held = threading.Event()
def work():
    if {importing}:
        _imp.acquire_lock()  # as in the middle of an import
    held.set()
    if {importing}:
        threading.Event().wait()
atexit.register(__import__, "colorsys")  # as torch's own end imports
in_background(work)
held.wait()
print("said", end="")
end_process(3)
"""


@pytest.mark.parametrize("importing", [True, False])
def test_an_import_in_the_background_keeps_nobody(importing):
    command = [sys.executable, "-c", PROGRAM.format(importing=importing)]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert (ended.returncode, ended.stdout, ended.stderr) == (3, "said", "")


def test_a_signal_that_python_drops_ends_the_page_nevertheless(monkeypatch):
    """As one that comes in the middle of an import: what its handler raises is ignored there."""
    from demo import command

    def launch(**_):
        with suppress(KeyboardInterrupt):
            signal.raise_signal(signal.SIGTERM)

    def block_thread():
        raise AssertionError("It waits for another signal.")

    page = SimpleNamespace(launch=launch, block_thread=block_thread)
    pool = SimpleNamespace(of=lambda: SimpleNamespace(load=Future))
    monkeypatch.setattr(command.spaces, "open_pool", lambda *_: pool)
    monkeypatch.setattr(command, "build", lambda _: page)
    monkeypatch.setattr(command, "bypass_proxies", lambda _: None)
    monkeypatch.setattr(command.uploads, "delete_own_folder", lambda: None)
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    hang_up = getattr(signal, "SIGHUP", signal.SIGTERM)
    before[hang_up] = signal.getsignal(hang_up)
    try:
        command.main([])
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
