"""The grid and the mixture: drawing them, strengths and layers, the large view and its figures."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

from essence import Essence, Source, Studio

from . import board, views
from .messages import SKIP
from .session import ALL_BANDS, Cell, Session, SourceItem, TargetItem, recipe

View = tuple[Any, Any, Any]  # HTML of the sources, the targets and the grid; or SKIP
STRIP = tuple(
    np.arange(views.WEAKEST, views.STRONGEST + 0.01, 0.25).round(2).tolist()
)  # strengths of the large view
COARSE_STRIP = tuple(
    np.arange(views.WEAKEST, views.STRONGEST + 0.01, 0.5).round(2).tolist()
)  # of the grid's cells
PACES = 5  # measurements that count
STRIP_BYTES = 8_000_000  # of all strips of a grid
SWEEP = tuple(np.linspace(views.WEAKEST, views.STRONGEST, 29).round(3).tolist())  # of the animation


# ---- the whole view


def view(studio: Studio, session: Session) -> View:
    return views.sources(session), views.targets(session), measure(studio, session)


def draw(studio: Studio, session: Session) -> str:
    """Render what has changed, and show it."""
    draw_cells(studio, session)
    return board.board(session)


def draw_cells(studio: Studio, session: Session) -> list[tuple[str, str]]:
    """Render the cells whose source, essence or strength has changed, rows that lack the same
    sources together: (target's id, source's id) of each."""
    session.forget_cells()
    rows: dict[tuple[SourceItem, ...], list[TargetItem]] = {}
    for target in session.rows():
        if stale := session.stale(target):
            rows.setdefault(tuple(stale), []).append(target)
    for items, targets in rows.items():
        draw_rows(studio, session, items, targets)
    return [
        (target.id, item.id)
        for items, targets in rows.items()
        for target in targets
        for item in items
    ]


def draw_rows(
    studio: Studio, session: Session, items: Sequence[SourceItem], targets: Sequence[TargetItem]
) -> None:
    sources, recipes = [item.source for item in items], [recipe(target) for target in targets]
    pictures = timed(
        studio,
        session,
        sources,
        [target.limited() for target in targets],
        [target.strength for target in targets],
    )
    for target, made_of, row in zip(targets, recipes, pictures, strict=True):
        for item, source, pixels in zip(items, sources, row, strict=True):
            cell, known = (
                Cell(source, made_of, views.data_url(pixels, views.CELL_SIDE)),
                session.cells.get((target.id, item.id)),
            )
            if known is not None and known.source is source and known.made_of[:-1] == made_of[:-1]:
                cell.strip = known.strip  # only the strength is another
            session.cells[target.id, item.id] = cell


def timed(
    studio: Studio,
    session: Session,
    sources: Sequence[Source],
    essences: Sequence[Essence],
    strengths: Sequence[float],
) -> np.ndarray:
    """`Studio.blend`, and the session hears how long it took."""
    began = time.monotonic()
    pictures = studio.blend(sources, essences, strengths)
    session.paces = (*session.paces, (time.monotonic() - began) / (len(sources) * len(essences)))[
        -PACES:
    ]
    return pictures


# ---- strips for the grid, where pictures are slow


def strips(studio: Studio, session: Session, lacking: Collection[object]) -> str:
    """Strips that the page lacks, by their names in the cells: a row at once where a GPU is lent,
    else one cell, picture by picture, so that others have their turn. The page asks again until it
    has them all."""
    for target in session.learned():
        cells = [(item, session.cells.get((target.id, item.id))) for item in session.ready()]
        wanted = [
            (item.source, cell.strip)
            for item, cell in cells
            if cell is not None
            and cell.strip in lacking
            and cell.source is item.source
            and cell.made_of[:-1] == recipe(target)[:-1]
        ]
        if wanted:
            sources, names = zip(*(wanted if session.lent else wanted[:1]), strict=True)
            most = STRIP_BYTES // (
                len(session.ready()) * len(session.learned()) * len(COARSE_STRIP)
            )
            essence, frames = target.limited(), {name: [] for name in names}
            for strengths in (
                [COARSE_STRIP] if session.lent else [[strength] for strength in COARSE_STRIP]
            ):
                pictures = timed(studio, session, sources, [essence] * len(strengths), strengths)
                for name, strip in zip(names, pictures.swapaxes(0, 1), strict=True):
                    frames[name] += [views.small_url(pixels, most) for pixels in strip]
            return board.strips(COARSE_STRIP, frames)
    return board.strips(COARSE_STRIP, {})


# ---- strengths and layers


def take_strengths(session: Session, strengths: Mapping[str, object]) -> None:
    """Strength by target's id, as the sliders stand. Numbers come from the browser: others than the
    sliders' are pulled in.
    """
    for id, value in strengths.items():
        if (
            (target := session.targets.get(id)) is not None
            and isinstance(value, (int, float))
            and value == value
        ):
            setattr(
                target,
                "share" if session.mixing else "strength",
                views.nearest_strength(float(value)),
            )


def set_strengths(
    studio: Studio, session: Session, strengths: Mapping[str, object], drawn: bool = False
) -> Any:
    """The whole grid as the sliders stand. `drawn`: the page shows it from its strips."""
    take_strengths(session, strengths)
    return SKIP if drawn else draw(studio, session)


def redraw(
    studio: Studio, session: Session, strengths: Mapping[str, object]
) -> list[tuple[str, str, str, str]] | None:
    """The cells that the sliders change and nothing else, so that they follow the hand: target's
    id, source's id, picture, figures. None where the page has to ask for the whole grid, because
    pictures have become slow."""
    take_strengths(session, strengths)
    drawn = [(*ids, session.cells.get(ids)) for ids in draw_cells(studio, session)]
    if session.slow:
        return None
    return [
        (target, source, cell.url, board.figures(cell) if session.measuring else "")
        for target, source, cell in drawn
        if cell
    ]


def switch_band(studio: Studio, session: Session, id: str, band: str) -> str:
    """Let an essence change some layers, or not."""
    target = session.targets.get(id)
    if target is not None and band in ALL_BANDS:
        target.bands = target.bands ^ {band}
    return measure(studio, session)


def switch_mixing(studio: Studio, session: Session, mixing: bool) -> str:
    session.mixing = mixing
    return measure(studio, session)


# ---- figures


def switch_measuring(studio: Studio, session: Session) -> str:
    session.measuring = not session.measuring
    return measure(studio, session)


def measure(studio: Studio, session: Session) -> str:
    """Draw, and measure the cells that lack figures if the visitor wants figures at all. A drag
    only draws, to stay quick.
    """
    draw_cells(studio, session)
    for target in session.rows() if session.measuring else ():
        cells = [(item, session.cells.get((target.id, item.id))) for item in session.ready()]
        if bare := [
            (item, cell) for item, cell in cells if cell is not None and cell.figures is None
        ]:
            items = [item for item, _ in bare]
            pictures = studio.blend(
                [item.source for item in items], [target.limited()], [target.strength]
            )[0]
            for (_, cell), figures in zip(
                bare, measured(studio, target, items, pictures), strict=True
            ):
                cell.figures = figures
    return board.board(session)


def measured(
    studio: Studio, target: TargetItem, items: Sequence[SourceItem], pictures: np.ndarray
) -> list[tuple[float, float | None]]:
    """(identity distance to the item's own inversion, likeness to the target) of each picture,
    uint8 [N, H, W, 3].
    """
    before = np.stack([np.asarray(item.source.inversion) for item in items])
    identity = studio.identity_distances(before, pictures)
    likeness: list = [None] * len(pictures)
    if target.picture is not None:
        likeness = studio.similarity(studio.embed_target(target.picture, target.name), pictures)
    return list(zip(identity, likeness, strict=True))


# ---- the large view


def look(studio: Studio, session: Session, target_id: str, source_id: str) -> Any:
    """The large before and after of one cell, at once; `details` follow."""
    target, item = session.row(target_id), session.sources.get(source_id)
    if target is None or item is None or item.source is None:
        return SKIP
    session.looking = (target_id, source_id)
    edited = studio.blend([item.source], [target.limited()], [target.strength])[0, 0]
    return board.compare(item, target, edited)


def looked_at(session: Session) -> tuple[TargetItem, SourceItem] | None:
    if session.looking is None:
        return None
    target, item = session.row(session.looking[0]), session.sources.get(session.looking[1])
    return (
        (target, item)
        if target is not None and item is not None and item.source is not None
        else None
    )


def details(studio: Studio, session: Session) -> Any:
    """A strip of strengths for the large view, with figures for each: the page scrubs it without
    the server.
    """
    if (found := looked_at(session)) is None:
        return SKIP
    target, item = found
    pictures = strip(studio, item, target.limited(), STRIP)
    return board.details(STRIP, pictures, measured(studio, target, [item] * len(STRIP), pictures))


def strip(
    studio: Studio, item: SourceItem, essence: Essence, strengths: Sequence[float]
) -> np.ndarray:
    """One source at several strengths: uint8 [K, H, W, 3]."""
    return studio.blend([item.source], [essence] * len(strengths), strengths)[:, 0]
