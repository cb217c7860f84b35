"""The large view of one cell, before and after, and what a visitor downloads from it and from the
grid.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from markupsafe import Markup
from PIL import Image

from essence import Studio, encode_picture

from ..blending import Figures, cell_pixels, figures_of
from ..events import NOW, Components, Page, bind
from ..messages import SKIP
from ..rendering import data_element, data_url, download_link, render
from ..session import STRONGEST, WEAKEST, Session, SourceItem, TargetItem, nearest_strength
from . import downloads
from .grid import LIMITS

# Strengths of the pictures that the large view runs through, and of the animation.
STRENGTHS = tuple(np.arange(WEAKEST, STRONGEST + 0.01, 0.25).round(2).tolist())
SWEEP = tuple(np.linspace(WEAKEST, STRONGEST, 29).round(3).tolist())


def connect(page: Page, parts: Components) -> None:
    """The large view opens from the grid; downloads leave by the outbox."""
    pool, session, grid = page.pool, page.session, parts["grid"]
    compare, outbox = parts["compare"], parts["outbox"]
    opened = grid.look(bind(pool, open_view, id=str, source=str), session, compare, **NOW)
    opened.then(bind(pool, measure_strengths), session, parts["strip"], **NOW)
    grid.save(bind(pool, downloads.download_result, id=str), session, outbox, **NOW)
    grid.grid(bind(pool, downloads.download_grid), session, outbox, **NOW)
    grid.cells(bind(pool, downloads.download_cells), session, outbox, **NOW)
    compare.picture(bind(pool, download_picture, strength=float), session, outbox, **NOW)
    compare.sweep(bind(pool, download_sweep), session, outbox, **NOW)


def open_view(studio: Studio, session: Session, target_id: str, source_id: str) -> Any:
    """The large before and after of one cell, at once; `measure_strengths` follows."""
    session.view.looking = (target_id, source_id)
    found = looked_at(session)
    if found is None:
        return SKIP
    target, source = found
    return render(
        "compare.html",
        source=source,
        target=target,
        after=data_url(cell_pixels(studio, target, [source])[0]),
        strength=f"{target.strength:g}",
        limits=Markup(LIMITS),
    )


def looked_at(session: Session) -> tuple[TargetItem, SourceItem] | None:
    """The large view's row and source, if they are still there and have a picture."""
    if session.view.looking is None:
        return None
    target_id, source_id = session.view.looking
    target, item = session.row(target_id), session.items.sources.get(source_id)
    if target is None or item is None or item.source is None:
        return None
    if target.pictures is not None and target.picture_of(item.source) is None:
        return None
    return target, item


def measure_strengths(studio: Studio, session: Session) -> Any:
    """The large view's source at several strengths, with figures for each: the page runs through
    them without the server. Where there is no strength, its one picture.
    """
    found = looked_at(session)
    if found is None:
        return SKIP
    target, item = found
    if target.pictures is None:
        pictures = at_strengths(studio, target, item, STRENGTHS)
        figures = figures_of(studio, target, [item] * len(STRENGTHS), pictures)
        return strip_html(STRENGTHS, pictures, figures)
    pictures = cell_pixels(studio, target, [item])
    figures = figures_of(studio, target, [item], pictures)
    return strip_html((0.0, 1.0), pictures.repeat(2, axis=0), figures * 2)


def at_strengths(
    studio: Studio, target: TargetItem, item: SourceItem, strengths: Sequence[float]
) -> np.ndarray:
    """One source at several strengths: uint8 [K, H, W, 3]."""
    essences = [target.limited()] * len(strengths)
    return studio.blend([item.source], essences, strengths)[:, 0]


def strip_html(strengths: Sequence[float], pictures: np.ndarray, figures: Sequence[Figures]) -> str:
    """Strengths, pictures, and what to read at each, as data for the page's script."""
    strip = {
        "strengths": list(strengths),
        "frames": [data_url(pixels) for pixels in pictures],
        "identity": [None if math.isnan(a) else round(a, 3) for a, _ in figures],
        "likeness": [b if b is None else round(b, 3) for _, b in figures],
    }
    return data_element("strip", strip)


def download_picture(studio: Studio, session: Session, strength: float) -> Any:
    """The picture of the large view, at the strength chosen there."""
    found = looked_at(session)
    if found is None:
        return SKIP
    target, item = found
    if target.pictures is None:
        pixels = at_strengths(studio, target, item, [nearest_strength(strength)])[0]
    else:
        pixels = cell_pixels(studio, target, [item])[0]
    name = downloads.file_name(f"{item.name} {target.name}")
    data = encode_picture(Image.fromarray(pixels), "PNG")
    return download_link(f"{name}.png", data, "image/png")


def download_sweep(studio: Studio, session: Session) -> Any:
    """The large view's source through all strengths, as an animation."""
    found = looked_at(session)
    if found is None or found[0].pictures is not None:
        return SKIP
    target, item = found
    name = downloads.file_name(f"{item.name} {target.name}")
    data = studio.sweep(item.source, target.limited(), SWEEP)
    return download_link(f"{name}.webp", data, "image/webp")
