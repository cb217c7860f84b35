"""A model set: generator, inverter, image-text encoder and latent statistics that belong
together.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from cachetools import LRUCache
from torch import Tensor, nn

from ..errors import EssenceMismatch, UserError
from ..pictures.tensors import from_uint8, resample, to_bytes
from ..runtime.cuda_graphs import RecordedFunction
from ..runtime.memory import BatchHalving
from .clip import ImageText
from .e4e import Inverter, MeanInverter
from .identity import FaceDescriptor, face_chip
from .latents import LatentAxes
from .stylegan2 import Generator

RENDER_PIXELS = 1 << 20  # of one batch: more of them are no faster, and take more memory
# On a CPU: what all of a batch have in common is fetched once; more of them leave the caches.
RENDER_PIXELS_CPU = 1 << 18
DESCRIPTOR = 128  # numbers that describe a face
# Embeddings of sources and latents of inversions that are kept; the least recently used go first.
CACHE_SIZE = 256

# The kinds of component with a field of their own in `ModelSet`.
CORE_COMPONENTS = ("generator", "inverter", "clip", "latents")

Key = tuple[Hashable, ...]  # pictures and latents in it only as their hash


@dataclass(frozen=True, eq=False)
class ModelSet:
    """What depends on the models is asked here: sides, shapes, axes, precision. Nothing else may
    look at a model's name.
    """

    name: str
    # Of the generator; what an essence remembers.
    id: str
    generator: Generator
    inverter: Inverter | MeanInverter
    # None: whoever loaded the set needs none.
    clip: ImageText | None
    # None: its pictures are not faces; squares are taken as they are, and nobody is described.
    identity: FaceDescriptor | None
    latents: LatentAxes | None = None
    # bfloat16 where it is safe.
    half: bool = False
    # How much of the inverter's differences between layers refinement starts with.
    deltas: float = 1.0
    # Components that only some methods use, by kind (see `library.components`).
    extras: Mapping[str, Any] = field(default_factory=dict)
    _cache: LRUCache = field(default_factory=lambda: LRUCache(CACHE_SIZE), init=False, repr=False)
    # On a GPU, the renderer and the inverter as CUDA graphs.
    _recorded: dict[str, RecordedFunction] = field(default_factory=dict, init=False, repr=False)
    _cache_lock: threading.Lock = field(default_factory=threading.Lock, init=False, repr=False)

    def component(self, kind: str) -> Any:
        """A component by its kind. Raises UserError where the set has none."""
        value = getattr(self, kind) if kind in CORE_COMPONENTS else self.extras.get(kind)
        if value is None:
            raise UserError(f"The model set '{self.name}' has no {kind}.")
        return value

    def use_fast_layout(self) -> None:
        """Store feature maps with the channels innermost where that is faster: on a GPU, and, by up
        to a fifth, on a CPU without bfloat16. All maps follow the layout of the first one, or of
        the weights. The inverter, which runs in half precision or not at all, keeps its
        convolutions' weights in it on a GPU.
        """
        gpu = self.device.type == "cuda"
        if not gpu and (self.device.type != "cpu" or self.half):
            return
        vision = None
        if self.clip is not None:
            self.clip.fold_norms()
            vision = self.clip.model.visual
        # On a GPU the generator lays out its maps itself.
        own = self.inverter if gpu else self.generator.input
        for module in filter(None, (own, vision, self.identity)):
            module.to(memory_format=torch.channels_last)
        if gpu and self.half and self.inverter is not None:
            for module in self.inverter.modules():
                if isinstance(module, nn.Conv2d):
                    module.to(torch.bfloat16)

    @property
    def device(self) -> torch.device:
        return self.generator.latent_avg.device

    @property
    def has_faces(self) -> bool:
        return self.identity is not None

    @property
    def size(self) -> int:
        """Side of the generator's pictures in pixels: what losses and drags see."""
        return self.generator.config.size

    @property
    def finest(self) -> int:
        """Side of its pictures at rest: of a finer level, where the set brings one."""
        return self.generator.finest

    @property
    def latent_shape(self) -> tuple[int, int]:
        """[L, D] of w+."""
        return self.generator.config.layers, self.generator.config.style_dim

    @property
    def face_size(self) -> int:
        """Side of the aligned pictures to keep: enough for the generator, the inverter and the
        eye.
        """
        return max(self.size, self.inverter.input_size, 256)

    @property
    def render_batch(self) -> int:
        """How many pictures make a batch: more are no faster, and take more memory."""
        return self._render_batch(self.size)

    def _render_batch(self, side: int) -> int:
        pixels = RENDER_PIXELS_CPU if self.device.type == "cpu" else RENDER_PIXELS
        return max(1, pixels // side**2)

    @contextmanager
    def precision(self) -> Iterator[None]:
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.half):
            yield

    def check(self, w: Tensor, what: str = "These latents") -> None:
        if tuple(w.shape[-2:]) != self.latent_shape:
            raise EssenceMismatch(
                f"{what} have the shape {list(w.shape[-2:])}; "
                f"the generator {self.id} takes {list(self.latent_shape)}."
            )

    def images(self, w: Tensor, resolution: int | None = None) -> Tensor:
        """w+ [B, L, D] to pictures [B, 3, R, R] in [-1, 1], float32, on the device;
        differentiable.
        """
        with self.precision():
            return self.generator.synthesis(w.to(self.device), resolution).float()

    @torch.no_grad()
    def shown(self, w: Tensor, side: int | None = None) -> Tensor:
        """As `images`, for the eye: bfloat16's eight bits would show by several levels of 255. A
        GPU draws in float16, which has range enough where nothing is learned, a CPU in float32.
        """
        half = self.half and self.device.type == "cuda"
        with torch.autocast(self.device.type, torch.float16, enabled=half):
            return self.generator.synthesis(w.to(self.device), side).float()

    @torch.no_grad()
    def render(self, w: Tensor, side: int | None = None) -> np.ndarray:
        """w+ [B, L, D], any B, to uint8 [B, S, S, 3]; S is `size`, or `side`."""
        self.check(w)
        side = side or self.size
        if len(w) == 0:
            return np.zeros((0, side, side, 3), np.uint8)
        in_batches = BatchHalving(self._render_batch(side))
        done: list[np.ndarray] = []
        while (start := sum(map(len, done))) < len(w):
            rest = w[start:]
            done.append(in_batches(lambda batch, rest=rest: self._pixels(rest[:batch], side)))
        return np.concatenate(done)

    def _pixels(self, w: Tensor, side: int) -> np.ndarray:
        """One batch of `render`."""

        def draw(w: Tensor) -> Tensor:
            return to_bytes(self.shown(w, side))

        return self._recording(f"render {side}", draw, self.generator, w).cpu().numpy()

    def _recording(
        self, name: str, function: Callable[[Tensor], Tensor], network: nn.Module, x: Tensor
    ) -> Tensor:
        """function(x) on the device, on a GPU from a CUDA graph where the network is frozen. What
        comes back is overwritten by the next call.
        """
        if self.device.type != "cuda":
            return function(x.to(self.device))
        weights = [*network.parameters(), *network.buffers()]
        if any(weight.requires_grad for weight in weights):
            return function(x.to(self.device))
        if name not in self._recorded:
            self._recorded[name] = RecordedFunction(function)
        return self._recorded[name](x, self.device, weights)

    def encode(self, images: Tensor) -> Tensor:
        """Pictures [B, 3, H, W] in [-1, 1] to CLIP embeddings [B, E], not normalised."""
        with self.precision():
            return self.clip.encode(images.to(self.device))

    def cached(self, key: Key, compute: Callable[[], Tensor]) -> Tensor:
        """compute(), or what it gave before under this key if that is among the latest
        CACHE_SIZE. The models outlive every session: never cache a picture here.
        """
        value = self.lookup(key)
        if value is None:
            value = compute()
            self.store(key, value)
        return value

    def lookup(self, key: Key) -> Tensor | None:
        with self._cache_lock:
            return self._cache.get(key)

    def store(self, key: Key, value: Tensor) -> None:
        with self._cache_lock:
            self._cache[key] = value

    @torch.no_grad()
    def invert(self, images: Tensor, passes: int | None = None) -> Tensor:
        """Aligned pictures [B, 3, S, S] in [-1, 1], S the inverter's side, to w+ [B, L, D]. An
        inverter that compares looks `passes` times, or as often as it usually does.
        """
        name, looks = "invert", ()
        if self.inverter.compares:
            name = f"invert {passes}"
            looks = (self._seen_by_inverter, passes, self._mean_picture)

        def encode(images: Tensor) -> Tensor:
            with self.precision():
                return self.inverter(images, *looks).float()

        networks = nn.ModuleList([self.inverter, self.generator])
        return self._recording(name, encode, networks, images).clone()

    def _seen_by_inverter(self, w: Tensor) -> Tensor:
        """G(w) of the inverter's side."""
        return resample(self.images(w), self.inverter.input_size, "antialias")

    @cached_property
    def _mean_picture(self) -> Tensor:
        """What an inverter that compares sees first: as dear as its look, and always the same."""
        with torch.no_grad():
            return self._seen_by_inverter(self.inverter.latent_avg[None])

    @torch.no_grad()
    def describe(self, images: Tensor) -> Tensor:
        """Aligned pictures [B, 3, H, W] in [-1, 1] to face descriptors [B, 128]; the same person is
        usually closer than 0.6.

        Not a number where the models make no faces.
        """
        if self.identity is None:
            return torch.full((len(images), DESCRIPTOR), torch.nan)
        return self.identity(face_chip(images.to(self.device)))

    @torch.no_grad()
    def similarity(self, embedding: Tensor, pictures: np.ndarray) -> Tensor:
        """CLIP cosine of each picture, uint8 [N, H, W, 3], to an embedding [E]; [N]."""
        e = self.encode(from_uint8(pictures))
        return F.cosine_similarity(e, embedding.to(e)[None])

    def identity_distance(self, before: np.ndarray, after: np.ndarray) -> Tensor:
        """Distance of the descriptors of each pair of pictures, uint8 [N, H, W, 3]; [N]."""
        a, b = (self.describe(from_uint8(pictures)) for pictures in (before, after))
        return (a - b).norm(dim=1)
