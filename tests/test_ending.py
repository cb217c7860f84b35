"""A process ends, whatever its threads in the background are in the middle of."""

from __future__ import annotations

import signal
import subprocess
import sys

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
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert (ended.returncode, ended.stdout, ended.stderr) == (3, "said", "")


DROPPED = """
import signal, time, weakref
from essence.runtime.signals import stop_on_signals
class Thing: pass
def drop(_):
    signal.raise_signal(signal.SIGTERM)
    for _ in range(1000): pass
stop_on_signals()
thing = Thing()
kept = weakref.ref(thing, drop)
try:
    del thing
    time.sleep(300)
    print("never heard", end="")
except KeyboardInterrupt as stop:
    print("heard", *map(int, stop.args), end="")
"""


@pytest.mark.skipif(not hasattr(signal, "pthread_kill"), reason="POSIX's signals")
def test_a_signal_that_comes_where_python_drops_it_comes_again():
    """In a callback, as in that of an import's lock."""
    command = [sys.executable, "-c", DROPPED]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert (ended.stdout, ended.stderr) == (f"heard {int(signal.SIGTERM)}", "")
