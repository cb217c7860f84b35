"""How a step of the optimiser is computed: in parts that fit the memory, and on a GPU as one CUDA graph."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from .. import machine
from ..model_set import ModelSet

log = logging.getLogger(__name__)

# Feature maps that a step of one picture holds for its way back, counted in maps of each resolution (8.5 by autograd's own account, at 256
# as at 1024), and the working space beside them. CLIP ViT-B/32 keeps some 60 MB for a picture.
MAPS = 11
CLIP_BYTES = 100 << 20
SHARE = 0.8  # of the free memory
WARM_UP = 3  # steps before a capture: libraries choose their kernels and allocate their workspaces
WORTH_CAPTURING = 20  # steps; the capture takes as long as four or five

Values = dict[str, Tensor]


def batch_for(models: ModelSet, count: int, resolution: int) -> int:
    """How many of `count` pictures can be held at once with all that their gradient needs."""
    free = machine.free_memory(models.device)
    if free is None:
        return count
    channels = models.generator.config.channels
    maps = sum(width * side * side for side, width in channels.items() if side <= resolution)
    each = MAPS * maps * (2 if models.half else 4) + CLIP_BYTES
    return max(1, min(count, int(SHARE * free / each)))


def pictures(models: ModelSet, w: Tensor, resolution: int, released: bool, batch: int) -> tuple[Tensor, Tensor]:
    """w+ [N, L, D] to pictures [N, 3, R, R] and embeddings [N, E], differentiable.

    With a `batch` below N only one part's feature maps are held at a time; each part is computed again on the way back.
    """

    def part(w: Tensor) -> tuple[Tensor, Tensor]:
        images = models.images(w, resolution)
        return images, models.encode(images, released)

    if batch >= len(w):
        return part(w)
    parts = [checkpoint(part, x, use_reentrant=False, preserve_rng_state=False) for x in w.split(batch)]
    images, embeddings = zip(*parts, strict=True)
    return torch.cat(images), torch.cat(embeddings)


def embeddings(models: ModelSet, w: Tensor, resolution: int, released: bool, batch: int) -> Tensor:
    """The same pictures' embeddings [N, E], remembered by the hash of the latents' numbers.

    Computed just as in a step, gradient and all: libraries take other ways without one, and at an essence of zero the difference between
    the two would be nothing but that rounding, whose direction the consistency loss takes at its word.
    """

    def compute() -> Tensor:
        with torch.enable_grad():
            return pictures(models, w.detach().clone().requires_grad_(), resolution, released, batch)[1].detach()

    content = hashlib.sha256(w.detach().float().cpu().numpy().tobytes()).digest()
    return models.remembered(("embeddings", content, tuple(w.shape), resolution, released, batch), compute)


class Stepper:
    """Computes steps: values and gradients of `parameters`, never the optimiser's move.

    `measure(batch)` returns detached tensors and leaves the gradients. On a GPU, when all `count` pictures fit and `capture` is set, it is
    recorded once and then replayed: small kernels no longer wait for Python. What a call returns is overwritten by the next one.
    """

    def __init__(self, measure: Callable[[int], Values], parameters: Sequence[Tensor], count: int, batch: int, capture: bool):
        self.measure, self.parameters, self.count, self.capture = measure, parameters, count, capture
        self.halving = machine.Halving(batch)
        self._recording: Recording | None = None

    def __call__(self) -> Values:
        return self.halving(self._step)

    def _step(self, batch: int) -> Values:
        if not self.capture or batch < self.count:
            self._recording = None
            return self._measured(batch)
        try:
            self._recording = self._recording or Recording(lambda: self._measured(batch), self.parameters)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:  # something in the step that cannot be recorded
            log.warning("No CUDA graph, the steps are launched one by one: %s", error)
            self.capture = False
            return self._measured(batch)
        return self._recording()

    def _measured(self, batch: int) -> Values:
        for parameter in self.parameters:
            parameter.grad = None
        return self.measure(batch)


class Recording:
    """A function that leaves gradients in `parameters`, as one CUDA graph. Its outputs and gradients live at fixed places."""

    def __init__(self, function: Callable[[], Values], parameters: Sequence[Tensor]):
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(WARM_UP):
                function()
        torch.cuda.current_stream().wait_stream(side)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            self.values = function()
        self.parameters, self.gradients = parameters, [parameter.grad for parameter in parameters]

    def __call__(self) -> Values:
        self.graph.replay()
        for parameter, gradient in zip(self.parameters, self.gradients, strict=True):
            parameter.grad = gradient  # whoever cleared it meant the last step's
        return self.values
