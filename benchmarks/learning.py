"""`python -m benchmarks.learning`: an essence learned through the page, over HTTP, from the request
to the last answer; what the page does beside it, pictures of how it goes above all, included.

The sources are random faces, so that nothing has to find faces. First the page learns what it has
never learned before, then the same again.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import torch

from .__main__ import machine_description
from .load import TARGETS, page, sent, table_row
from .networks import random_models, save_models
from .visitor import Visitor, visiting

AGAIN = "all from the start"  # the page's words for it
PREVIEW = "data:image/"


def rows(visitor: Visitor, sources: int, steps: int) -> Iterator[list[str]]:
    """What a visitor sees who does this; the first row includes what loads on first use."""
    began = time.monotonic()
    for _ in range(sources):
        visitor.call("random-face", "click")
    yield [f"{sources} random faces", f"{time.monotonic() - began:.2f} s", ""]
    began = time.monotonic()
    visitor.call("targets-upload", "upload", {"targets-upload": [sent(visitor, TARGETS[0])]})
    yield ["target uploaded", f"{time.monotonic() - began:.2f} s", ""]
    settings = {"preset": "thorough", "steps": steps}
    for label, more in (("cold", {}), ("warm", {"mode": AGAIN}), ("warm", {"mode": AGAIN})):
        began = time.monotonic()
        answer = visitor.call("learn", "click", settings | more)
        seconds = time.monotonic() - began
        yield [f"{steps} steps, {label}", f"{seconds:.2f} s", told(answer.raw)]
    if answer.messages:
        yield ["the page said", "; ".join(map(str, answer.messages)), ""]


def told(raw: str) -> str:
    """How much came over the wire, and how many of its messages brought pictures."""
    messages = [part for part in raw.split("data: {") if '"process_generating"' in part]
    pictures = [part for part in messages if PREVIEW in part]
    return (
        f"{len(messages)} frames, {len(pictures)} of them with pictures, {len(raw) / 2**20:.1f} MB"
    )


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser("python -m benchmarks.learning", description=__doc__)
    parser.add_argument("--model", help="a model set by name or path; default: random weights")
    parser.add_argument("--size", type=int, default=1024, help="of those; default %(default)s")
    parser.add_argument("--sources", type=int, default=4, help="default %(default)s")
    parser.add_argument("--steps", type=int, default=300, help="default %(default)s")
    parser.add_argument("--tiny", action="store_true", help="a random generator of few channels")
    a = parser.parse_args(arguments)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    name = a.model or f"random weights, {a.size} pixels"
    print(f"{name}. {machine_description(device)}", flush=True)
    with ExitStack() as stack:
        model = a.model
        if model is None:
            model = stack.enter_context(tempfile.TemporaryDirectory())
            networks = random_models(a.size, torch.device("cpu"), half=False, tiny=a.tiny)
            save_models(networks, Path(model))
        began = time.monotonic()
        address, _ = stack.enter_context(page(model))
        print(table_row(["what", "time", "answers"]))
        print(table_row(["---"] * 3))
        print(table_row(["page answers", f"{time.monotonic() - began:.2f} s", ""]), flush=True)
        visitor = stack.enter_context(visiting(address))
        for row in rows(visitor, a.sources, a.steps):
            print(table_row(row), flush=True)


if __name__ == "__main__":
    main()
