"""On a ZeroGPU Space the GPU is lent for one call at a time, to a forked process: everything goes
in and out as CPU values.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

from PIL import Image

from essence import ImagineOptions, RefineOptions, Source, Studio, StudioPool, Target

SECONDS_OF_START = 10  # for the loan itself, and the first pictures
SECONDS_OF_STEP = 0.15  # of learning or refinement with the public models, generously
LONGEST = 120  # seconds; more is seldom lent


def on_zero_gpu() -> bool:
    return os.environ.get("SPACES_ZERO_GPU", "").lower() in ("true", "1")


def learning_seconds(target: Target, sources: Sequence[Source], options: Any, *_: Any) -> int:
    """How long to borrow the GPU for `Studio.extract`."""
    return loan_seconds(options.steps, len(sources) * getattr(options, "starts", 1))


def inversion_seconds(
    crops: Sequence[Image.Image], names: Sequence[str], options: RefineOptions
) -> int:
    """How long to borrow the GPU for `Studio.invert`."""
    return loan_seconds(options.steps, len(crops))


def loan_seconds(steps: int, pictures: int) -> int:
    return min(LONGEST, round(SECONDS_OF_START + SECONDS_OF_STEP * steps * max(pictures / 4, 1)))


def imagining_seconds(target: Target, options: ImagineOptions) -> int:
    """How long to borrow the GPU for `Studio.imagine`."""
    return loan_seconds(options.steps, options.count)


DURATIONS = {
    "extract": learning_seconds,
    "invert": inversion_seconds,
    "imagine": imagining_seconds,
}


def open_pool(
    model: str | None, progress: Callable[[str, int, int], None] | None = None
) -> StudioPool:
    """The studios for this machine; on ZeroGPU one alone, whose models every forked process
    inherits. Raises UserError.
    """
    if not on_zero_gpu():
        return StudioPool(model, progress)
    import spaces  # there on a Space only

    def lend(work: Callable[..., Any]) -> Callable[..., Any]:
        return spaces.GPU(duration=DURATIONS.get(work.__name__, SECONDS_OF_START))(work)

    return StudioPool.around(Studio(model, "cuda", progress, lend=lend))
