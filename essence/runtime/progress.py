"""A progress bar in the terminal."""

from __future__ import annotations

import sys

from tqdm import tqdm

COUNTED_IN_BYTES = 1 << 20  # work of more steps than this is a download or a file's


class ProgressBar:
    """A bar on stderr for work that reports (what, done, total): a new one for each `what`,
    removed when it is done.
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
