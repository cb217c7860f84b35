"""Edited pictures in the look that the visitor chose: photographs in their own detail, or the
model's pictures.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from essence import Change, Essence, PhotographEdit, Source, Studio, drawn_mask

from .session import Session, SourceItem, TargetItem

PACES = 5  # measurements that count


def edited(
    studio: Studio,
    session: Session,
    targets: Sequence[TargetItem],
    items: Sequence[SourceItem],
    strengths: Sequence[float],
    size: int | None,
    hold: bool = True,
    fine: bool = True,
) -> list[list[Image.Image]]:
    """Each target's essence, at its strength, on each source: rows of pictures, photographs at most
    `size` pixels wide (None: as large as they were cut out). `hold`: where cells are held to a
    budget of identity. `fine`: the model's pictures by its finer level, which takes longer.
    """

    def taken(target: TargetItem, item: SourceItem, strength: float) -> float:
        return session.held(target, item, strength) if hold else strength

    rows: list[list[Image.Image | None]] = [[None] * len(items) for _ in targets]
    # Asked once: the look may be changed while this goes on.
    as_photograph = [session.in_photograph(item) for item in items]
    columns = [i for i, own in enumerate(as_photograph) if not own]
    if columns and targets:
        essences = [target.limited() for target in targets]
        sources = [items[i].source for i in columns]
        factors: list[float | Tensor] = list(strengths)
        if hold and session.view.budget is not None:
            for row, target in enumerate(targets):
                each = [taken(target, items[i], strengths[row]) for i in columns]
                factors[row] = torch.tensor(each)
        blends = timed_blend(studio, session, sources, essences, factors, fine)
        for row, pictures in zip(rows, blends, strict=True):
            for i, pixels in zip(columns, pictures, strict=True):
                row[i] = Image.fromarray(pixels)
    photographs = [item for item, own in zip(items, as_photograph, strict=True) if own]
    edits = []
    for target, strength in zip(targets, strengths, strict=True):
        found = changes(studio, session, target, photographs, strength)
        anchor = anchor_of(session, strength)
        for item, change in zip(photographs, found, strict=True):
            where, times = mask_of(studio, target, item), taken(target, item, strength) / anchor
            edits.append(PhotographEdit(item.source, change, times, where))
    made = iter(studio.photographs(edits, size))
    return [[next(made) if picture is None else picture for picture in row] for row in rows]


def changes(
    studio: Studio,
    session: Session,
    target: TargetItem,
    items: Sequence[SourceItem],
    strength: float,
) -> list[Change]:
    """What the essence does to each photograph, found once for all strengths above zero and once
    for those below, and kept as long as neither changes. Where each call borrows a GPU one has to
    do for both.
    """
    anchor = anchor_of(session, strength)
    kept, essence = session.view.changes, target.limited()
    key = (target.essence, target.bands)
    found: dict[str, Change] = {}  # not read back from `kept`, where others put theirs meanwhile
    for item in items:
        source, made_of, change = kept.get((target.id, item.id, anchor), (None, None, None))
        if source is item.source and made_of == key:
            found[item.id] = change
    lacking = [item for item in items if item.id not in found]
    if lacking:
        sources = [item.source for item in lacking]
        new = studio.changes(sources, essence, anchor)
        for item, source, change in zip(lacking, sources, new, strict=True):
            kept[target.id, item.id, anchor] = (source, key, change)
            found[item.id] = change
    return [found[item.id] for item in items]


def mask_of(studio: Studio, target: TargetItem, item: SourceItem) -> Tensor | None:
    """Where the essence may change the photograph, [1, S, S] in [0, 1]; None: everywhere."""
    if (painted := target.painted.get(item.id)) is not None:
        return drawn_mask(painted, studio.models.size)
    return studio.mask(item.source, sorted(target.where))


def anchor_of(session: Session, strength: float) -> float:
    """The strength at which the change is found that serves for this one."""
    return -1.0 if strength < 0 and not session.run.lent else 1.0


def timed_blend(
    studio: Studio,
    session: Session,
    sources: Sequence[Source],
    essences: Sequence[Essence],
    strengths: Sequence[float | Tensor],
    fine: bool,
) -> np.ndarray:
    """`Studio.blend`; the session notes how long a picture took as a drag wants it."""
    began = time.monotonic()
    pictures = studio.blend(sources, essences, strengths, fine)
    if fine and pictures.shape[2] > studio.models.size:
        return pictures
    pace = (time.monotonic() - began) / (len(sources) * len(essences))
    session.run.paces = (*session.run.paces, pace)[-PACES:]
    return pictures


def row_pictures(
    studio: Studio,
    session: Session,
    target: TargetItem,
    items: Sequence[SourceItem],
    size: int | None,
    fine: bool = True,
) -> list[Image.Image]:
    """A row of the grid as it stands; a source without a picture in it shows its inversion."""
    if target.pictures is None:
        return edited(studio, session, [target], items, [target.strength], size, fine=fine)[0]
    made = [target.picture_of(item.source) for item in items]
    return [
        item.source.inversion if pixels is None else Image.fromarray(pixels)
        for item, pixels in zip(items, made, strict=True)
    ]


def before(session: Session, item: SourceItem, fine: bool = True) -> Image.Image:
    """What a source is compared with."""
    if session.in_photograph(item):
        return item.source.crop
    return item.source.picture if fine else item.source.inversion
