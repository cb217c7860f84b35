"""The facade, one per process: it holds the models and serves every session, and keeps nothing of
any of them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import wait
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from .library import loading
from .library.latent_files import check_latents, over_layers
from .library.lazy_models import LazyModelSet
from .methods import PRESETS, instant_options, method_of
from .methods.base import edited_latents
from .methods.imagine import ImagineOptions, imagine
from .methods.invert import invert, source_of
from .methods.photograph import PhotographLook
from .methods.refine import RefineOptions
from .methods.strength import auto_strength
from .methods.words import remembered_target, text_target
from .models.model_set import ModelSet
from .pictures import align
from .pictures.grids import animation
from .pictures.grids import grid as picture_grid
from .pictures.loading import load_image
from .pictures.tensors import to_tensor
from .runtime import hardware, memory
from .runtime.device_queue import DeviceQueue, in_background
from .runtime.lending import Lend, device_work, lend_methods
from .values import Essence, Pictures, Source, Step, Target

LARGEST_CROP = 2048  # pixels, side of a photograph's crop
TRUNCATION = 0.7  # of random faces: less variety, fewer broken ones

Picture = Image.Image | str | Path


class Studio(LazyModelSet, PhotographLook):
    """Models, loaded on first use, whose work takes turns on the device; safe between threads."""

    def __init__(
        self,
        model: str | None = None,
        device: str | None = None,
        progress: loading.Progress | None = None,
        queue: DeviceQueue | None = None,
        lend: Lend | None = None,
        pictures_alone: bool = False,
    ):
        """`model`: a model set by name or path, None for the default. `progress(what, done,
        total)` is called during long work while loading. `queue`: the device's, where other
        studios share it. `lend`: makes the work on the device run where a GPU is lent for each
        call, in a process that is forked from this one; the models are then loaded at once.
        `pictures_alone`: load no more than inverting and editing take.
        """
        hardware.limit_threads()
        memory.keep_memory()
        super().__init__(model, device, progress, lend is not None, pictures_alone)
        self.queue = queue or DeviceQueue()
        PhotographLook.__init__(self)
        if lend is not None:
            _ = self.models  # before the first fork, so that no process loads them again
            lend_methods(self, lend)

    @classmethod
    def of(cls, models: ModelSet) -> Studio:
        """A studio around models that are loaded already."""
        studio = cls(models.name, str(models.device))
        studio._models = models
        return studio

    # -- pictures in

    def locate(
        self, picture: Image.Image, aligned: bool = False, required: bool = True
    ) -> align.Located:
        """Where to cut a picture; `align.locate`, and the centred square for models that make no
        faces. Raises NoFaceFound where a face is `required`.
        """
        return align.locate(picture, aligned or not self.has_faces, required)

    def cut(
        self, picture: Image.Image, square: align.Square, largest: int | None = None
    ) -> Image.Image:
        """A square of a picture at the side that the models want, or at its own, which is larger
        in most photographs, up to `largest` pixels.
        """
        side, own = self.models.face_size, round(square.side)
        return align.cut(picture, square, max(side, min(own, largest or side)))

    def squares(
        self, pictures: Sequence[Image.Image], face: int = 0, aligned: bool = False
    ) -> list[align.Square]:
        """Where to cut each picture's `face`-th largest face; faces are found while the models
        load, if they still have to. Raises NoFaceFound.
        """
        models = None if self.loaded else in_background(lambda: self.models)
        try:
            return [self.locate(picture, aligned).pick(face) for picture in pictures]
        finally:
            wait([models] if models else [])

    def crop(self, picture: Image.Image, face: int = 0, aligned: bool = False) -> Image.Image:
        """The aligned square of a picture's `face`-th largest face. Raises NoFaceFound."""
        return self.cut(picture, self.squares([picture], face, aligned)[0])

    def target(
        self, picture: Picture, name: str = "", face: int = 0, aligned: bool = False
    ) -> Target:
        """Align and embed a target; a picture without a face, a drawing for instance, is taken as
        it is.
        """
        if not isinstance(picture, Image.Image):
            name, picture = name or Path(picture).stem, load_image(picture)
        found = self.locate(picture, aligned, required=False)
        target = self.embed_target(self.cut(picture, found.pick(face)), name or "essence")
        return dataclasses.replace(target, face_found=found.face_found, turn=found.pick(face).turn)

    @device_work
    @torch.no_grad()
    def embed_target(self, crop: Image.Image, name: str = "essence") -> Target:
        """A target from its aligned square."""
        models = self.models
        embedding = self.queue.run(lambda: models.encode(to_tensor(crop))[0])
        return Target(name, embedding.float().cpu(), crop)

    @device_work
    def invert(
        self,
        crops: Sequence[Image.Image],
        names: Sequence[str],
        options: RefineOptions = RefineOptions(),  # noqa: B008 - frozen
    ) -> Iterator[Step]:
        """Aligned crops to `Source`s, all together; see `methods.invert`."""
        yield from self._in_turns(invert(self.models, crops, names, options))

    def sources(
        self,
        pictures: Iterable[Picture] | Picture,
        aligned: bool = False,
        refine: RefineOptions = RefineOptions(),  # noqa: B008 - frozen
    ) -> list[Source]:
        """Align, invert and refine one picture or many, by their files' names; or NoFaceFound."""
        pictures = [pictures] if isinstance(pictures, Picture) else list(pictures)
        names = ["source" if isinstance(p, Image.Image) else Path(p).stem for p in pictures]
        loaded = [p if isinstance(p, Image.Image) else load_image(p) for p in pictures]
        if not loaded:
            return []
        squares = self.squares(loaded, aligned=aligned)
        pairs = zip(loaded, squares, strict=True)
        crops = [self.cut(picture, square, LARGEST_CROP) for picture, square in pairs]
        found = last(self.invert(crops, names, refine)).result
        return [
            dataclasses.replace(source, square=square)
            for source, square in zip(found, squares, strict=True)
        ]

    @device_work
    def from_latents(self, w: torch.Tensor, name: str = "latents") -> Source:
        """Latents [L, D], or [D] for every layer, as a source. Raises EssenceMismatch, BadFile."""
        w = over_layers(w, self.models.latent_shape[0], name)
        self.models.check(w)
        check_latents(w, f"'{name}'")
        return self.queue.run(lambda: source_of(self.models, w, name))

    @device_work
    def random_source(self, seed: int) -> Source:
        """A face that the generator makes up; the same for the same seed."""
        models = self.models
        random = torch.Generator().manual_seed(seed)
        z = torch.randn(1, models.latent_shape[1], generator=random)

        @torch.no_grad()
        def generate() -> Source:
            w = models.generator.mapping(z.to(models.device), TRUNCATION)
            return source_of(models, models.generator.repeat(w)[0], f"random {seed}")

        return self.queue.run(generate)

    # -- words

    @property
    def phrases(self) -> tuple[str, ...]:
        """What the image-text encoder was taught to say of a face; none for one that knows nearly
        any word.
        """
        return self.models.clip.phrases

    def unknown_words(self, text: str) -> list[str]:
        """What a text says that the image-text encoder was not taught: ["purple hair"]."""
        return self.models.clip.unknown_words(text)

    @device_work
    def text_target(self, text: str, neutral: str = "", name: str = "") -> Target:
        """A target from words, "an old man with a beard"; what they say more than the `neutral`
        ones, "a man", where those are given. Raises UserError for an empty text.
        """
        return self.queue.run(lambda: text_target(self.models, text, neutral, name))

    @device_work
    def imagine(
        self,
        target: Target,
        options: ImagineOptions = ImagineOptions(),  # noqa: B008 - frozen
    ) -> Iterator[Step]:
        """Faces that look like a target, of words mostly; see `methods.imagine`."""
        yield from self._in_turns(imagine(self.models, target, options))

    # -- essences

    @device_work
    def extract(
        self,
        target: Target,
        sources: Sequence[Source],
        options: Any = PRESETS["essence"],
        start: Essence | None = None,
    ) -> Iterator[Step]:
        """Learn the essence of a target on sources, by the method that the options belong to (see
        `METHODS`). Yields a `Step` after each step; `result` is the best so far.
        """
        _, method = method_of(options)
        start = start and start.over_layers(self.models.latent_shape[0])
        yield from self._in_turns(method.learn(self.models, target, sources, options, start))

    @device_work
    def instant(self, target: Target) -> Essence | None:
        """The target's essence at once, where the models have a method for that; else None."""
        options = instant_options(self.models, words=target.picture is None)
        steps = options and method_of(options)[1].learn(self.models, target, (), options)
        return self.queue.run(lambda: last(steps).result) if steps else None

    def load_essence(self, path: str | Path) -> Essence:
        """An essence file of this generator. Raises BadFile, or EssenceMismatch for another's."""
        essence = Essence.load(path).over_layers(self.models.latent_shape[0])
        essence.check(self.models.latent_shape, self.models.id)
        return essence

    @device_work
    def auto_strength(
        self, source: Source, essence: Essence, target: Target | None = None
    ) -> float:
        """The strength that suits a source; see `methods.strength`. Without its `target` what the
        essence remembers of it serves: words, or a small picture.
        """
        models = self.models

        def search() -> float:
            known = target or remembered_target(models, essence)
            return auto_strength(models, source, essence, known)

        return self.queue.run(search)

    # -- pictures out

    @device_work
    def blend(
        self,
        sources: Sequence[Source],
        essences: Sequence[Essence],
        strengths: Sequence[Any],
        fine: bool = False,
    ) -> np.ndarray:
        """G(w_s + strength_t * b_t) for every essence t (rows) and source s (columns): uint8
        [T, S, H, W, 3]. A strength may be a tensor [S], one for each source. `fine`: by the finer
        level, where there is one; it takes twice the time.
        """
        side = self.models.finest if fine else self.models.size

        def render() -> np.ndarray:
            w = edited_latents(self.models, sources, essences, strengths)
            return self.models.render(w, side).reshape(len(essences), len(sources), side, side, 3)

        return self.queue.run(render)

    def sweep(self, source: Source, essence: Essence, strengths: Sequence[float]) -> bytes:
        """An animated WebP of one source that runs through the strengths and back."""
        frames = self.blend([source], [essence] * len(strengths), strengths, fine=True)
        return animation(list(frames[:, 0]))

    def grid(
        self, sources: Sequence[Source], essences: Sequence[Essence], strengths: Sequence[float]
    ) -> Image.Image:
        """The paper's figure: sources along the top, targets down the left, the blends between."""
        rows: list[list[Image.Image | None]] = [[None, *(s.picture for s in sources)]]
        blends = self.blend(sources, essences, strengths, fine=True)
        for essence, row in zip(essences, blends, strict=True):
            rows.append([essence.thumbnail, *(Image.fromarray(cell) for cell in row)])
        return picture_grid(rows, cell=self.models.finest)

    # -- measures

    def cosines(
        self,
        target: Target,
        sources: Sequence[Source],
        result: Essence | Pictures,
        strength: float = 1.0,
    ) -> tuple[float, float]:
        """Mean CLIP cosine to the target over the sources, before and after."""
        before = np.stack([np.asarray(source.inversion) for source in sources])
        if isinstance(result, Pictures):
            after = result.images
        else:
            after = self.blend(sources, [result], [strength])[0]
        pairs = (self.similarity(target, pictures) for pictures in (before, after))
        return tuple(float(np.mean(cosines)) for cosines in pairs)

    @device_work
    def similarity(self, target: Target, pictures: np.ndarray) -> list[float]:
        """CLIP cosine of each picture, uint8 [N, H, W, 3], to the target; 1 is as like as can
        be.
        """
        return self.queue.run(lambda: self.models.similarity(target.embedding, pictures).tolist())

    @device_work
    def identity_distances(self, before: np.ndarray, after: np.ndarray) -> list[float]:
        """Face descriptor distance of each pair of pictures, uint8 [N, H, W, 3], or of one before
        to all after; the same person is usually closer than 0.6. Not a number where the models make
        no faces.
        """
        return self.queue.run(lambda: self.models.identity_distance(before, after).tolist())

    # -- the device

    def _in_turns(self, steps: Iterator[Step]) -> Iterator[Step]:
        """Hold the device for each step and release it in between, so that sessions take turns and
        a stop is quick.
        """
        try:
            while (step := self.queue.run(lambda: next(steps, None))) is not None:
                yield step
        finally:
            steps.close()
            memory.release_memory()


def last(steps: Iterator[Step]) -> Step:
    """Run to the end."""
    with closing(steps):
        *_, step = steps
    return step
