import platform
import subprocess
import sys

import pytest

from essence.runtime import hardware, memory

from .pictures import ROOT


def test_processors_are_the_containers(monkeypatch, tmp_path):
    monkeypatch.setattr(hardware, "QUOTA", tmp_path / "cpu.max")
    free = hardware.cpu_count()
    hardware.QUOTA.write_text("max 100000\n")
    assert hardware.cpu_count() == free >= 1
    hardware.QUOTA.write_text("100000 100000\n")
    assert hardware.cpu_count() == 1


STEP = """
import resource, threading, torch
from essence.runtime import hardware, memory
{}()

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

def step(megabytes):
    kept = [torch.ones(megabytes << 18)]  # the first of nine
    for _ in range(8):
        kept.append(kept[-1] * 2 + 1)
    gradient = torch.ones(megabytes << 18)
    while kept:
        value = kept.pop()
        gradient = gradient * value
        del value
        gradient = gradient + 1

def work():
    found = 0
    for megabytes in (4, 8, 16):
        for step_number in range(24):
            if step_number == 8:
                before = faults()
            step(megabytes)
        found += faults() - before
    print(found)

thread = threading.Thread(target=work)
thread.start()
thread.join()
"""


@pytest.mark.slow
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc is told")
def test_memory_that_is_asked_for_again_is_still_there():
    """Page faults of a thread that keeps, uses and frees feature maps of three sizes again and
    again, in a process of its own.

    Counted from the ninth step to the last: now and then the heap, cut up by smaller blocks, grows
    once more in a late step.
    """
    plain, kept = (
        int(
            subprocess.run(
                [sys.executable, "-c", STEP.format(name)],
                cwd=ROOT,
                capture_output=True,
                text=True,
                check=True,
            ).stdout
        )
        for name in ("hardware.cpu_count", "memory.keep_memory")
    )
    assert kept < plain / 4


RELEASE = """
import torch
from essence.runtime import memory
memory.keep_memory()

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096

before = resident()
kept = [torch.ones(8 << 20) for _ in range(8)]  # 32 MB each
fence = torch.ones(1000)
del kept
after = resident()
memory.release_memory()
print((after - before) >> 20, (resident() - before) >> 20)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc is told")
def test_memory_is_given_back_at_the_end():
    said = subprocess.run(
        [sys.executable, "-c", RELEASE], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    kept, left = map(int, said.split())
    assert kept > 200 and left < 40


@pytest.mark.parametrize("error", [AttributeError, OSError, TypeError])
def test_another_c_library_is_left_alone(monkeypatch, error):
    def missing(_):
        raise error

    monkeypatch.setattr(memory.ctypes, "CDLL", missing)
    memory.keep_memory()
    memory.release_memory()
