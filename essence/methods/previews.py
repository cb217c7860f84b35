"""Pictures of a step that is still going on."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ..models.model_set import ModelSet
from ..pictures.tensors import to_bytes, to_uint8
from ..runtime.cuda_graphs import RecordedFunction


class Previews:
    """Full pictures of a step's edited sources. On a GPU they are drawn on a stream of their own
    and come one step late: the steps do not wait for them.
    """

    def __init__(self, models: ModelSet):
        self.models, self.late = models, models.device.type == "cuda"
        self._draw = RecordedFunction(lambda w: to_bytes(models.shown(w)))
        self._stream: torch.cuda.Stream | None = None
        self._waiting: tuple[Tensor, torch.cuda.Event] | None = None

    def __call__(self, found: dict[str, Tensor], wanted: bool, last: bool) -> np.ndarray | None:
        """Pictures uint8 [N, S, S, 3], or None where there are none yet: of this step's w+ `w`
        [N, L, D], or the `images` [N, 3, R, R] that there may be of it, if they are `wanted`, at
        once on a CPU and after the `last` step, else those that were wanted before.
        """
        if not self.late:
            return self._now(found) if wanted else None
        ready = self.finish()
        if wanted:
            self._begin(found)
        return self.finish() if last and wanted else ready

    def _now(self, found: dict[str, Tensor]) -> np.ndarray:
        full = self.full(found)
        return self.models.render(found["w"]) if full is None else to_uint8(full)

    def full(self, found: dict[str, Tensor]) -> Tensor | None:
        """The step's pictures, where it has them in full size."""
        images = found.get("images")
        return images if images is not None and images.shape[-1] == self.models.size else None

    @torch.no_grad()
    def _begin(self, found: dict[str, Tensor]) -> None:
        images = self.full(found)
        kept = (found["w"] if images is None else images).clone()  # the next step writes over it
        shape = (len(kept), self.models.size, self.models.size, 3)
        host = torch.empty(shape, dtype=torch.uint8, pin_memory=True)
        self._stream = self._stream or torch.cuda.Stream(self.models.device)
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            parts = (x.split(self.models.render_batch) for x in (kept, host))
            for part, place in zip(*parts, strict=True):
                pixels = self._draw(part, self.models.device) if images is None else to_bytes(part)
                place.copy_(pixels, non_blocking=True)
            done = torch.cuda.Event()
            done.record()
        kept.record_stream(self._stream)
        self._waiting = host, done

    def close(self) -> None:
        """Nothing may still be drawn when the graphs and their memory go."""
        self.finish()

    def finish(self) -> np.ndarray | None:
        """Wait for what was begun, if there is anything."""
        if self._waiting is None:
            return None
        (host, done), self._waiting = self._waiting, None
        done.synchronize()
        return host.numpy()
