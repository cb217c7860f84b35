"""As many threads as other programs leave processors for."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import pytest
import torch

from essence.runtime import sharing
from essence.runtime.device_queue import DeviceQueue
from essence.runtime.sharing import FreeProcessors, shared_threads


class Machine:
    """Time, and what has been computed on its processors."""

    def __init__(self, processors: int):
        self.processors, self.now, self.others, self.ours = processors, 0.0, 0.0, 0.0

    def pass_time(self, seconds: float, others: float, ours: float) -> None:
        self.now += seconds
        self.others += seconds * others
        self.ours += seconds * ours

    def free(self) -> FreeProcessors:
        return FreeProcessors(
            lambda: (self.others + self.ours, self.processors),
            lambda: self.ours,
            lambda: self.now,
        )


@pytest.mark.parametrize(
    "others, free, threads", [(0, 4, 4), (0.3, 3.7, 4), (1, 3, 3), (2.5, 1.5, 1), (9, 0, 1)]
)
def test_what_others_keep_busy_is_not_free(others, free, threads):
    machine = Machine(4)
    measured = machine.free()
    assert measured() == float("inf")  # nothing is known yet
    machine.pass_time(1, others, 1.5)
    assert measured() == pytest.approx(free)
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    try:
        machine.pass_time(1, others, 0.5)
        with shared_threads(measured):
            assert torch.get_num_threads() == threads
        assert torch.get_num_threads() == 4  # the program around keeps its choice
    finally:
        torch.set_num_threads(before)


def test_between_two_looks_the_last_one_holds():
    machine = Machine(2)
    measured = machine.free()
    machine.pass_time(1, 1, 1)
    assert measured() == pytest.approx(1)
    machine.pass_time(sharing.WINDOW / 2, 0, 2)
    assert measured() == pytest.approx(1)
    machine.pass_time(sharing.WINDOW, 0, 2)
    assert measured() == pytest.approx(2)


@pytest.mark.parametrize("text", [None, "", "cpu 1 2 3\n", "intr 5\n"])
def test_where_the_system_does_not_tell_nothing_changes(tmp_path, monkeypatch, text):
    monkeypatch.setattr(sharing, "STAT", tmp_path / "stat")
    if text is not None:
        (tmp_path / "stat").write_text(text)
    assert sharing.busy_seconds() is None
    assert FreeProcessors()() == float("inf")


@pytest.mark.skipif(sharing.busy_seconds() is None, reason="the system does not tell")
def test_a_busy_process_is_seen():
    """Its own processor time is a lower bound of what others computed meanwhile."""
    code = "import time\nwhile time.process_time() < 1: pass"
    (before, count), began = sharing.busy_seconds(), time.process_time()
    subprocess.run([sys.executable, "-c", code], check=True)
    (after, same), own = sharing.busy_seconds(), time.process_time() - began
    assert count == same == len(os.sched_getaffinity(0))
    assert after - before - own > 0.9


@pytest.mark.parametrize("single_thread", [False, True])
def test_work_on_the_device_shares(monkeypatch, single_thread):
    seen = []
    monkeypatch.setattr(
        "essence.runtime.device_queue.shared_threads",
        lambda: shared_threads(lambda: seen.append(torch.get_num_threads()) or 0.0),
    )
    queue = DeviceQueue(single_thread)
    assert queue.run(torch.get_num_threads) == 1
    assert len(seen) == 1
