"""Beside each slider: what is kept of the sources' identity, measured at rest, cell by cell; and
the strengths that are chosen or held by it.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any

import numpy as np

from essence import Studio

from .blending import embedded_target, resized
from .looks import before, edited
from .rendering import CELL_SIDE, render
from .scale import FINE, MEASURED, STRANGER, STRONGEST, WEAKEST, Scale, kept_range
from .session import Session, SourceItem, TargetItem

# Of a row's cells so many are measured, the first ones: each takes as long as some pictures. Where
# all are held to a budget, all are.
SEEN = 4
AT_ONCE = 3  # pictures, before others have their turn on the device
STEP = 0.05  # of a strength slider


def measures(session: Session) -> bool:
    """Whether there are scales: not without faces, nor where each picture borrows a GPU."""
    return session.view.people and not session.run.lent and not session.view.mixing


def cells_of(session: Session, target: TargetItem) -> list[SourceItem]:
    """Sources whose cells the row's scale is made of."""
    if target.essence is None:
        return []
    count = SEEN if session.view.budget is None else None
    return list(islice(session.items.ready(), count))


def lacking(session: Session) -> Iterator[tuple[TargetItem, SourceItem]]:
    """Cells that have to be measured (again)."""
    for target in session.rows():
        yield from (
            (target, item) for item in cells_of(session, target) if lacks(session, target, item)
        )


def lacks(session: Session, target: TargetItem, item: SourceItem) -> bool:
    """Whether the cell lacks its scale, or the strength that suits it where it is asked for."""
    scale = session.scale(target, item)
    searched = target.by_hand or not session.view.suiting
    return scale is None or (scale.suits is None and not searched)


def measure_next(studio: Studio, session: Session) -> TargetItem | None:
    """Measure one cell that lacks its scale, or search the strength that suits it; which row it is
    in, None where none lacks.
    """
    found = next(lacking(session), None)
    if found is None or not measures(session):
        return None
    target, item = found
    if (scale := session.scale(target, item)) is not None:
        known = target.picture is not None or target.text
        embedded = embedded_target(studio, target) if known else None
        scale.suits = studio.auto_strength(item.source, target.limited(), embedded)
        return target
    made_of = session.without_strength(target, item)
    distances = dict.fromkeys(MEASURED, 0.0)
    strengths = [strength for strength in MEASURED if strength]
    for start in range(0, len(strengths), AT_ONCE):
        some = strengths[start : start + AT_ONCE]
        rows = [
            edited(studio, session, [target], [item], [s], CELL_SIDE, hold=False, fine=False)
            for s in some
        ]
        pictures = [np.asarray(row[0]) for (row,) in rows]
        alike = len({picture.shape for picture in pictures}) == 1
        if session.without_strength(target, item) != made_of or not alike:
            return target  # the look or something else changed meanwhile: measured again
        after = np.stack(pictures)
        side = after.shape[1]
        original = np.asarray(resized(before(session, item, fine=False), side))[None]
        distances |= zip(some, studio.identity_distances(original, after), strict=True)
    scale = Scale(item.source, made_of, list(distances.values()))
    session.view.scales[target.id, item.id] = scale
    return target


def suit(session: Session, target: TargetItem) -> bool:
    """Choose the row's strength, unless somebody did so by hand or not all of it is known: what
    suits half of its sources; whether it is another now.
    """
    scales = [session.scale(target, item) for item in cells_of(session, target)]
    suits = [scale and scale.suits for scale in scales]
    if not session.view.suiting or target.by_hand or not suits or None in suits:
        return False
    suitable = round(STEP * round(float(np.median(suits)) / STEP), 2)
    changed = abs(suitable - target.strength) > STEP / 2
    if changed:
        target.strength, target.suited = suitable, target.suited + 1
    return changed


def suit_all(session: Session) -> None:
    """Also what was chosen by hand before."""
    for target in session.rows():
        target.by_hand = False
        suit(session, target)


def scale_html(session: Session, target: TargetItem) -> str:
    """The row's scale, as far as it is known: for each strength what is lost at most, and where the
    first of its people is taken for somebody else.
    """
    if not measures(session) or target.essence is None:
        return ""
    cells = cells_of(session, target)
    scales = [scale for item in cells if (scale := session.scale(target, item)) is not None]
    whole = not any(lacks(session, target, item) for item in cells)
    values: dict[str, Any] = {"target": target, "whole": whole}
    if not scales:
        return render("scale.html", **values, stops=[], marks=[], low=None, high=None)
    distance = np.max([scale.distance() for scale in scales], axis=0)
    low, high = kept_range(distance, STRANGER)
    marks = [each for each in (low, high) if WEAKEST < each < STRONGEST]
    stops = [(place(s), kept(d)) for s, d in zip(FINE[::5], distance[::5], strict=True)]
    places = [place(mark) for mark in marks]
    return render("scale.html", **values, stops=stops, marks=places, low=low, high=high)


def place(strength: float) -> float:
    """On the slider, percent."""
    return round(100 * (strength - WEAKEST) / (STRONGEST - WEAKEST), 1)


def kept(distance: float) -> int:
    """Percent of identity, for the eye: 0 where people see somebody else."""
    return round(100 * max(0.0, 1 - distance / STRANGER))
