"""The look "photograph": an edit carried over to the source's own photograph
(docs/METHOD.md, section 9).

What an essence does to a source is found once, at strength 1, and applied at any strength and any
size without the models.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..pictures import detail
from ..pictures.detail import Change, LandmarkSpline
from ..pictures.faces import aligned_landmarks
from ..pictures.tensors import from_uint8, resample, to_pil, to_tensor
from ..values import Source

LOOKS = ("photograph", "model")


@dataclass(frozen=True, eq=False)
class PreparedPhotograph:
    """All of a source's photograph that does not depend on the essence."""

    photograph: Tensor  # [3, H, W], the crop at its own resolution
    guide: Tensor  # [3, S, S], the same at the generator's size
    inversion: Tensor  # [3, S, S], G(w)
    landmarks: tuple[Tensor, Tensor] | None  # of inversion and photograph; None without faces
    splines: tuple[LandmarkSpline, LandmarkSpline] | None  # through them


def prepare_photograph(source: Source, has_faces: bool) -> PreparedPhotograph:
    """A source as `find_changes` and `edit_photograph` want it."""
    photograph, inversion = to_tensor(source.crop)[0], to_tensor(source.inversion)[0]
    guide = resample(photograph, inversion.shape[-1], "antialias")
    if not has_faces:
        return PreparedPhotograph(photograph, guide, inversion, None, None)
    pictures = (source.inversion, source.crop)
    landmarks = tuple(torch.tensor(aligned_landmarks(each)).float() for each in pictures)
    splines = tuple(map(LandmarkSpline, landmarks))
    return PreparedPhotograph(photograph, guide, inversion, landmarks, splines)


def find_changes(prepared: Sequence[PreparedPhotograph], edited: np.ndarray) -> list[Change]:
    """What the edits do: `edited` G(w + b), uint8 [N, S, S, 3], one for each photograph."""
    changes = []
    for each, pixels in zip(prepared, edited, strict=True):
        landmarks = None
        if each.landmarks is not None:
            first, own = each.landmarks
            second = torch.tensor(aligned_landmarks(Image.fromarray(pixels))).float()
            landmarks = (first, second, own)
        after = from_uint8(pixels[None])[0]
        change = detail.find_change(each.inversion, after, each.guide, landmarks, each.splines)
        changes.append(change)
    return changes


def edit_photograph(
    prepared: PreparedPhotograph,
    change: Change,
    strength: float,
    size: int | None = None,
    where: Tensor | None = None,
) -> Image.Image:
    """The edited photograph, at its own resolution or at `size` pixels a side if that is smaller.
    `where` [1, S, S] in [0, 1] limits the edit to parts of the picture.
    """
    photograph = prepared.photograph
    if size is not None and size < photograph.shape[-1]:
        photograph = resample(photograph, size, "antialias")
    if where is not None:
        change = change.scaled(where)
    return to_pil(detail.apply_change(photograph, change, strength))
