"""What a person at the terminal sees of long work, all of it on stderr."""

from __future__ import annotations

import sys
from collections.abc import Iterator

from tqdm import tqdm

from ..values import Step

COUNTED_IN_BYTES = 1 << 20  # work of more steps than this is a download or a file's


class ProgressBar:
    """A bar for work that reports (what, done, total): a new one for each `what`, removed when it
    is done.
    """

    def __init__(self) -> None:
        self._bar: tqdm | None = None

    def __call__(self, what: str, done: int, total: int) -> None:
        if self._bar is None or self._bar.desc != what:
            in_bytes = {"unit": "B", "unit_scale": True, "unit_divisor": 1024}
            self._bar = tqdm(
                total=total or None,
                desc=what,
                initial=done,
                file=sys.stderr,
                leave=False,
                **(in_bytes if total > COUNTED_IN_BYTES else {}),
            )
        self._bar.update(done - self._bar.n)
        if done >= total > 0:
            self._bar.close()
            self._bar = None


def with_progress(steps: Iterator[Step], what: str) -> Iterator[Step]:
    """The same steps, with a bar that shows the loss of those that have one."""
    bar = None
    for step in steps:
        bar = bar or tqdm(total=step.total, desc=what, file=sys.stderr, leave=False)
        bar.update(step.index - bar.n)
        if "total" in step.losses:
            bar.set_postfix(loss=f"{step.losses['total']:.3f}")
        yield step
    if bar is not None:
        bar.close()


def print_note(text: str) -> None:
    print(f"essence: {text}", file=sys.stderr)
