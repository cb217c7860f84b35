"""The crop editor: a photograph with the square of the face on it, which can be zoomed, shifted and
turned.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import isfinite
from typing import Any

import gradio as gr

from essence import Nudge, Studio

from ..events import ADD, EVERY, NOW, Components, Page, bind
from ..messages import SKIP
from ..rendering import render
from ..session import Session, TargetItem
from .components import html
from .items import Shown, show
from .sources import invert_stale

EDITOR_SIDE = 640  # pixels, longest side, of the photograph in the editor
# name: (lowest, highest, step, what it is called)
CONTROLS = {
    "zoom": (0.5, 2.0, 0.02, "Zoom"),
    "right": (-0.5, 0.5, 0.01, "Left, right"),
    "down": (-0.5, 0.5, 0.01, "Up, down"),
    "turn": (-180.0, 180.0, 1.0, "Turn"),
}


def build() -> gr.HTML:
    return html(js="essence.crop(element, trigger, watch, 'nudge')", elem_id="crop")


def connect(page: Page, editor: gr.HTML, sources: Components, targets: Components) -> None:
    pool, session, view = page.pool, page.session, page.view

    def nudge(state: Session, event: gr.EventData) -> Shown:
        values = {name: getattr(event, name, None) for name in CONTROLS}
        return nudge_crop(pool.of(state.run.model), state, str(event.id), values)

    for parts in (sources, targets):
        parts["cards"].crop(bind(pool, edit_crop, id=str), session, editor, **NOW)
    nudged = editor.nudge(nudge, session, view, **EVERY, **NOW)
    nudged.then(bind(pool, invert_stale), [session, sources["refine"]], view, **EVERY, **ADD)


def edit_crop(studio: Studio, session: Session, id: str) -> Any:
    """The photograph with the square of the face on it. The page's script moves the square while a
    slider moves; the server crops when it rests.
    """
    item = session.items.find(id)
    if item is None or item.photo is None:
        return SKIP
    photo = item.photo.picture()
    factor = min(1.0, EDITOR_SIDE / max(photo.size))
    small = photo.convert("RGB").resize(tuple(max(1, round(factor * side)) for side in photo.size))
    squares = [square.scaled(factor) for square in item.photo.squares]
    chosen, others = squares[item.chosen], []
    for square in squares:
        if square is not chosen:
            others.append(" ".join(f"{x:.1f},{y:.1f}" for x, y in square.corners()))
    controls = []
    for name, (low, high, step, label) in CONTROLS.items():
        numbers = {"low": low, "high": high, "step": step, "value": getattr(item.nudge, name)}
        numbers["rest"] = getattr(Nudge(), name)
        texts = {key: f"{value:g}" for key, value in numbers.items()}
        controls.append({"name": name, "label": label, **texts})
    return render(
        "crop.html",
        item=item,
        photo=small,
        others=others,
        centre=chosen.centre,
        across=chosen.across,
        turn=chosen.turn,
        controls=controls,
    )


def nudge_crop(studio: Studio, session: Session, id: str, values: Mapping[str, object]) -> Shown:
    """Correct the crop; `invert_stale` then inverts it. A target has to be learned again."""
    item = session.items.find(id)
    if item is None or item.photo is None:
        return SKIP, SKIP, SKIP
    wanted = checked_nudge(values)
    if wanted != item.nudge:
        item.nudge, item.nudged = wanted, None
        if wanted != Nudge():
            square = item.photo.squares[item.chosen].nudged(wanted)
            item.nudged = studio.cut(item.photo.picture(), square, item.largest)
        if isinstance(item, TargetItem):
            item.take(None)
    return show(studio, session)


def checked_nudge(values: Mapping[str, object]) -> Nudge:
    """Numbers come from the browser: what is no number is left alone, others than the sliders' are
    pulled in.
    """
    clean = {}
    for name, (low, high, _, _) in CONTROLS.items():
        value = values.get(name)
        if isinstance(value, (int, float)) and isfinite(value):
            clean[name] = min(max(float(value), low), high)
    return Nudge(**clean)
