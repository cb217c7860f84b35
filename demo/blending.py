"""Drawing the grid's cells: what has changed and nothing else, their strips and their figures."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Collection, Sequence
from typing import Any

import numpy as np

from essence import Essence, Source, Studio, Target

from .rendering import CELL_SIDE, data_url, small_data_url
from .session import STRONGEST, WEAKEST, Cell, Session, SourceItem, TargetItem

Figures = tuple[float, float | None]

# Strengths at which a cell of the grid has its picture ready, where pictures are slow.
STRIP_STRENGTHS = tuple(np.arange(WEAKEST, STRONGEST + 0.01, 0.5).round(2).tolist())
STRIP_BYTES = 8_000_000  # of all strips of a grid
PACES = 5  # measurements that count


def draw_cells(studio: Studio, session: Session) -> list[tuple[TargetItem, SourceItem]]:
    """Render the cells whose source, essence or strength has changed, rows that lack the same
    sources together; returns which.
    """
    session.forget_cells()
    drawn: list[tuple[TargetItem, SourceItem]] = []
    rows: dict[tuple[SourceItem, ...], list[TargetItem]] = {}
    for target in session.rows():
        stale = session.stale(target)
        if target.pictures is not None:
            drawn += [(target, item) for item in stale if _show_picture(session, target, item)]
        elif stale:
            rows.setdefault(tuple(stale), []).append(target)
    for items, targets in rows.items():
        sources, recipes = [item.source for item in items], [target.recipe() for target in targets]
        essences = [target.limited() for target in targets]
        pictures = timed_blend(
            studio, session, sources, essences, [target.strength for target in targets]
        )
        for target, made_of, row in zip(targets, recipes, pictures, strict=True):
            for item, source, pixels in zip(items, sources, row, strict=True):
                cell = Cell(source, made_of, data_url(pixels, CELL_SIDE))
                old = session.cell(target, item)
                if old is not None and old.source is source and old.made_of[:-1] == made_of[:-1]:
                    cell.strip = old.strip  # only the strength is another
                session.view.cells[target.id, item.id] = cell
                drawn.append((target, item))
    return drawn


def _show_picture(session: Session, target: TargetItem, item: SourceItem) -> bool:
    """Put the picture that a method without a direction made into its cell, if there is one."""
    source, recipe = item.source, target.recipe()
    pixels = target.picture_of(source)
    if pixels is None:
        session.view.cells.pop((target.id, item.id), None)
        return False
    session.view.cells[target.id, item.id] = Cell(source, recipe, data_url(pixels, CELL_SIDE))
    return True


def timed_blend(
    studio: Studio,
    session: Session,
    sources: Sequence[Source],
    essences: Sequence[Essence],
    strengths: Sequence[float],
) -> np.ndarray:
    """`Studio.blend`; the session notes how long a picture took."""
    began = time.monotonic()
    pictures = studio.blend(sources, essences, strengths)
    pace = (time.monotonic() - began) / (len(sources) * len(essences))
    session.run.paces = (*session.run.paces, pace)[-PACES:]
    return pictures


def cell_pixels(studio: Studio, target: TargetItem, items: Sequence[SourceItem]) -> np.ndarray:
    """A row of the grid at full size, uint8 [N, H, W, 3]; a source without a picture in it shows
    its inversion.
    """
    sources = [item.source for item in items]
    if target.pictures is None:
        return studio.blend(sources, [target.limited()], [target.strength])[0]
    made = [target.picture_of(source) for source in sources]
    return np.stack(
        [
            np.asarray(source.inversion) if pixels is None else pixels
            for source, pixels in zip(sources, made, strict=True)
        ]
    )


# ---- strips, where pictures are slow


def make_strips(
    studio: Studio, session: Session, lacking: Collection[object]
) -> dict[str, list[str]]:
    """Some of the strips that the page lacks, by their names in the cells: a row at once where a
    GPU is lent, else one cell, picture by picture, so that others have their turn on the device.
    The page asks again until it has them all.
    """
    ready, learned = session.items.ready(), session.items.learned()
    for target in learned:
        wanted, recipe = [], target.recipe()
        for item in ready:
            cell = session.cell(target, item)
            if (
                cell is not None
                and cell.strip in lacking
                and cell.source is item.source
                and cell.made_of[:-1] == recipe[:-1]
            ):
                wanted.append((item.source, cell.strip))
        if not wanted:
            continue
        lent, essence = session.run.lent, target.limited()
        sources, names = zip(*(wanted if lent else wanted[:1]), strict=True)
        max_length = STRIP_BYTES // (len(ready) * len(learned) * len(STRIP_STRENGTHS))
        frames: dict[str, list[str]] = {name: [] for name in names}
        for strengths in [STRIP_STRENGTHS] if lent else [[each] for each in STRIP_STRENGTHS]:
            essences = [essence] * len(strengths)
            pictures = timed_blend(studio, session, sources, essences, strengths)
            for name, strip in zip(names, pictures.swapaxes(0, 1), strict=True):
                frames[name] += [small_data_url(pixels, max_length) for pixels in strip]
        return frames
    return {}


# ---- figures


def measure_cells(studio: Studio, session: Session) -> list[tuple[TargetItem, SourceItem]]:
    """Measure the cells that lack figures; returns which."""
    measured: list[tuple[TargetItem, SourceItem]] = []
    for target in session.rows():
        cells = [(item, session.cell(target, item)) for item in session.items.ready()]
        bare = [(item, cell) for item, cell in cells if cell is not None and cell.figures is None]
        if not bare:
            continue
        items = [item for item, _ in bare]
        figures = figures_of(studio, target, items, cell_pixels(studio, target, items))
        for (item, cell), values in zip(bare, figures, strict=True):
            cell.figures = values
            measured.append((target, item))
    return measured


def figures_of(
    studio: Studio, target: TargetItem, items: Sequence[SourceItem], pictures: np.ndarray
) -> list[Figures]:
    """(identity distance to the item's own inversion, likeness to the target) of each picture,
    uint8 [N, H, W, 3].
    """
    before = np.stack([np.asarray(item.source.inversion) for item in items])
    identity = studio.identity_distances(before, pictures)
    likeness: list[Any] = [None] * len(pictures)
    if target.picture is not None:
        likeness = studio.similarity(embedded_target(studio, target), pictures)
    return list(zip(identity, likeness, strict=True))


def embedded_target(studio: Studio, item: TargetItem) -> Target:
    """The picture in use as a target, embedded once."""
    picture = item.picture
    if item.embedded is None or item.embedded.picture is not picture:
        target = studio.embed_target(picture, item.name)
        # On ZeroGPU it comes back from another process, with a copy of the picture.
        item.embedded = dataclasses.replace(target, picture=picture, face_found=item.found)
    return dataclasses.replace(item.embedded, name=item.name)
