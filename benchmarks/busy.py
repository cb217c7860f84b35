"""`python -m benchmarks.busy`: learning, refining and the grid alone and beside busy processes.

Each case runs in a process of its own, as the command line starts one, alone, beside one and beside
two processes that keep a CPU busy each; medians, and ratios to the quiet time of the same run.
Environment variables of the caller (OMP_WAIT_POLICY, GOMP_SPINCOUNT, OMP_NUM_THREADS) hold for the
measured processes, so that settings can be compared.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

BUSY = "while True: pass"
CASE = """
import json, sys, time
import essence
from essence.studio import last
studio = essence.Studio("mini", "cpu")
steps, warm_up = 40, 4
sources = [studio.random_source(seed) for seed in range(4)]
target = studio.embed_target(essence.load_image(essence.bundled("targets")[0]))
def learn(count):
    options = essence.adjusted(essence.PRESETS["essence"], steps=count)
    for step in studio.extract(target, sources, options):
        pass
    return step.result
def refine(count):
    crops = [source.inversion.rotate(count / 7) for source in sources]
    last(studio.invert(crops, ["a"] * 4, essence.RefineOptions(steps=count)))
learned = learn(warm_up); refine(warm_up)
found = {}
began = time.perf_counter(); learn(steps); found["learning, 40 steps"] = time.perf_counter() - began
began = time.perf_counter(); refine(25); found["refining 4, 25 steps"] = time.perf_counter() - began
began = time.perf_counter()
for i in range(10):
    studio.blend(sources[:3], [learned] * 3, [0.1 * i] * 3)
found["3x3 grid, ten times"] = time.perf_counter() - began
print(json.dumps(found))
"""


@contextmanager
def busy_processes(count: int) -> Iterator[None]:
    processes = [subprocess.Popen([sys.executable, "-c", BUSY]) for _ in range(count)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def measure_case() -> dict[str, float]:
    """Seconds of each piece of work in a process of its own."""
    run = subprocess.run([sys.executable, "-c", CASE], capture_output=True, text=True, check=True)
    return json.loads(run.stdout)


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=3, help="of each case (default %(default)s)")
    arguments = parser.parse_args(words)
    found: dict[int, dict[str, list[float]]] = {0: {}, 1: {}, 2: {}}
    for _ in range(arguments.runs):  # by turns: a shared machine drifts
        for count, times in found.items():
            with busy_processes(count):
                for name, seconds in measure_case().items():
                    times.setdefault(name, []).append(seconds)
    print("| work | alone, s | beside one | beside two |\n|---|---|---|---|")
    for name, quiet in found[0].items():
        alone = statistics.median(quiet)
        ratios = (statistics.median(found[count][name]) / alone for count in (1, 2))
        print(f"| {name} | {alone:.2f} | " + " | ".join(f"{ratio:.1f}x" for ratio in ratios) + " |")


if __name__ == "__main__":
    main()
