"""On a ZeroGPU Space the GPU is lent for one call at a time, to a forked worker: everything goes in
and out as CPU values.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from PIL import Image

from essence import (
    PRESETS,
    Essence,
    OptimizeOptions,
    RefineOptions,
    Source,
    Step,
    Studio,
    StudioPool,
    Target,
)
from essence.library import loading

SECONDS_OF_START = 10  # for the loan itself, and the first pictures
SECONDS_OF_STEP = 0.15  # of learning or refinement with the public models, generously
LONGEST = 120  # seconds; more is seldom lent


def on_zero_gpu() -> bool:
    return os.environ.get("SPACES_ZERO_GPU", "").lower() in ("true", "1")


def learning_seconds(
    target: Target, sources: Sequence[Source], options: OptimizeOptions, *_: Any
) -> int:
    return seconds(options.steps * max(len(sources) / 4, 1))


def inversion_seconds(
    crops: Sequence[Image.Image], names: Sequence[str], options: RefineOptions
) -> int:
    return seconds(options.steps * max(len(crops) / 4, 1))


def seconds(steps: float) -> int:
    return min(LONGEST, round(SECONDS_OF_START + SECONDS_OF_STEP * steps))


class LentStudio(Studio):
    """A studio whose long work borrows the GPU. Only values cross the fork: pictures, sources and
    essences on the CPU, steps.
    """

    def __init__(self, model: str | None, lend: Callable):
        """`lend`: `spaces.GPU`."""
        super().__init__(model, "cuda")
        _ = self.models  # before the first fork, so that no worker loads them again
        plain = super()

        def learn(
            target: Target,
            sources: Sequence[Source],
            options: OptimizeOptions,
            start: Essence | None,
        ) -> Iterator[Step]:
            yield from plain.extract(target, sources, options, start)

        def find(
            crops: Sequence[Image.Image], names: Sequence[str], options: RefineOptions
        ) -> Iterator[Step]:
            yield from plain.invert(crops, names, options)

        self._learn, self._find = (
            lend(duration=learning_seconds)(learn),
            lend(duration=inversion_seconds)(find),
        )
        for short in ("random_source", "from_latents", "blend", "similarity", "embed_target", "identity_distances"):
            setattr(self, short, lend(duration=SECONDS_OF_START)(getattr(plain, short)))

    def extract(
        self,
        target: Target,
        sources: Sequence[Source],
        options: OptimizeOptions = PRESETS["essence"],  # noqa: B008
        start: Essence | None = None,
    ) -> Iterator[Step]:
        return self._learn(target, list(sources), options, start)

    def invert(
        self,
        crops: Sequence[Image.Image],
        names: Sequence[str],
        options: RefineOptions = RefineOptions(),
    ) -> Iterator[Step]:  # noqa: B008
        return self._find(list(crops), list(names), options)


def studios(model: str | None, progress: loading.Progress | None = None) -> StudioPool:
    """The studios for this machine; on ZeroGPU one alone, whose models every worker inherits.
    `spaces` is there on a Space only.
    """
    if not on_zero_gpu():
        return StudioPool(model, progress)
    import spaces

    return StudioPool.around(LentStudio(model, spaces.GPU))
