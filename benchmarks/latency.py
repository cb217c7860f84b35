"""`python -m benchmarks.latency`: from a slider's movement to the pictures on the screen, in a
browser, for grids of several sizes; and how many frames of a learning it shows each second.

One hand: the next movement begins when the pictures of the last one are shown. A row's own slider
changes the row, the shared one the grid. Each grid in both looks: bundled faces as photographs in
their own detail, and as the model's pictures.
"""

from __future__ import annotations

import argparse
import itertools
import os
import random
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import Browser, Page, sync_playwright

from essence import LOOKS

from .__main__ import machine_description
from .load import ROOT, page, quantiles, table_row

TARGET = ROOT / "assets" / "targets" / "grin.jpg"
LEARNERS = 4  # sources of the learning
ESSENCES = sorted((ROOT / "assets" / "essences").glob("*.safetensors"))
PHOTOGRAPHS = sorted((ROOT / "assets" / "sources").glob("*.jpg"))
SIDES = (2, 3, 4)
ROW, ALL = ':not([data-strength="all"])', '[data-strength="all"]'  # sliders
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
PATIENCE = 120_000  # milliseconds
# Milliseconds until every picture that the slider changes has been replaced, decoded and drawn.
MOVE = """async ([name, value]) => {
    const board = document.querySelector("#board");
    const input = () => board.querySelector(`input[type=range]${name}`);
    const part = () => input().closest("[data-row]") ?? board;
    const pictures = () => [...part().querySelectorAll(".cell img")];
    const before = pictures().map((picture) => picture.src);
    const replaced = () => pictures().length === before.length
        && pictures().every((picture, i) => picture.src !== before[i]);
    const every = { childList: true, subtree: true, attributes: true };
    // Asking again in every frame would take the processor that draws the answer.
    const told = new Promise((resolve) => {
        new MutationObserver(() => replaced() && resolve()).observe(board, every);
    });
    const began = performance.now();
    input().value = value;
    input().dispatchEvent(new Event("input", { bubbles: true }));
    await told;
    await Promise.all(pictures().map((picture) => picture.decode()));
    await new Promise(requestAnimationFrame);
    return performance.now() - began;
}"""
# Milliseconds at which a frame of the learning was on the screen, from the click that starts it on.
WATCH = """async () => {
    const frames = [], progress = document.querySelector("#progress");
    const previews = ".previews figure:not(.target) img";
    const shown = () => [...progress.querySelectorAll(previews)].map((each) => each.src).join();
    const every = { childList: true, subtree: true, attributes: true, characterData: true };
    let last = shown();
    const began = performance.now();
    const over = new Promise((resolve) => {
        new MutationObserver(() => {
            if (shown() && shown() !== last) {
                last = shown();
                requestAnimationFrame(() => frames.push(performance.now() - began));
            }
            if (progress.textContent.includes("Learned")) resolve();
        }).observe(progress, every);
    });
    document.querySelector("#learn").click();
    await over;
    return frames;
}"""


def add_faces(visitor: Page, count: int) -> None:
    """Random ones."""
    for number in range(1, count + 1):
        visitor.click("#random-face")
        visitor.wait_for_function(
            "n => document.querySelectorAll('#sources .item').length === n", arg=number
        )


def fill(visitor: Page, side: int, essences: Sequence[Path]) -> None:
    """`side` photographs and as many essences; waits for the grid."""
    visitor.set_input_files("#sources-upload input[type=file]", PHOTOGRAPHS[:side])
    visitor.wait_for_function(
        """n => document.querySelectorAll('#sources .item').length === n
            && !document.querySelector('#sources .busy')
            && !document.querySelector('#sources').textContent.includes('refining')""",
        arg=side,
    )
    visitor.set_input_files("#targets-upload input[type=file]", essences)
    visitor.wait_for_function(
        "n => document.querySelectorAll('#board .cell img').length === n", arg=side * side
    )


def measure(visitor: Page, slider: str, repeats: int) -> list[float]:
    """Seconds of each movement, the first three left out."""
    rng = random.Random(0)
    values = [f"{rng.uniform(-1, 1.5):.2f}" for _ in range(repeats + 3)]
    return [visitor.evaluate(MOVE, [slider, value]) / 1000 for value in values][3:]


def frames(visitor: Page, target: Path = TARGET) -> list[float]:
    """Seconds between the frames of a learning of the faces that are there, as the page's own
    settings have it.
    """
    visitor.set_input_files("#targets-upload input[type=file]", target)
    visitor.wait_for_selector("#targets .item")
    times = visitor.evaluate(WATCH)
    return [(after - before) / 1000 for before, after in itertools.pairwise(times)]


def rows(address: str, sides: Sequence[int], repeats: int) -> Iterator[str]:
    yield table_row(["grid", "pictures that change", "median, 95th percentile, worst"])
    yield table_row(["---"] * 3)
    with visiting() as browser, copies(max(sides)) as essences:
        for side in sides:
            with tab(browser, address) as visitor:
                fill(visitor, side, essences[:side])
                for look in LOOKS:
                    visitor.click(f"#board [data-event=appearance][data-look={look}]")
                    for slider, count in ((ROW, side), (ALL, side * side)):
                        seconds = quantiles(measure(visitor, slider, repeats))
                        yield table_row([f"{side}x{side}, {look}", str(count), seconds])
        with tab(browser, address) as visitor:
            add_faces(visitor, LEARNERS)
            between = frames(visitor)
            yield table_row(
                [
                    f"learning, {LEARNERS} faces",
                    f"{len(between) / sum(between):.1f} frames a second",
                    quantiles(between),
                ]
            )


@contextmanager
def tab(browser: Browser, address: str) -> Iterator[Page]:
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    visitor = context.new_page()
    visitor.set_default_timeout(PATIENCE)
    visitor.goto(address)
    visitor.wait_for_selector("#learn")
    yield visitor
    context.close()


@contextmanager
def copies(count: int) -> Iterator[list[Path]]:
    """The bundled essences, some of them twice if need be, under names of their own."""
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / f"{i}.essence.safetensors" for i in range(count)]
        for i, path in enumerate(paths):
            shutil.copy(ESSENCES[i % len(ESSENCES)], path)
        yield paths


@contextmanager
def visiting() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        chromium = os.environ.get("CHROMIUM") or shutil.which(
            "chromium"
        )  # otherwise Playwright's own
        browser = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        yield browser
        browser.close()


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser("python -m benchmarks.latency", description=__doc__)
    parser.add_argument(
        "--repeats", type=int, default=60, help="movements of each slider; default %(default)s"
    )
    parser.add_argument(
        "--sides", type=int, nargs="+", default=SIDES, help="of the grids; default 2 3 4"
    )
    parser.add_argument("--model", default="mini", help="default %(default)s")
    a = parser.parse_args(arguments)
    print(f"Model {a.model}. {machine_description('cpu')}", flush=True)
    with page(a.model) as (address, _):
        for row in rows(address, a.sides, a.repeats):
            print(row, flush=True)


if __name__ == "__main__":
    main()
