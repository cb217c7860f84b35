"""Which handler each part of the page calls, and in which line it waits."""

from __future__ import annotations

from collections.abc import Callable
from inspect import isgeneratorfunction

import gradio as gr
from PIL import Image

from essence import StudioPool, UserError

from . import blending, choosing, keeping, learning, settings, shelves
from .line import Line
from .messages import SKIP, inform
from .session import Session, Visitors

# Long work has a line of its own, so that a visitor who learns does not keep another from adding a
# picture: the studio lets them take turns after each step.
LEARN = {"concurrency_id": "gpu", "concurrency_limit": 1}
ADD = {"concurrency_id": "faces", "concurrency_limit": 1}
STRIPS = {"concurrency_id": "strips", "concurrency_limit": 1}
QUIET = {"show_progress": "hidden", "api_visibility": "private"}
NOW = {"queue": False, **QUIET}
EACH = {"trigger_mode": "multiple"}

Parts = dict[str, gr.components.Component]


def own(studios: StudioPool, handler: Callable, *more: object) -> Callable:
    """A handler of (studio, session, values) as one of (session, values): with the models that the
    session works with.
    """

    def plain(state: Session, *values: object):
        return handler(studios.of(state.model), state, *values, *more)

    def stream(state: Session, *values: object):
        yield from handler(studios.of(state.model), state, *values, *more)

    run = stream if isgeneratorfunction(handler) else plain
    run.__name__ = (
        handler.__name__
    )  # not functools.wraps: Gradio would count the handler's arguments, the studio among them
    return run


def redrawing(studios: StudioPool, visitors: Visitors) -> Callable:
    """What a slider calls while it is dragged, past Gradio's events: these take longer than a small
    picture, in the page and here.
    """

    def redraw(values: object) -> list | None:
        asked = values if isinstance(values, dict) else {}
        session, strengths = visitors.find(asked.get("visitor")), asked.get("strengths")
        if session is None or not isinstance(strengths, dict):
            return None
        try:
            return blending.redraw(studios.of(session.model), session, strengths)
        except UserError:
            return None  # the event that the page sends then says it to the visitor

    return redraw


def wire_page(page: gr.Blocks, session: gr.State, line: Line, visitors: Visitors) -> None:
    def gone(request: gr.Request):
        line.gone(request.session_hash)

    # The state is set once, so that it is dropped after the tab is closed.
    page.load(visitors.welcome, session, session, **NOW)
    page.unload(gone)


def wire_models(
    studios: StudioPool,
    page: gr.Blocks,
    session: gr.State,
    view: list,
    parts: Parts,
    refine: gr.Slider,
) -> None:
    def use(state: Session, event: gr.EventData, steps: float):
        yield from choosing.switch(studios, state, str(event.id), int(steps))

    def watch(state: Session):
        yield from choosing.watch(studios, state)

    models = parts["models"]
    page.load(lambda state: choosing.arrival(studios, state), session, models, **NOW)
    models.wait(watch, session, models, concurrency_limit=None, **QUIET)
    # In the line of those who add pictures: no inversion by the old models can be under way.
    models.use(
        use, [session, refine], [models, parts["faces"], parts["essences"], *view], **ADD, **QUIET
    )


def wire_pictures(
    kind: str, add: Callable, session: gr.State, view: list, parts: Parts, inputs: list[str]
) -> None:
    """Files, the camera and the examples all go the same way."""

    def picked(state: Session, event: gr.EventData, *values: object):
        yield from add(state, shelves.example(kind, str(event.id)), *values)

    def taken(state: Session, image: Image.Image | None, *values: object):
        yield from add(state, [image] if image is not None else [], *values)

    def emptied(fill: Callable) -> Callable:
        """Empties the control at the first frame, so that the next picture can come while this one
        is worked on.
        """

        def run(state: Session, *values: object):
            for number, frame in enumerate(fill(state, *values)):
                yield SKIP if number else None, *frame

        return run

    values = [parts[name] for name in inputs]
    options = {**EACH, **ADD, **QUIET}
    upload, camera = parts["upload"], parts["camera"]
    upload.upload(emptied(add), [session, upload, *values], [upload, *view], **options)
    camera.input(emptied(taken), [session, camera, *values], [camera, *view], **options)
    parts["examples"].pick(picked, [session, *values], view, **options)


def wire_shelf(studios: StudioPool, kind: str, session: gr.State, view: list, parts: Parts) -> None:
    """Order and names."""

    def removed(state: Session, event: gr.EventData):
        return shelves.remove(studios.of(state.model), state, str(event.id))

    def moved(state: Session, event: gr.EventData):
        return shelves.move(studios.of(state.model), state, str(event.id), int(event.by))

    def renamed(state: Session, event: gr.EventData):
        return shelves.rename(studios.of(state.model), state, str(event.id), str(event.name))

    shelf = parts["shelf"]
    shelf.remove(removed, session, view, **NOW)
    shelf.move(moved, session, view, **NOW)
    shelf.rename(renamed, session, view, **NOW)
    shelf.undo(own(studios, shelves.undo), session, view, **NOW)
    parts["clear"].click(own(studios, shelves.clear, kind), session, view, **NOW)


def wire_sources(studios: StudioPool, session: gr.State, view: list, parts: Parts) -> None:
    def face(state: Session, event: gr.EventData, steps: float):
        yield from shelves.choose_source_face(
            studios.of(state.model), state, str(event.id), int(event.index), int(steps)
        )

    wire_pictures(
        "sources", own(studios, shelves.add_sources), session, view, parts, ["aligned", "refine"]
    )
    wire_shelf(studios, "sources", session, view, parts)
    parts["random"].click(own(studios, shelves.random_face), session, view, **EACH, **ADD, **QUIET)
    parts["shelf"].face(face, [session, parts["refine"]], view, **ADD, **QUIET)


def wire_targets(studios: StudioPool, session: gr.State, view: list, parts: Parts) -> None:
    def face(state: Session, event: gr.EventData):
        return shelves.choose_target_face(
            studios.of(state.model), state, str(event.id), int(event.index)
        )

    def ready(state: Session, event: gr.EventData):
        yield from shelves.add_targets(
            studios.of(state.model), state, shelves.example("essences", str(event.id)), False
        )

    wire_pictures("targets", own(studios, shelves.add_targets), session, view, parts, ["aligned"])
    wire_shelf(studios, "targets", session, view, parts)
    parts["ready"].pick(ready, session, view, **EACH, **ADD, **QUIET)
    parts["shelf"].face(face, session, view, **NOW)


def wire_crop(
    studios: StudioPool,
    session: gr.State,
    view: list,
    editor: gr.HTML,
    sources: Parts,
    targets: Parts,
) -> None:
    def edit(state: Session, event: gr.EventData):
        return shelves.edit_crop(state, str(event.id))

    def nudged(state: Session, event: gr.EventData):
        values = {name: getattr(event, name, None) for name in ("zoom", "right", "down", "turn")}
        return shelves.nudge(studios.of(state.model), state, str(event.id), values)

    for parts in (sources, targets):
        parts["shelf"].crop(edit, session, editor, **NOW)
    invert = own(studios, shelves.invert_stale)
    nudging = editor.nudge(nudged, session, view, **EACH, **NOW)
    nudging.then(invert, [session, sources["refine"]], view, **EACH, **ADD, **QUIET)


def wire_learning(
    studios: StudioPool, session: gr.State, line: Line, view: list, parts: Parts
) -> None:
    def idle(state: Session):
        learned = any(
            item.faces and item.essence for item in state.targets.values()
        )  # then there is more than one way to go on
        return (
            gr.update(visible=True),
            gr.update(visible=False),
            gr.update(active=False),
            gr.update(visible=learned),
        )

    def busy(state: Session, request: gr.Request):
        line.join(request.session_hash, state)
        return (
            gr.update(visible=False),
            gr.update(visible=True),
            gr.update(active=True),
            SKIP,
            place(request),
        )

    def place(request: gr.Request):
        ahead = line.ahead(request.session_hash)
        return SKIP if ahead is None else learning.place(ahead)

    def learn(
        state: Session,
        mode: str,
        preset: str,
        steps: float,
        seed: float | None,
        consistency: float,
        request: gr.Request,
    ):
        line.begin(request.session_hash)  # from now on the stream says more, to its last word
        try:
            yield from learning.learn(
                studios.of(state.model), state, mode, preset, steps, seed, consistency
            )
        finally:
            line.end(request.session_hash)

    def stop(state: Session, request: gr.Request):
        line.leave(request.session_hash)
        return learning.stopped(studios.of(state.model), state)

    controls = [parts[name] for name in ("learn", "stop", "timer", "mode")]
    inputs = [
        session,
        *(parts[name] for name in ("mode", "preset", "steps", "seed", "consistency")),
    ]
    outputs = [parts["progress"], *view]
    started = parts["learn"].click(busy, session, [*controls, parts["progress"]], **NOW)
    run = started.then(learn, inputs, outputs, **LEARN, **QUIET)
    run.then(idle, session, controls, **NOW)
    parts["timer"].tick(place, None, parts["progress"], **NOW)
    parts["stop"].click(stop, session, outputs, cancels=[run], **NOW).then(
        idle, session, controls, **NOW
    )


def wire_grid(studios: StudioPool, session: gr.State, parts: Parts) -> None:
    def moved(state: Session, event: gr.EventData):
        return blending.set_strengths(
            studios.of(state.model), state, dict(event.strengths), bool(event.drawn)
        )

    def strips(state: Session, event: gr.EventData):
        return blending.strips(studios.of(state.model), state, set(map(str, event.lacking)))

    def band(state: Session, event: gr.EventData):
        return blending.switch_band(studios.of(state.model), state, str(event.id), str(event.band))

    def mixing(state: Session, event: gr.EventData):
        return blending.switch_mixing(studios.of(state.model), state, str(event.mixing) == "1")

    def look(state: Session, event: gr.EventData):
        return blending.look(studios.of(state.model), state, str(event.id), str(event.source))

    def save(state: Session, event: gr.EventData):
        return keeping.download_essence(state, str(event.id))

    def save_picture(state: Session, event: gr.EventData):
        return keeping.download_picture(studios.of(state.model), state, float(event.strength))

    board, compare, outbox = parts["board"], parts["compare"], parts["outbox"]
    board.strength(moved, session, board, **EACH, **NOW)
    board.strips(strips, session, parts["strips"], **EACH, **STRIPS, **QUIET)
    board.band(band, session, board, **EACH, **NOW)
    board.mixing(mixing, session, board, **NOW)
    board.figures(own(studios, blending.switch_measuring), session, board, **NOW)
    board.rest(own(studios, blending.measure), session, board, trigger_mode="always_last", **NOW)
    board.look(look, session, compare, **NOW).then(
        own(studios, blending.details), session, parts["strip"], **NOW
    )
    board.save(save, session, outbox, **NOW)
    board.grid(own(studios, keeping.download_grid), session, outbox, **NOW)
    board.cells(own(studios, keeping.download_cells), session, outbox, **NOW)
    compare.picture(save_picture, session, outbox, **NOW)
    compare.sweep(own(studios, keeping.download_sweep), session, outbox, **NOW)


def wire_settings(page: gr.Blocks, browser: gr.BrowserState, parts: Parts) -> None:
    controls = [parts[name] for name in settings.NAMES]
    remember = {"fn": settings.remember, "inputs": controls, "outputs": browser, **NOW}
    page.load(settings.restore, browser, controls, **NOW)
    preset, *others = controls
    preset.input(
        learning.preset_values, preset, [parts["steps"], parts["consistency"]], **NOW
    ).then(**remember)
    gr.on([control.input for control in others], trigger_mode="always_last", **remember)
    parts["link"].click(told_link, None, None, **NOW)
    parts["link"].click(
        None,
        controls,
        None,
        js=f"(...values) => {{ essence.link({list(settings.NAMES)}, values); }}",
        **NOW,
    )


def told_link() -> None:
    inform("The address bar and the clipboard hold a link to these settings.")
