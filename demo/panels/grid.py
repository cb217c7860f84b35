"""The grid of blends and the mixture: strengths, layers, figures.

A slider's move is one request of the page, a dict with some of

    visitor    the page's word for its session
    strengths  by target's id, as the sliders stand
    mode       what they are sliders of: "grid" or "mix"
    pictures   false where the page shows them from its strips already
    figures    true once the sliders rest: cells that were drawn coarsely are drawn again, and
               figures made
    strips     names of the strips that the page lacks, where pictures are slow
    slow       what the page was told about that
    scales     true at rest, where a row's scale of identity was not measured yet

and one answer, see `update_grid`. Both travel by a server function of the HTML part where pictures
are fast, past Gradio's events, which take longer than a small picture; and by the event `ask`
where they are slow, where each call borrows a GPU, or where an error has to be told.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

import gradio as gr
from markupsafe import Markup

from essence import LOOKS, REGIONS, Studio, StudioPool, UserError

from .. import scales
from ..blending import STRIP_STRENGTHS, draw_cells, make_strips, measure_cells
from ..events import EVERY, NOW, QUIET, Components, Page, bind
from ..messages import SKIP, errors_told
from ..rendering import data_element, numbered, render
from ..session import (
    ALL_BANDS,
    MIX,
    STRONGEST,
    WEAKEST,
    Cell,
    Session,
    SourceItem,
    TargetItem,
    nearest_strength,
)
from ..visitors import Visitors
from .components import heading, html

LIMITS = f'min="{WEAKEST}" max="{STRONGEST}" step="{scales.STEP}"'
BUDGETS = {
    None: ("free", "Whatever the strength makes of a face"),
    0.6: ("recognisable", "No picture goes where people take its face for another"),
    0.45: ("same", "Every picture stays well on this side of that"),
    0.3: ("close", "Only what hardly changes who it is"),
}
# What the layers are called, and what they govern.
BANDS = {
    "coarse": ("structure", "pose, shape of the head, hair"),
    "middle": ("features", "eyes, nose, mouth, beard"),
    "fine": ("colour", "skin, hair and light"),
}
EXPLANATION = (
    "Identity is the distance between the face descriptors of a source before and after: 0 is no "
    "change, below 0.6 is usually taken for the same person. Likeness is CLIP's cosine to the "
    "target: higher is more alike. The line below a slider says what is kept of identity at each "
    "strength; its marks are where the first of the people is taken for somebody else."
)
GRID_JS = """essence.newest(element, watch, props);
essence.grid(element, trigger, watch, server, 'ask',
  ['look', 'save', 'grid', 'cells', 'band', 'part', 'mixing', 'figures', 'appearance', 'suiting',
  'budget']);
essence.together(element);"""
COMPARE_JS = """essence.compare(element, watch);
essence.clicks(element, trigger, ['picture', 'sweep', 'paint']);
essence.brush(element, trigger, 'paint');"""
ANSWER_JS = "essence.answers(element, watch)"


# ---- components and events


def build(pool: StudioPool, visitors: Visitors) -> Components:
    """The panel, with the large view and what carries data to the page's script."""
    server = [update_function(pool, visitors)]
    with gr.Column(elem_classes=["es-card"]):
        heading(4, "Blend", "drag the strengths; click a picture to look closely")
        grid = html(grid_html(Session()), GRID_JS, elem_id="board", server_functions=server)
        return {
            "grid": grid,
            "compare": html("", COMPARE_JS, elem_id="compare"),
            "strip": html("", "essence.strip(element, watch)", elem_id="strip"),
            "cells": html("", ANSWER_JS, elem_id="cells"),
            "strips": html("", ANSWER_JS, elem_id="strips"),
            "outbox": html("", "essence.outbox(element, watch)", elem_id="outbox"),
        }


def connect(page: Page, parts: Components) -> None:
    pool, session, grid = page.pool, page.session, parts["grid"]

    update, answers = bind(pool, queued_update, request=dict), [parts["cells"], parts["strips"]]
    grid.ask(update, session, answers, concurrency_limit=None, **EVERY, **QUIET)
    now = {**EVERY, **NOW}  # each click counts, however fast they follow each other
    grid.band(bind_click(pool, switch_band, id=str, band=str), session, grid, **now)
    grid.part(bind_click(pool, switch_part, id=str, part=str), session, grid, **now)
    grid.appearance(bind_click(pool, switch_look, look=str), session, grid, **now)
    grid.mixing(bind_click(pool, switch_mixing, mixing=lambda on: on == "1"), session, grid, **now)
    grid.figures(bind_click(pool, switch_figures), session, grid, **now)
    grid.suiting(bind_click(pool, switch_suiting), session, grid, **now)
    grid.budget(bind_click(pool, choose_budget, budget=str), session, grid, **now)


def bind_click(pool: StudioPool, handler: Callable, **fields: Callable) -> Callable:
    """`bind` for a click on the grid. It brings the strengths as the sliders stand: the request of
    a slider's last move may still wait for the one before.
    """

    def call(studio: Studio, session: Session, strengths: Mapping, mode: str, *values: Any) -> Any:
        take_strengths(session, strengths, mode)
        return handler(studio, session, *values)

    return bind(pool, call, strengths=dict, mode=str, **fields)


def update_function(pool: StudioPool, visitors: Visitors) -> Callable:
    """What the page's script calls as `server.update(request)`."""

    def update(request: object) -> dict[str, Any] | None:
        """None where the page has to take the event: then an error is told to the visitor."""
        if not isinstance(request, dict) or not isinstance(request.get("strengths"), dict):
            return None
        session = visitors.find(request.get("visitor"))
        if session is None:
            return None
        try:
            return update_grid(pool.of(session.run.model), session, request)
        except UserError:
            return None

    return update


def queued_update(studio: Studio, session: Session, request: Mapping[str, Any]) -> tuple[Any, Any]:
    """The same by Gradio's queue: what to put into the parts "cells" and "strips". Strips and
    scales have a part of their own, because they may be asked for and arrive while cells are.
    """
    apart = next((name for name in ("strips", "scales") if name in request), None)
    answer: dict[str, Any] = {"slow": session.run.slow, "cells": []}
    answer |= {apart: {}} if apart else {}
    with errors_told():
        answer = update_grid(studio, session, request)
    element = data_element("answer", answer)
    return (SKIP, element) if apart else (element, SKIP)


# ---- handlers


def update_grid(studio: Studio, session: Session, request: Mapping[str, Any]) -> dict[str, Any]:
    """What a slider's move changes, and nothing else:

        slow       whether pictures are slow
        cells      each {target, source, picture, coarse, figures, strip}; not where strips were
                   asked for
        strips     {name: pictures at `strengths`}, some of those that were asked for
        scales     {target: HTML}, if they were asked for: one that is more complete now, or none
        suited     {target: [strength, how often it was chosen]}, with scales

    Where the page does not know yet that pictures are slow, or fast, it gets all cells. Raises
    UserError.
    """
    if "strips" in request:
        strips = make_strips(studio, session, set(map(str, request["strips"])))
        return {
            "slow": session.run.slow,
            "strips": strips,
            "strengths": list(STRIP_STRENGTHS),
        }
    if "scales" in request:
        return update_scale(studio, session)
    take_strengths(session, request.get("strengths", {}), request.get("mode"))
    rests = bool(request.get("figures"))
    changed = draw_cells(studio, session, rests) if request.get("pictures", True) else []
    if rests and session.view.measuring:
        changed += measure_cells(studio, session)
    slow = session.run.slow
    if request.get("slow", slow) != slow:
        changed = [(row, item) for row in session.rows() for item in session.items.ready()]
    return {"slow": slow, "cells": cell_values(session, changed)}


def update_scale(studio: Studio, session: Session) -> dict[str, Any]:
    """One cell's scale measured, and what follows from it."""
    target, changed, suited = scales.measure_next(studio, session), [], {}
    if target is not None:
        if scales.suit(session, target):
            suited[target.id] = [target.strength, target.suited]
        changed = draw_cells(studio, session)  # where it chooses or holds strengths
    rows = {} if target is None else {target.id: scales.scale_html(session, target)}
    cells = cell_values(session, changed)
    return {"slow": session.run.slow, "scales": rows, "suited": suited, "cells": cells}


def cell_values(
    session: Session, changed: Iterable[tuple[TargetItem, SourceItem]]
) -> list[dict[str, str]]:
    """What the page's script needs to show these cells anew."""
    cells, slow = [], session.run.slow
    for target, item in dict.fromkeys(changed):
        cell = session.cell(target, item)
        if cell is not None:
            cells.append(
                {
                    "target": target.id,
                    "source": item.id,
                    "picture": cell.url,
                    "coarse": cell.coarse,
                    "figures": figures_html(cell) if session.view.measuring else "",
                    "strip": cell.strip if slow and target.essence and target.id != MIX else "",
                }
            )
    return cells


def take_strengths(session: Session, strengths: Mapping[str, object], mode: object = None) -> None:
    """Strength by target's id, as the sliders stand on the "grid" or on the "mix"; None: on what
    the session shows, which the page may not have got yet. Numbers come from the browser: others
    than the sliders' are pulled in.
    """
    mixing = session.view.mixing if mode is None else mode == "mix"
    name = "share" if mixing else "strength"
    for id, value in strengths.items():
        target = session.items.targets.get(id)
        if target is not None and isinstance(value, (int, float)) and value == value:
            strength = nearest_strength(float(value))
            target.by_hand |= name == "strength" and abs(strength - target.strength) > 1e-6
            setattr(target, name, strength)


def show_grid(studio: Studio, session: Session) -> str:
    """Draw what has changed, measure what lacks figures if the visitor wants figures at all, and
    show everything. (A drag only draws, to stay quick.)
    """
    session.view.people = studio.has_faces
    draw_cells(studio, session)
    if session.view.measuring:
        measure_cells(studio, session)
    return grid_html(session)


def switch_band(studio: Studio, session: Session, id: str, band: str) -> str:
    """Let an essence change some layers, or not."""
    target = session.items.targets.get(id)
    if target is not None and band in ALL_BANDS:
        target.bands = target.bands ^ {band}
    return show_grid(studio, session)


def switch_part(studio: Studio, session: Session, id: str, part: str) -> str:
    """Let an essence change this part of photographs, beside others chosen so, or not."""
    target = session.items.targets.get(id)
    if target is not None and part in REGIONS:
        target.where, target.painted = target.where ^ {part}, {}
    return show_grid(studio, session)


def switch_look(studio: Studio, session: Session, look: str) -> str:
    """Photographs in their own detail, or the model's pictures."""
    if look in LOOKS:
        session.view.look = look
    return show_grid(studio, session)


def switch_mixing(studio: Studio, session: Session, mixing: bool) -> str:
    session.view.mixing = mixing
    return show_grid(studio, session)


def switch_figures(studio: Studio, session: Session) -> str:
    session.view.measuring = not session.view.measuring
    return show_grid(studio, session)


def switch_suiting(studio: Studio, session: Session) -> str:
    """Strengths that suit the sources, or those that stand there."""
    session.view.suiting = not session.view.suiting
    if session.view.suiting:
        scales.suit_all(session)
    return show_grid(studio, session)


def choose_budget(studio: Studio, session: Session, budget: str) -> str:
    """What every cell may lose of identity, of `BUDGETS`."""
    wanted = {str(value): value for value in BUDGETS}
    session.view.budget = wanted.get(budget, session.view.budget)
    return show_grid(studio, session)


# ---- HTML


@numbered
def grid_html(session: Session) -> str:
    """The grid or the mixture as it was drawn last, or what is missing for one."""
    columns, rows = session.items.ready(), session.rows()
    missing = ["a source"] * (not columns) + ["a learned or loaded essence"] * (not rows)
    strengths = {row.strength for row in rows if row.essence is not None}
    return render(
        "grid.html",
        session=session,
        columns=columns,
        rows=rows,
        missing=" and ".join(missing),
        slow=session.run.slow,
        shared=strengths.pop() if len(strengths) == 1 else 1.0,
        limits=Markup(LIMITS),
        bands=BANDS,
        regions=REGIONS if any(map(session.in_photograph, columns)) else (),
        has_photographs=any(item.source.has_photograph for item in columns),
        explanation=Markup(EXPLANATION),
        figures_html=figures_html,
        scale_html=partial(scales.scale_html, session),
        scaled=scales.measures(session),
        budgets=BUDGETS,
    )


def figures_html(cell: Cell | None) -> str:
    """What is read below a cell; an ellipsis where it was not measured yet."""
    return render("figures.html", figures=None if cell is None else cell.figures)
