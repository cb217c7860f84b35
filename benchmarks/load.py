"""`python -m benchmarks.load`: many visitors of one page at once, each with a job to do; a table of
errors, memory and answer times.
"""

from __future__ import annotations

import argparse
import os
import re
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from .__main__ import machine_description
from .visitor import Gone, QueueFull, Refused, Visitor, visiting

ROOT = Path(__file__).resolve().parents[1]
SOURCES, TARGETS = (
    sorted((ROOT / "assets" / kind).glob("*.jpg")) for kind in ("sources", "targets")
)
STRENGTHS = (0.25, 0.5, 0.75, 1.25)
REFINE, STEPS = 2, 6
WARM_UP = 60.0  # seconds after which memory should be flat
LAST = 120  # seconds for visits to end in: at the end the line is as long as it gets
AGAIN = 2.0  # seconds that a refused visitor waits


@dataclass
class Log:
    """What happened; written by all threads."""

    ends: float
    visits: int = 0
    full: int = 0
    errors: list[str] = field(default_factory=list)
    calls: Counter = field(default_factory=Counter)
    seconds: dict[str, list[float]] = field(default_factory=lambda: {"page": [], "slider": []})
    memory: list[tuple[float, float]] = field(default_factory=list)  # (seconds since the start, MB)

    @property
    def over(self) -> bool:
        return time.monotonic() >= self.ends


# ---- one visitor


def come_and_go(address: str, number: int, log: Log) -> None:
    """Visit after visit, until the end; every third time the tab is closed while it learns."""
    turn = number
    while not log.over:
        try:
            with visiting(address) as visitor:
                job(visitor, turn, log)
                log.visits += 1
        except QueueFull:
            log.full += 1
        except (httpx.HTTPError, Refused, Gone, StopIteration, KeyError, ValueError) as error:
            log.errors.append(f"{type(error).__name__}: {str(error)[:200]}")
        turn += 1


def job(visitor: Visitor, turn: int, log: Log) -> None:
    source, target = SOURCES[turn % len(SOURCES)], TARGETS[turn % len(TARGETS)]
    patiently(
        log,
        visitor,
        "sources-upload",
        "upload",
        {"sources-upload": [sent(visitor, source)], "refine-steps": REFINE},
    )
    patiently(log, visitor, "targets-upload", "upload", {"targets-upload": [sent(visitor, target)]})
    if turn % 3 == 2 and not log.over:
        threading.Timer(1.0, visitor.leave).start()
        try:
            visitor.call("learn", "click", {"steps": 1000})
        except (httpx.HTTPError, httpx.StreamError, Gone, QueueFull):
            log.calls["left while learning"] += 1
        return
    patiently(log, visitor, "learn", "click", {"steps": STEPS})
    board = visitor.call("sources", "undo").data[2]
    rows, own = (
        re.findall(r'data-row="(\w+)"', board),
        re.findall(r'data-visitor="([\w-]+)"', board),
    )
    if not rows:
        if not log.over:
            raise ValueError("nothing was learned")
        return
    for strength in STRENGTHS:
        began = time.monotonic()
        request = {"visitor": own[0], "strengths": dict.fromkeys(rows, strength)}
        answer = visitor.ask("board", "update", request)
        if not answer or not answer["cells"]:
            raise ValueError("no picture came back")
        log.seconds["slider"].append(time.monotonic() - began)
        log.calls["slider moved"] += 1


def sent(visitor: Visitor, path: Path) -> dict:
    return visitor.upload(path.name, path.read_bytes())


def patiently(log: Log, visitor: Visitor, part: str, event: str, values: dict) -> None:
    """Again after a while where the queue is full."""
    while not log.over:
        try:
            visitor.call(part, event, values)
        except QueueFull:
            log.full += 1
            time.sleep(AGAIN)
        else:
            log.calls[f"{part} {event}"] += 1
            return


# ---- the measurement


def measure(address: str, process: int, sessions: int, seconds: float, every: float = 5.0) -> Log:
    """So many sessions at the page of a `process` for so long; its memory each `every` seconds, its
    answer each second.
    """
    began = time.monotonic()
    log = Log(began + seconds)
    work = [
        threading.Thread(target=come_and_go, args=(address, i, log), daemon=True)
        for i in range(sessions)
    ]
    for thread in work:
        thread.start()
    while not log.over:
        if not log.memory or time.monotonic() - began - log.memory[-1][0] >= every:
            log.memory.append((time.monotonic() - began, resident(process)))
        asked = time.monotonic()
        try:
            httpx.get(address, timeout=60).raise_for_status()
        except httpx.HTTPError as error:
            log.errors.append(f"GET /: {error}")
        log.seconds["page"].append(time.monotonic() - asked)
        time.sleep(max(0.05, min(1.0 - (time.monotonic() - asked), log.ends - time.monotonic())))
    for thread in work:
        thread.join(max(0.0, log.ends + LAST - time.monotonic()))
    log.memory.append((time.monotonic() - began, resident(process)))
    return log


def resident(process: int) -> float:
    """MB of memory that a process holds; Linux only."""
    found = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{process}/status").read_text())
    return int(found[1]) / 1024 if found else 0.0


def table(log: Log) -> Iterator[str]:
    yield table_row(["what", "figure"])
    yield table_row(["---"] * 2)
    yield table_row(["visits to the end", str(log.visits)])
    yield table_row(
        ["calls", ", ".join(f"{count} {name}" for name, count in sorted(log.calls.items()))]
    )
    yield table_row(['errors but "queue full"', str(len(log.errors))])
    yield table_row(['"queue full"', str(log.full)])
    for name, title in (("page", "GET /"), ("slider", "slider to picture")):
        yield table_row([f"{title}: median, 95th percentile, worst", quantiles(log.seconds[name])])
    settled = [mb for at, mb in log.memory if at >= WARM_UP] or [mb for _, mb in log.memory]
    yield table_row(
        [
            "memory: start, after a minute, end",
            f"{log.memory[0][1]:.0f}, {settled[0]:.0f}, {settled[-1]:.0f} MB",
        ]
    )
    yield table_row(
        ["memory after a minute: least, most", f"{min(settled):.0f}, {max(settled):.0f} MB"]
    )


def table_row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def quantiles(seconds: Sequence[float]) -> str:
    if not seconds:
        return "none"
    ordered = sorted(seconds)
    return ", ".join(
        f"{ordered[min(int(part * len(ordered)), len(ordered) - 1)]:.3f} s"
        for part in (0.5, 0.95, 1)
    )


# ---- the page


@contextmanager
def page(model: str) -> Iterator[tuple[str, int]]:
    """A page in a process of its own: its address and process id."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        process = subprocess.Popen(
            [
                sys.executable,
                "app.py",
                "--model",
                model,
                "--host",
                "127.0.0.1",
                "--port",
                str(port),
            ],
            cwd=ROOT,
            env={**os.environ, "GRADIO_TEMP_DIR": folder},
            stdout=subprocess.DEVNULL,
        )
        try:
            address = f"http://127.0.0.1:{port}"
            wait_for(address)
            yield address, process.pid
        finally:
            process.terminate()
            process.wait(60)


def wait_for(address: str, seconds: float = 120) -> None:
    ends = time.monotonic() + seconds
    while True:
        try:
            httpx.get(address, timeout=5)
            return
        except httpx.HTTPError:
            if time.monotonic() > ends:
                raise
            time.sleep(0.5)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser("python -m benchmarks.load", description=__doc__)
    parser.add_argument("--sessions", type=int, default=20, help="default %(default)s")
    parser.add_argument("--minutes", type=float, default=5.0, help="default %(default)s")
    parser.add_argument("--model", default="mini", help="default %(default)s")
    a = parser.parse_args(arguments)
    print(f"{a.sessions} sessions for {a.minutes:g} minutes, model {a.model}.", flush=True)
    print(machine_description("cpu"), flush=True)
    with page(a.model) as (address, process):
        log = measure(address, process, a.sessions, 60 * a.minutes)
    print("\n".join(table(log)))
    for error, count in Counter(log.errors).most_common(5):
        print(f"{count} x {error}", file=sys.stderr)


if __name__ == "__main__":
    main()
