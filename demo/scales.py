"""Beside each slider: what is kept of the sources' identity, measured at rest, cell by cell; and
the strengths that are chosen or held by it.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any

import numpy as np

from essence import Studio

from .blending import figures_of
from .looks import edited
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
        for item in cells_of(session, target):
            if session.scale(target, item) is None:
                yield target, item


def measure_next(studio: Studio, session: Session) -> TargetItem | None:
    """Measure one cell that lacks its scale; which row it is in, None where none lacks."""
    found = next(lacking(session), None)
    if found is None or not measures(session):
        return None
    target, item = found
    made_of = (session.in_photograph(item), target.painted.get(item.id), *target.recipe()[:-1])
    figures = []
    for start in range(0, len(MEASURED), AT_ONCE):
        pictures = []
        for strength in MEASURED[start : start + AT_ONCE]:
            rows = edited(studio, session, [target], [item], [strength], CELL_SIDE, hold=False)
            pictures += rows[0]
        figures += figures_of(studio, session, target, [item], pictures)
    distances = [0.0 if s == 0 else d for s, (d, _) in zip(MEASURED, figures, strict=True)]
    likeness = [value for _, value in figures]
    scale = Scale(item.source, made_of, distances, None if None in likeness else likeness)
    session.view.scales[target.id, item.id] = scale
    return target


def suit(session: Session, target: TargetItem) -> bool:
    """Choose the row's strength, unless somebody did so by hand or not all of it is measured: what
    suits half of its sources; whether it is another now.
    """
    scales = [session.scale(target, item) for item in cells_of(session, target)]
    if not session.view.suiting or target.by_hand or not scales or None in scales:
        return False
    suitable = STEP * round(float(np.median([scale.suitable() for scale in scales])) / STEP)
    changed = abs(suitable - target.strength) > STEP / 2
    if changed:
        target.strength, target.suited = round(suitable, 2), target.suited + 1
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
    cells = [session.scale(target, item) for item in cells_of(session, target)]
    scales = [scale for scale in cells if scale is not None]
    values: dict[str, Any] = {"target": target, "whole": len(scales) == len(cells) > 0}
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
