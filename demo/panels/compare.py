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

from essence import Studio, load_image, paste, picture_animation, xmp_packet

from ..blending import Figures, figures_of
from ..encoding import read_base64
from ..events import EVERY, NOW, Components, Page, bind
from ..looks import before, edited, mask_of, row_pictures
from ..messages import SKIP, errors_told
from ..rendering import data_element, data_url, download_link, render
from ..session import STRONGEST, WEAKEST, Session, SourceItem, TargetItem, nearest_strength
from . import downloads
from .grid import LIMITS, bind_click, show_grid

# Strengths of the pictures that the large view runs through, and of the animation.
STRENGTHS = tuple(np.arange(WEAKEST, STRONGEST + 0.01, 0.25).round(2).tolist())
MASK_SIDE = 128  # pixels of what the brush paints
LARGE_SIDE = 512  # most pixels of photographs in the large view and in the animation
SWEEP = tuple(np.linspace(WEAKEST, STRONGEST, 29).round(3).tolist())


def connect(page: Page, parts: Components) -> None:
    """The large view opens from the grid; downloads leave by the outbox."""
    pool, session, grid = page.pool, page.session, parts["grid"]
    compare, outbox = parts["compare"], parts["outbox"]
    opened = grid.look(bind_click(pool, open_view, id=str, source=str), session, compare, **NOW)
    opened.then(bind(pool, measure_strengths), session, parts["strip"], **NOW)
    grid.save(bind_click(pool, downloads.download_result, id=str), session, outbox, **NOW)
    grid.grid(bind_click(pool, downloads.download_grid), session, outbox, **NOW)
    grid.cells(bind_click(pool, downloads.download_cells), session, outbox, **NOW)
    picture = bind(pool, download_picture, strength=float, whole=lambda on: on == "1")
    compare.picture(picture, session, outbox, **NOW)
    paint = bind(pool, paint_mask, strength=float, mask=str)
    painted = compare.paint(paint, session, parts["strip"], **EVERY, **NOW)
    shown = painted.then(bind(pool, show_grid), session, grid, **NOW)
    shown.then(bind(pool, measure_strengths), session, parts["strip"], **NOW)
    compare.sweep(bind(pool, download_sweep), session, outbox, **NOW)


def open_view(studio: Studio, session: Session, target_id: str, source_id: str) -> Any:
    """The large before and after of one cell, at once; `measure_strengths` follows."""
    session.view.looking = (target_id, source_id)
    found = looked_at(session)
    if found is None:
        return SKIP
    target, source = found
    photograph = session.in_photograph(source)
    return render(
        "compare.html",
        source=source,
        target=target,
        photograph=photograph,
        before=data_url(before(session, source), LARGE_SIDE if photograph else None),
        after=data_url(row_pictures(studio, session, target, [source], LARGE_SIDE)[0]),
        strength=f"{target.strength:g}",
        limits=Markup(LIMITS),
        mask_side=MASK_SIDE,
        mask=brush_mask(studio, target, source),
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


def brush_mask(studio: Studio, target: TargetItem, item: SourceItem) -> str:
    """Where the change counts now, as what the brush begins with; empty: everywhere."""
    mask = mask_of(studio, target, item) if item.source.has_photograph else None
    if mask is None:
        return ""
    pixels = (255 * mask[0]).round().byte().numpy()
    return data_url(Image.fromarray(pixels).convert("RGB"))


def paint_mask(studio: Studio, session: Session, strength: float, mask: str) -> Any:
    """The brush painted where the change counts on this photograph, white on black, as a data URL;
    an empty one wipes it all off. The picture at this strength at once; the grid and
    `measure_strengths` follow.
    """
    found = looked_at(session)
    if found is None or not session.in_photograph(found[1]) or found[0].pictures is not None:
        return SKIP
    target, item = found
    target.painted.pop(item.id, None)
    if mask:
        with errors_told():
            picture = load_image(read_base64(mask, "The mask"), MASK_SIDE * MASK_SIDE)
            target.painted[item.id] = picture.convert("L")
    strength = nearest_strength(strength)
    picture = at_strengths(studio, session, target, item, [strength], LARGE_SIDE)[0]
    return strip_html((0.0, 1.0), [picture] * 2, [(math.nan, None)] * 2)


def measure_strengths(studio: Studio, session: Session) -> Any:
    """The large view's source at several strengths, with figures for each: the page runs through
    them without the server. Where there is no strength, its one picture.
    """
    found = looked_at(session)
    if found is None:
        return SKIP
    target, item = found
    if target.pictures is None:
        pictures = at_strengths(studio, session, target, item, STRENGTHS, LARGE_SIDE)
        figures = figures_of(studio, session, target, [item] * len(STRENGTHS), pictures)
        return strip_html(STRENGTHS, pictures, figures)
    pictures = row_pictures(studio, session, target, [item], LARGE_SIDE)
    figures = figures_of(studio, session, target, [item], pictures)
    return strip_html((0.0, 1.0), pictures * 2, figures * 2)


def at_strengths(
    studio: Studio,
    session: Session,
    target: TargetItem,
    item: SourceItem,
    strengths: Sequence[float],
    size: int | None,
) -> list[Image.Image]:
    """One source at several strengths."""
    rows = edited(studio, session, [target] * len(strengths), [item], strengths, size)
    return [row[0] for row in rows]


def strip_html(
    strengths: Sequence[float], pictures: Sequence[Image.Image], figures: Sequence[Figures]
) -> str:
    """Strengths, pictures, and what to read at each, as data for the page's script."""
    strip = {
        "strengths": list(strengths),
        "frames": [data_url(picture) for picture in pictures],
        "identity": [None if math.isnan(a) else round(a, 3) for a, _ in figures],
        "likeness": [b if b is None else round(b, 3) for _, b in figures],
    }
    return data_element("strip", strip)


def download_picture(studio: Studio, session: Session, strength: float, whole: bool) -> Any:
    """The picture of the large view, at the strength chosen there and its own resolution; `whole`:
    pasted back into the photograph that it was cut from.
    """
    found = looked_at(session)
    if found is None:
        return SKIP
    target, item = found
    strength = nearest_strength(strength)
    if target.pictures is None:
        picture = at_strengths(studio, session, target, item, [strength], None)[0]
    else:
        picture, whole = row_pictures(studio, session, target, [item], None)[0], False
    if whole and item.photo is not None and session.in_photograph(item):
        photograph = item.photo.picture().convert("RGB")
        picture = paste(photograph, item.square, item.source.crop, picture)
    photograph = session.in_photograph(item) and target.pictures is None
    xmp = xmp_packet([target.name], [strength], photograph)
    parent = item.photo.data if photograph and item.photo else None
    with errors_told():
        return downloads.picture_link(f"{item.name} {target.name}", picture, xmp, parent)
    return SKIP


def download_sweep(studio: Studio, session: Session) -> Any:
    """The large view's source through all strengths, as an animation."""
    found = looked_at(session)
    if found is None or found[0].pictures is not None:
        return SKIP
    target, item = found
    name = downloads.file_name(f"{item.name} {target.name}")
    frames = at_strengths(studio, session, target, item, SWEEP, LARGE_SIDE)
    xmp = xmp_packet([target.name], [STRONGEST], session.in_photograph(item))
    return download_link(f"{name}.webp", picture_animation(frames, xmp=xmp), "image/webp")
