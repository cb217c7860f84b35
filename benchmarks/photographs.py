"""`python -m benchmarks.photographs`: the look "photograph": an edit composed at several sizes,
pasted back into a photograph of 24 megapixels, and the command that does all of it.

The photograph is a bundled face, enlarged onto a canvas of noise.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from essence import Essence, PhotographEdit, Source, Studio, bundled
from essence.pictures.paste import paste

from .__main__ import machine_description
from .load import ROOT, table_row

WIDTH, HEIGHT, FACE = 6000, 4000, 3000  # pixels
SIZES = (256, 1024, 2048)
ESSENCE = ROOT / "assets" / "essences" / "redhead.essence.safetensors"


def large_photograph() -> Image.Image:
    noise = np.random.default_rng(0).integers(90, 160, (HEIGHT // 8, WIDTH // 8, 3), np.uint8)
    canvas = Image.fromarray(noise).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC)
    with Image.open(bundled("sources")[0]) as face:
        large = face.convert("RGB").resize((FACE, FACE), Image.Resampling.LANCZOS)
    canvas.paste(large, ((WIDTH - FACE) // 2, (HEIGHT - FACE) // 2))
    return canvas


def median_seconds(work: Callable[[], object], repeats: int) -> str:
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        work()
        times.append(time.perf_counter() - began)
    return f"{statistics.median(times):.3f} s"


def in_process_rows(photograph: Image.Image, repeats: int) -> Iterator[list[str]]:
    studio, essence = Studio("mini", "cpu"), Essence.load(ESSENCE)
    (source,) = studio.sources([photograph])
    (change,) = studio.changes([source], essence)
    edit = PhotographEdit(source, change)

    def find_again() -> None:
        fresh = Source(source.name, source.crop, source.inversion, source.w, source.model)
        studio.changes([fresh], essence)

    yield ["change found, landmarks included", median_seconds(find_again, repeats)]
    for size in SIZES:
        seconds = median_seconds(lambda size=size: studio.photographs([edit], size), repeats)
        yield [f"composed at {min(size, source.crop.width)} pixels, one thread", seconds]
    (edited,) = studio.photographs([edit])
    seconds = median_seconds(lambda: paste(photograph, source.square, source.crop, edited), repeats)
    yield [f"pasted back into {WIDTH * HEIGHT // 10**6} megapixels", seconds]


def command_row(photograph: Image.Image) -> list[str]:
    """`essence apply --whole` in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        given, out = Path(folder) / "given.jpg", Path(folder) / "out.jpg"
        photograph.save(given, quality=95)
        command = [sys.executable, "-m", "essence", "apply", "--essence", ESSENCE]
        command += ["--source", given, "--whole", "--out", out]
        began = time.perf_counter()
        subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
        seconds = time.perf_counter() - began
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20  # kilobytes on Linux
    return ["`essence apply --whole`, start to end", f"{seconds:.1f} s, at most {peak:.2f} GB"]


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser("python -m benchmarks.photographs", description=__doc__)
    parser.add_argument("--repeats", type=int, default=5, help="median of; default %(default)s")
    arguments = parser.parse_args(words)
    print(machine_description("cpu"), flush=True)
    print(table_row(["work", "time"]))
    print(table_row(["---"] * 2))
    photograph = large_photograph()
    print(table_row(command_row(photograph)), flush=True)
    for row in in_process_rows(photograph, arguments.repeats):
        print(table_row(row), flush=True)


if __name__ == "__main__":
    main()
