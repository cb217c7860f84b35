"""Every way to stop, at any time: no traceback, and nothing lost that was learned."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from essence import Essence

ROOT = Path(__file__).parents[1]
GRIN = ROOT / "assets" / "targets" / "grin.jpg"
pytestmark = pytest.mark.skipif(os.name == "nt", reason="POSIX's signals")


@pytest.fixture
def start(tmp_path):
    """Start a command, or another program, in an empty folder."""
    begun = []

    def call(
        *words: str, program: tuple[str, ...] = ("-m", "essence"), **options
    ) -> subprocess.Popen:
        surroundings = {**os.environ, "PYTHONPATH": str(ROOT), **options.pop("env", {})}
        process = subprocess.Popen(
            [sys.executable, *program, *words],
            cwd=tmp_path,
            env=surroundings,
            text=True,
            **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | options,
        )
        begun.append(process)
        return process

    yield call
    for process in begun:
        process.kill()
        process.communicate()


def read_until(stream, pattern: str) -> str:
    """What is read from a stream up to a regular expression. Progress bars skip steps that come
    quickly: ask for any number, not for a certain one.
    """
    read = ""
    while not re.search(pattern, read):
        piece = stream.read(1)
        assert piece and len(read) < 100_000, f"ended without {pattern!r}: {read[-2000:]}"
        read += piece
    return read


LEARN = ("extract", "--model", "mini", "--target", str(GRIN), "--refine", "0", "--steps", "100000")


@pytest.mark.parametrize(
    "number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)]
)
def test_a_signal_ends_the_learning_and_keeps_the_essence(start, tmp_path, number):
    work = start(*LEARN, "--out", "e.safetensors", stdin=subprocess.DEVNULL)
    read_until(work.stderr, r"\| ([2-9]|[1-9]\d+)/100000")  # the first may be half taken
    work.send_signal(number)
    out, err = work.communicate(timeout=600)
    assert work.returncode == 0 and "Stopped at step" in err and "Traceback" not in err
    assert "e.safetensors" in out and Essence.load(tmp_path / "e.safetensors").name == "grin"


def test_a_signal_before_anything_is_learned_ends_quietly(start, tmp_path):
    work = start(*LEARN, "--out", "e.safetensors", "--refine", "100000")
    read_until(work.stderr, "inverting")
    work.terminate()
    _, err = work.communicate(timeout=600)
    assert work.returncode == 128 + signal.SIGTERM and "Traceback" not in err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("program", [("-m", "essence"), (str(ROOT / "app.py"),)])
def test_ctrl_c_while_everything_is_imported_ends_quietly(start, program):
    work = start("--help", program=program)
    time.sleep(0.5)
    work.send_signal(signal.SIGINT)
    _, err = work.communicate(timeout=600)
    assert err == "" and work.returncode in (-signal.SIGINT, 128 + signal.SIGINT, 0)


def test_what_nobody_may_interrupt_is_not_interrupted(start, tmp_path):
    """As nohup and a shell's background jobs have it."""

    def ignore() -> None:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        signal.signal(signal.SIGINT, signal.SIG_IGN)

    work = start(*LEARN[:-1], "4", "--out", "e.safetensors", preexec_fn=ignore)
    read_until(work.stderr, r"\| [2-4]/4")
    work.send_signal(signal.SIGHUP)
    work.send_signal(signal.SIGINT)
    _, err = work.communicate(timeout=600)
    assert work.returncode == 0 and "Stopped" not in err
