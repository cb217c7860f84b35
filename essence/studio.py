"""The facade: one per process. It holds the models and serves every session; it keeps nothing of
any of them.
"""

from __future__ import annotations

import dataclasses
import hashlib
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, wait
from contextlib import closing
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from .errors import EssenceMismatch, NoFaceFound, UserError
from .library import loading, manifest
from .methods.optimize import PRESETS, OptimizeOptions, optimize
from .methods.refine import RefineOptions, refine
from .models.model_set import ModelSet
from .pictures import align
from .pictures.grids import animation
from .pictures.grids import grid as picture_grid
from .pictures.loading import load_image
from .pictures.tensors import resample, to_tensor
from .runtime import hardware, memory
from .runtime.device_queue import Turn, apart
from .runtime.folders import ASSETS
from .values import Essence, Source, Step

TRUNCATION = 0.7  # of random faces: less variety, fewer broken ones


class Studio:
    """Models, loaded on first use, whose work takes turns on the device. Safe to share between
    threads.
    """

    def __init__(
        self,
        model: str | None = None,
        device: str | None = None,
        progress: loading.Progress | None = None,
        turn: Turn | None = None,
    ):
        """`model`: a model set by name or path, None for the default; `progress(what, done, total)`
        hears of long work while loading;
        `turn`: on the device, where other studios use the same one."""
        hardware.use_processors()
        memory.keep_memory()
        self.model = model or loading.default()
        self.device = device or hardware.device()
        self._models: ModelSet | None = None
        self._progress = progress
        self.loading: tuple[str, int, int] | None = (
            None  # (what, done, total) of long work, while the models load
        )
        self._loading, self._turn = threading.Lock(), turn or Turn()

    @classmethod
    def of(cls, models: ModelSet) -> Studio:
        """A studio around models that are loaded already."""
        studio = cls(models.name, str(models.device))
        studio._models = models
        return studio

    @property
    def name(self) -> str:
        """Of the model set; nothing is loaded for it."""
        return self._models.name if self._models is not None else manifest.find(self.model).name

    @property
    def has_faces(self) -> bool:
        """Whether the models make faces; nothing is loaded for it."""
        return (
            self._models.has_faces
            if self._models is not None
            else manifest.find(self.model).aligned == "face"
        )

    @property
    def models(self) -> ModelSet:
        with self._loading:
            models = self._models
            if models is None:
                # On a CPU in a thread that ends, so that OpenMP's pool for it ends too (see
                # `Turn`).
                models = self._models = (
                    apart(self._load).result() if self.device == "cpu" else self._load()
                )
            return models

    def load(self) -> Future[ModelSet]:
        """Begin to load the models, if they are not in memory, and what finds faces; `loading` says
        how far that is.
        """

        def load() -> ModelSet:
            if self.models.has_faces:
                align.prepare()
            return self.models

        return apart(load)

    @property
    def loaded(self) -> bool:
        """Whether the models are in memory."""
        return self._models is not None

    def _load(self) -> ModelSet:
        try:
            return loading.load(self.model, self.device, progress=self._hear)
        except torch.OutOfMemoryError as error:
            raise UserError(
                f"The models of '{self.model}' do not fit into the memory of {self.device} beside what is there."
            ) from error
        finally:
            self.loading = None

    def _hear(self, what: str, done: int, total: int) -> None:
        self.loading = what, done, total
        if self._progress is not None:
            self._progress(what, done, total)

    def forget(self) -> None:
        """Free the models' memory, as soon as no work under way holds them; the next use loads them
        again.
        """
        self._models = None

    # -- pictures in --------------------------------------------------------------------------------------------------

    def crop(self, picture: Image.Image, face: int = 0, aligned: bool = False) -> Image.Image:
        """The aligned square of a picture's `face`-th largest face; `aligned`: it is one already.
        Raises NoFaceFound.

        Models that make no faces take the centred square, here and in all of the following.
        """
        return self.crops([picture], face, aligned)[0]

    def crops(
        self, pictures: Sequence[Image.Image], face: int = 0, aligned: bool = False
    ) -> list[Image.Image]:
        """As `crop`, of several; the faces are found while the models load, if they still have
        to.
        """
        loading = None if self.loaded else apart(lambda: self.models)
        try:
            squares = [
                align.Square.centred(p) if aligned or not self.has_faces else align.square(p, face)
                for p in pictures
            ]
        finally:
            wait([loading] if loading else [])
        return [
            self.cut(picture, square) for picture, square in zip(pictures, squares, strict=True)
        ]

    def crop_target(
        self, picture: Image.Image, face: int = 0, aligned: bool = False
    ) -> tuple[Image.Image, bool]:
        """As `crop`, but a picture without a face (a drawing, say) is taken as it is: (square,
        whether a face was found).
        """
        try:
            return self.crop(picture, face, aligned), not aligned
        except NoFaceFound:
            return self.crop(picture, aligned=True), False

    def faces(self, picture: Image.Image, aligned: bool = False) -> list[Image.Image]:
        """The aligned squares of all faces, the largest first; `aligned`: the picture is one
        already. Raises NoFaceFound.
        """
        if aligned or not self.has_faces:
            return [self.crop(picture, aligned=True)]
        return align.align_all(picture, self.models.face_size)

    def target_faces(
        self, picture: Image.Image, aligned: bool = False
    ) -> tuple[list[Image.Image], bool]:
        """As `faces`, but a picture without a face is taken as it is: (squares, whether a face was
        found).
        """
        try:
            return self.faces(picture, aligned), not aligned
        except NoFaceFound:
            return self.faces(picture, aligned=True), False

    def squares(self, picture: Image.Image, aligned: bool = False) -> list[align.Square]:
        """Where `faces` would cut, the largest first, so that a person can nudge it. Raises
        NoFaceFound.
        """
        return align.squares(picture, aligned or not self.has_faces)

    def cut(self, picture: Image.Image, square: align.Square) -> Image.Image:
        """A square of a picture, as large as `crop` makes it."""
        return align.cut(picture, square, self.models.face_size)

    def invert(
        self, crop: Image.Image, name: str = "source", options: RefineOptions = RefineOptions()
    ) -> Iterator[Step]:  # noqa: B008
        """An aligned crop to a `Source`: the inverter's answer first, then a step for each
        refinement.

        One `Step` alone where the same crop was inverted with the same options before and the
        latents are still known.
        """
        with closing(self.invert_all([crop], [name], options)) as steps:
            for step in steps:
                yield dataclasses.replace(step, result=step.result[0])

    def invert_all(
        self,
        crops: Sequence[Image.Image],
        names: Sequence[str],
        options: RefineOptions = RefineOptions(),
    ) -> Iterator[Step]:  # noqa: B008
        """As `invert`, several together, in less time: `result` is a tuple of the `Source`s,
        `preview` shows all of them.

        More than the device takes at once go in parts, one after another; those that wait are what
        the inverter makes of them.
        """
        return self._taking_turns(self._invert(list(crops), list(names), options))

    def _invert(
        self, crops: list[Image.Image], names: list[str], options: RefineOptions
    ) -> Iterator[Step]:
        models = self.models
        keys = [("inversion", _content(crop), options) for crop in crops]
        known = [models.recall(key) for key in keys]
        found = [
            self._source(self._w(crop) if w is None else w, name, crop)
            for w, name, crop in zip(known, names, crops, strict=True)
        ]
        new = [i for i, w in enumerate(known) if w is None]
        parts = [new[i : i + models.at_once] for i in range(0, len(new), models.at_once)]
        index, total = 1, 1 + options.steps * len(parts)
        yield Step(
            index,
            total,
            tuple(found),
            {"total": float(np.mean([_difference(source) for source in found]))},
            _shown(found),
        )
        for part in parts:
            for step in refine(models, [found[i] for i in part], options):
                for i, source in zip(part, step.result, strict=True):
                    found[i] = source
                index += 1
                yield Step(
                    index,
                    total,
                    tuple(found),
                    step.losses,
                    None if step.preview is None else _shown(found),
                )
            for i in part:
                models.remember(keys[i], found[i].w)

    def _w(self, crop: Image.Image) -> torch.Tensor:
        """The inverter's answer, [L, D]."""
        models = self.models
        return models.invert(
            resample(to_tensor(crop).to(models.device), models.inverter.input_size, "antialias")
        )[0]

    def source(
        self,
        picture: Image.Image | str | Path,
        name: str = "source",
        face: int = 0,
        aligned: bool = False,
        refine: RefineOptions = RefineOptions(),
    ) -> Source:  # noqa: B008
        """Crop, invert and refine one picture."""
        if not isinstance(picture, Image.Image):
            picture = load_image(picture)
        return last(self.invert(self.crop(picture, face, aligned), name, refine)).result

    def sources(
        self,
        pictures: Sequence[Image.Image | str | Path],
        aligned: bool = False,
        refine: RefineOptions = RefineOptions(),
    ) -> list[Source]:  # noqa: B008
        """As `source`, of several pictures together, which takes less time; named after their
        files.
        """
        names = [
            "source" if isinstance(picture, Image.Image) else Path(picture).stem
            for picture in pictures
        ]
        crops = self.crops(
            [p if isinstance(p, Image.Image) else load_image(p) for p in pictures], aligned=aligned
        )
        return list(last(self.invert_all(crops, names, refine)).result) if crops else []

    def from_latents(self, w: torch.Tensor, name: str = "latents") -> Source:
        """Latents [L, D] (or [1, L, D]) as a source; its picture is what the generator makes of
        them. Raises EssenceMismatch.
        """
        w = w[0] if w.ndim == 3 and len(w) == 1 else w
        self.models.check(w)
        return self._turn(lambda: self._source(w, name))

    def random_source(self, seed: int) -> Source:
        """A face that the generator makes up; the same for the same seed."""
        models = self.models
        z = torch.randn(1, models.latent_shape[1], generator=torch.Generator().manual_seed(seed))

        @torch.no_grad()
        def make() -> Source:
            w = models.generator.repeat(models.generator.mapping(z.to(models.device), TRUNCATION))[
                0
            ]
            return self._source(w, f"random {seed}")

        return self._turn(make)

    def _source(self, w: torch.Tensor, name: str, crop: Image.Image | None = None) -> Source:
        inversion = Image.fromarray(self.models.render(w[None])[0])
        return Source(name, crop or inversion, inversion, w.detach().float().cpu(), self.models.id)

    # -- essences -----------------------------------------------------------------------------------------------------

    def extract(
        self,
        target: Image.Image,
        sources: Sequence[Source],
        options: OptimizeOptions = PRESETS["essence"],  # noqa: B008
        start: Essence | None = None,
        name: str = "essence",
    ) -> Iterator[Step]:
        """Learn the essence of an aligned `target` on `sources`; a `Step` after each step, `result`
        the best `Essence` so far.
        """
        return self._taking_turns(self._extract(target, sources, options, start, name))

    def _extract(
        self,
        target: Image.Image,
        sources: Sequence[Source],
        options: OptimizeOptions,
        start: Essence | None,
        name: str,
    ) -> Iterator[Step]:
        thumbnail = target.copy()
        for step in optimize(
            self.models, self._stack(sources), to_tensor(target), options, start, name
        ):
            yield dataclasses.replace(
                step, result=dataclasses.replace(step.result, thumbnail=thumbnail)
            )

    def load_essence(self, path: str | Path) -> Essence:
        """An essence file of this generator. Raises BadFile, or EssenceMismatch for another's."""
        essence = Essence.load(path)
        essence.check(self.models.latent_shape, self.models.id)
        return essence

    def _stack(self, sources: Sequence[Source]) -> torch.Tensor:
        if not sources:
            raise UserError("Add at least one source first.")
        ours = self.models.id
        if strange := next((source for source in sources if source.model != ours), None):
            raise EssenceMismatch(
                f"The source '{strange.name}' was inverted with the generator {strange.model}; this one is {ours}."
            )
        return torch.stack([source.w for source in sources])

    # -- pictures out -------------------------------------------------------------------------------------------------

    def blend(
        self, sources: Sequence[Source], essences: Sequence[Essence], strengths: Sequence[float]
    ) -> np.ndarray:
        """G(w_s + strength_t * b_t) for every essence t (rows) and source s (columns): uint8 [T, S,
        H, W, 3].
        """
        models = self.models

        def render() -> np.ndarray:
            w = self._stack(sources).to(models.device)
            rows = [
                essence.apply(w, strength, models.id, models.latents)
                for essence, strength in zip(essences, strengths, strict=True)
            ]
            shape = (len(rows), len(w), models.size, models.size, 3)
            return (
                models.render(torch.cat(rows)).reshape(shape) if rows else np.zeros(shape, np.uint8)
            )

        return self._turn(render)

    def sweep(self, source: Source, essence: Essence, strengths: Sequence[float]) -> bytes:
        """An animated WebP of one source that runs through the strengths and back."""
        return animation(list(self.blend([source], [essence] * len(strengths), strengths)[:, 0]))

    def grid(
        self, sources: Sequence[Source], essences: Sequence[Essence], strengths: Sequence[float]
    ) -> Image.Image:
        """The paper's figure: sources along the top, targets down the left, the blends between
        them.
        """
        side = self.models.size
        rows: list[list[Image.Image | None]] = [[None, *(source.inversion for source in sources)]]
        for essence, blends in zip(essences, self.blend(sources, essences, strengths), strict=True):
            rows.append([essence.thumbnail, *(Image.fromarray(cell) for cell in blends)])
        return picture_grid(rows, cell=side)

    def cosines(
        self,
        target: Image.Image,
        sources: Sequence[Source],
        essence: Essence,
        strength: float = 1.0,
    ) -> tuple[float, float]:
        """Mean CLIP cosine to the target over the sources, before and after."""
        models = self.models

        @torch.no_grad()
        def measure() -> tuple[float, float]:
            w, e_t = self._stack(sources).to(models.device), models.encode(to_tensor(target))
            both = [
                models.encode(models.images(x))
                for x in (w, essence.apply(w, strength, models.id, models.latents))
            ]
            before, after = (F.cosine_similarity(e, e_t).mean().item() for e in both)
            return before, after

        return self._turn(measure)

    def identity_distances(self, before: np.ndarray, after: np.ndarray) -> list[float]:
        """Face descriptor distance of each pair of pictures, uint8 [N, H, W, 3]; the same person is
        usually closer than 0.6.

        Not a number where the models make no faces.
        """
        models = self.models

        @torch.no_grad()
        def measure() -> list[float]:
            a, b = (
                models.describe(torch.tensor(x).permute(0, 3, 1, 2) / 127.5 - 1)
                for x in (before, after)
            )
            return (a - b).norm(dim=1).tolist()

        return self._turn(measure)

    def likeness(self, target: Image.Image, pictures: np.ndarray) -> list[float]:
        """CLIP cosine of each picture, uint8 [N, H, W, 3], to the target; 1 is as like as can
        be.
        """
        models = self.models

        @torch.no_grad()
        def measure() -> list[float]:
            e_t, e = (
                models.encode(to_tensor(target)),
                models.encode(torch.tensor(pictures).permute(0, 3, 1, 2) / 127.5 - 1),
            )
            return F.cosine_similarity(e, e_t).tolist()

        return self._turn(measure)

    # -- the device ---------------------------------------------------------------------------------------------------

    def _taking_turns(self, steps: Iterator[Step]) -> Iterator[Step]:
        """Hold the device for each step and let go between them, so that sessions take turns and a
        stop is quick.
        """
        try:
            while True:
                step = self._turn(lambda: next(steps, None))
                if step is None:
                    return
                yield step
        finally:
            steps.close()
            memory.release_memory()


def last(steps: Iterator[Step]) -> Step:
    """Run to the end."""
    step = None
    for step in steps:  # noqa: B007 - the last one is wanted
        pass
    assert step is not None
    return step


def _content(picture: Image.Image) -> bytes:
    """The same for the same pixels; the picture cannot be had back from it."""
    return hashlib.sha256(f"{picture.mode} {picture.size}".encode() + picture.tobytes()).digest()


def _shown(sources: Sequence[Source]) -> np.ndarray:
    return np.stack([np.asarray(source.inversion) for source in sources])


def _difference(source: Source) -> float:
    crop, inversion = to_tensor(source.crop, source.inversion.width), to_tensor(source.inversion)
    return (crop - inversion).abs().mean().item() / 2


def bundled(kind: str) -> list[Path]:
    """Example files in assets/: "sources", "targets" or "essences"."""
    return sorted(path for path in (ASSETS / kind).glob("*") if not path.name.startswith("."))
