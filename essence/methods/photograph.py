"""The look "photograph": an edit carried over to the source's own photograph
(docs/METHOD.md, section 9).

What an essence does to a source is found once, at strength 1, and applied at any strength and any
size without the models.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from weakref import WeakKeyDictionary

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from ..errors import UserError
from ..pictures import detail
from ..pictures.detail import (
    FINE_SIDE,
    Change,
    LandmarkSpline,
    apply_change,
    fine_picture,
)
from ..pictures.faces import aligned_landmarks
from ..pictures.regions import face_regions
from ..pictures.tensors import from_uint8, resample, to_pil, to_tensor
from ..runtime.memory import release_memory
from ..runtime.worker_pool import WorkerPool
from ..values import Essence, Source

LOOKS = ("photograph", "model")


@dataclass(eq=False)
class PreparedPhotograph:
    """All of a source's photograph that does not depend on the essence."""

    crop: Image.Image  # the photograph's square at its own resolution
    guide: Tensor  # [3, S, S], the same at the generator's size
    inversion: Tensor  # [3, S, S], G(w)
    landmarks: tuple[Tensor, Tensor] | None  # of inversion and photograph; None without faces
    splines: tuple[LandmarkSpline, LandmarkSpline] | None  # through them
    sizes: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)

    @cached_property
    def regions(self) -> dict[str, Tensor]:
        """Masks of the parts of the face, see `face_regions`; none without a face."""
        return face_regions(self.guide, self.landmarks[1]) if self.landmarks else {}

    def sized(self, size: int | None) -> tuple[Tensor, Tensor]:
        """The photograph with at most `size` pixels a side, and what its warping samples; kept for
        small sizes, which are asked for again and again.
        """
        side = self.crop.width if size is None else min(size, self.crop.width)
        if side in self.sizes:
            return self.sizes[side]
        picture = to_tensor(self.crop)[0]
        if side < self.crop.width:
            picture = F.interpolate(picture[None], side, mode="bilinear", antialias=True)[0]
        found = picture, fine_picture(picture)
        if side <= FINE_SIDE:
            self.sizes[side] = found
        return found


def prepare_photograph(source: Source, has_faces: bool) -> PreparedPhotograph:
    """A source as `find_change` and `edit_photograph` want it."""
    inversion = to_tensor(source.inversion)[0]
    guide = resample(to_tensor(source.crop)[0], inversion.shape[-1], "antialias")
    if not has_faces:
        return PreparedPhotograph(source.crop, guide, inversion, None, None)
    pictures = (source.inversion, source.crop)
    landmarks = tuple(torch.tensor(aligned_landmarks(each)).float() for each in pictures)
    splines = tuple(map(LandmarkSpline, landmarks))
    return PreparedPhotograph(source.crop, guide, inversion, landmarks, splines)


@dataclass(frozen=True, eq=False)
class PhotographEdit:
    """One edit of a source's photograph."""

    source: Source
    change: Change
    strength: float = 1.0  # in strengths at which the change was found
    where: Tensor | None = None  # [1, S, S] in [0, 1]: limits it to parts of the picture


def find_change(prepared: PreparedPhotograph, edited: np.ndarray) -> Change:
    """What an edit does: `edited` G(w + b), uint8 [S, S, 3]."""
    landmarks = None
    if prepared.landmarks is not None:
        first, own = prepared.landmarks
        second = torch.tensor(aligned_landmarks(Image.fromarray(edited))).float()
        landmarks = (first, second, own)
    after = from_uint8(edited[None])[0]
    before, guide = prepared.inversion, prepared.guide
    return detail.find_change(before, after, guide, landmarks, prepared.splines)


def edit_photograph(
    prepared: PreparedPhotograph, edit: PhotographEdit, size: int | None = None
) -> Image.Image:
    """The edited photograph, at its own resolution or at `size` pixels a side if that is
    smaller.
    """
    change = edit.change if edit.where is None else edit.change.scaled(edit.where)
    photograph, fine = prepared.sized(size)
    edited = apply_change(photograph, change, edit.strength, fine)
    del photograph, fine  # where they are large, the rest needs their memory
    return to_pil(edited)


class PhotographLook:
    """The part of a studio that edits sources' photographs; the models' part is `blend`."""

    has_faces: bool

    def __init__(self) -> None:
        self._workers = WorkerPool()
        self._prepared: WeakKeyDictionary[Source, PreparedPhotograph] = WeakKeyDictionary()

    def blend(
        self,
        sources: Sequence[Source],
        essences: Sequence[Essence],
        strengths: Sequence[float],
        fine: bool = False,
    ) -> np.ndarray:
        raise NotImplementedError

    def changes(
        self, sources: Sequence[Source], essence: Essence, strength: float = 1.0
    ) -> list[Change | None]:
        """What an essence at `strength` does to each source's photograph, to be applied at any
        other strength by `photograph`; None for a source without one.
        """
        have = [source for source in sources if source.has_photograph]
        if not have:
            return [None] * len(sources)
        edited = self.blend(have, [essence], [strength])[0]
        pairs = zip(map(self._prepare, have), edited, strict=True)
        found = iter(self._workers.map(lambda pair: find_change(*pair), pairs))
        return [next(found) if source.has_photograph else None for source in sources]

    def photographs(
        self, edits: Sequence[PhotographEdit], size: int | None = None
    ) -> list[Image.Image]:
        """Sources' photographs, changed, at most `size` pixels wide; several at a time."""
        jobs = [(self._prepare(edit.source), edit) for edit in edits]
        pictures = self._workers.map(lambda job: edit_photograph(*job, size), jobs)
        if size is None:
            release_memory()
        return pictures

    def mask(self, source: Source, regions: Sequence[str]) -> torch.Tensor | None:
        """Where parts of a photograph lie (see `REGIONS`), [1, S, S] in [0, 1]; None for none
        named: everywhere.
        """
        if not regions:
            return None
        masks = self._prepare(source).regions
        if not masks:
            raise UserError("Parts of a picture are known in faces only.")
        return sum(masks[name] for name in regions)

    def _prepare(self, source: Source) -> PreparedPhotograph:
        """Kept as long as the source is."""
        prepared = self._prepared.get(source)
        if prepared is None:
            prepared = self._prepared[source] = prepare_photograph(source, self.has_faces)
            release_memory()
        return prepared
