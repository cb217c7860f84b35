"""What goes to stderr: a bar for a method's steps, and notes."""

from __future__ import annotations

import sys
from collections.abc import Iterator

from tqdm import tqdm

from ..values import Step


def with_progress(steps: Iterator[Step], what: str) -> Iterator[Step]:
    """The same steps, with a bar that shows the loss of those that have one."""
    bar = None
    try:
        for step in steps:
            bar = bar or tqdm(total=step.total, desc=what, file=sys.stderr, leave=False)
            bar.update(step.index - bar.n)
            if "total" in step.losses:
                bar.set_postfix(loss=f"{step.losses['total']:.3f}")
            yield step
    finally:
        if bar is not None:
            bar.close()


def print_note(text: str) -> None:
    print(f"essence: {text}", file=sys.stderr)
