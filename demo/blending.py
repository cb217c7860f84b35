"""Drawing the grid's cells: what has changed and nothing else, their strips and their figures."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from PIL import Image

from essence import Studio, Target, instant_options

from .looks import before, edited, row_pictures
from .messages import errors_told
from .rendering import CELL_SIDE, data_url, small_data_url
from .session import STRONGEST, WEAKEST, Cell, Session, SourceItem, TargetItem

Figures = tuple[float, float | None]

# Strengths at which a cell of the grid has its picture ready, where pictures are slow.
STRIP_STRENGTHS = tuple(np.arange(WEAKEST, STRONGEST + 0.01, 0.5).round(2).tolist())
STRIP_BYTES = 8_000_000  # of all strips of a grid


def draw_cells(
    studio: Studio, session: Session, fine: bool = True
) -> list[tuple[TargetItem, SourceItem]]:
    """Render the cells whose source, essence or strength has changed, rows that lack the same
    sources together; returns which. `fine`: as they look at rest, and those that were drawn while a
    slider moved once more.
    """
    session.forget_cells()
    drawn: list[tuple[TargetItem, SourceItem]] = []
    rows: dict[tuple[SourceItem, ...], list[TargetItem]] = {}
    for target in session.rows():
        stale = session.stale(target, fine)
        if target.pictures is not None:
            drawn += [(target, item) for item in stale if _show_picture(session, target, item)]
        elif stale:
            rows.setdefault(tuple(stale), []).append(target)
    for items, targets in rows.items():
        # The visitor may change them while pictures are made.
        targets_now = [replace(target, painted=dict(target.painted)) for target in targets]
        items_now = [replace(item) for item in items]
        recipes = [[session.recipe(target, item) for item in items_now] for target in targets_now]
        strengths = [target.strength for target in targets_now]
        pictures = edited(studio, session, targets_now, items_now, strengths, CELL_SIDE, fine=fine)
        for target, *row in zip(targets, recipes, pictures, strict=True):
            for item, was, made_of, picture in zip(items, items_now, *row, strict=True):
                if item not in session.stale(target, fine):
                    continue  # who has changed it meanwhile has drawn it, too
                coarse = picture.width < studio.models.finest and not session.in_photograph(was)
                cell = Cell(was.source, made_of, data_url(picture, CELL_SIDE), coarse)
                old = session.cell(target, item)
                if old and old.source is was.source and old.made_of[:-1] == made_of[:-1]:
                    cell.strip = old.strip  # only the strength is another
                session.view.cells[target.id, item.id] = cell
                drawn.append((target, item))
    return drawn


def _show_picture(session: Session, target: TargetItem, item: SourceItem) -> bool:
    """Put the picture that a method without a direction made into its cell, if there is one."""
    source, recipe = item.source, session.recipe(target, item)
    pixels = target.picture_of(source)
    if pixels is None:
        session.view.cells.pop((target.id, item.id), None)
        return False
    session.view.cells[target.id, item.id] = Cell(source, recipe, data_url(pixels, CELL_SIDE))
    return True


def answer_at_once(studio: Studio, session: Session) -> None:
    """Every target that nothing was made of gets its essence at once, where the models can."""
    for target in list(session.items.targets.values()):
        words = target.picture is None
        if target.result is not None or not target.learnable:
            continue
        if instant_options(studio.models, words) is not None:
            with errors_told(target.name):
                target.instant = studio.instant(embedded_target(studio, target))
                target.take(target.instant)


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
        wanted = []
        for item in ready:
            cell, recipe = session.cell(target, item), session.recipe(target, item)
            if (
                cell is not None
                and cell.strip in lacking
                and cell.source is item.source
                and cell.made_of[:-1] == recipe[:-1]
            ):
                wanted.append((item, cell.strip))
        if not wanted:
            continue
        lent = session.run.lent
        items, names = zip(*(wanted if lent else wanted[:1]), strict=True)
        max_length = STRIP_BYTES // (len(ready) * len(learned) * len(STRIP_STRENGTHS))
        frames: dict[str, list[str]] = {name: [] for name in names}
        for strengths in [STRIP_STRENGTHS] if lent else [[each] for each in STRIP_STRENGTHS]:
            repeated = [target] * len(strengths)
            rows = edited(studio, session, repeated, items, strengths, CELL_SIDE, fine=False)
            for name, strip in zip(names, zip(*rows, strict=True), strict=True):
                frames[name] += [small_data_url(picture, max_length) for picture in strip]
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
        pictures = row_pictures(studio, session, target, items, CELL_SIDE, fine=False)
        figures = figures_of(studio, session, target, items, pictures)
        for (item, cell), values in zip(bare, figures, strict=True):
            cell.figures = values
            measured.append((target, item))
    return measured


def figures_of(
    studio: Studio,
    session: Session,
    target: TargetItem,
    items: Sequence[SourceItem],
    pictures: Sequence[Image.Image],
) -> list[Figures]:
    """(identity distance to the item's own picture before, likeness to the target) of each."""
    side = max(picture.width for picture in pictures)  # of both looks in one row
    originals = [
        before(session, item, fine=picture.width > item.source.inversion.width)
        for item, picture in zip(items, pictures, strict=True)
    ]
    after, unedited = (
        np.stack([np.asarray(resized(picture, side)) for picture in row])
        for row in (pictures, originals)
    )
    identity = studio.identity_distances(unedited, after)
    likeness: list[Any] = [None] * len(after)
    if target.picture is not None or target.text:
        likeness = studio.similarity(embedded_target(studio, target), after)
    return list(zip(identity, likeness, strict=True))


def resized(picture: Image.Image, side: int) -> Image.Image:
    if picture.width == side:
        return picture
    return picture.resize((side, side), Image.Resampling.LANCZOS)


def embedded_target(studio: Studio, item: TargetItem) -> Target:
    """The picture in use, or the words, as a target, embedded once. Raises UserError for words that
    say nothing.
    """
    picture, known = item.picture, item.embedded
    if picture is None:
        if known is None or known.text != item.text:
            from_file = item.essence is not None and not item.words
            neutral = item.essence.neutral if from_file else item.neutral
            item.embedded = studio.text_target(item.text, neutral, item.name)
    elif known is None or known.picture is not picture:
        target = studio.embed_target(picture, item.name)
        # On ZeroGPU it comes back from another process, with a copy of the picture.
        item.embedded = replace(target, picture=picture, face_found=item.found)
    return replace(item.embedded, name=item.name)
