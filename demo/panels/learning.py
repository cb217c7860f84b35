"""Learning, live: the stream of previews, stop and continue, and the place among those who wait."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from typing import Any

import gradio as gr
import numpy as np
from PIL import Image

from essence import Essence, Source, Step, Studio, UserError

from ..blending import embedded_target
from ..events import LEARN, NOW, Components, Page
from ..messages import SKIP, errors_told, plural
from ..presets import DEFAULT, LABELS, PATIENT, options_of, presets
from ..rendering import note, render
from ..session import Session, TargetItem
from ..settings import limits
from ..waiting_list import WaitingList
from .components import UNRESTORED, heading, html
from .items import show

FRAME_SECONDS = 0.05  # between two frames of a stream, at least
LOOK_AGAIN = 2  # seconds between two looks at the place among those who wait
NEW, CONTINUE, AGAIN = "new targets", "continue all", "all from the start"
MODES = (NEW, CONTINUE, AGAIN)
SLIDERS = {  # label, step, what it does
    "steps": ("Steps", 1, "More go further."),
    "consistency": ("Consistency", 0.05, "λ: all change alike."),
    "identity": ("Likeness", 0.05, "λ: people stay who they are."),
    "starts": ("Starts", 1, "Several, then choose."),
}
CHOICES = 3  # of several starts' answers that are shown
CURVES = ("total", "transfer", "consistency")
CHART_SIZE = (320, 120)  # width, height
BARE = {"show_label": False, "container": False}  # the label is for screen readers

Frame = tuple[Any, ...]  # (progress, *what `items.show` gives)


# ---- components and events


def build() -> Components:
    choices = [(LABELS.get(name, name), name) for name in presets()]
    bounds = {
        name: {"minimum": low, "maximum": high, "value": default, **UNRESTORED}
        for name, (low, high, default) in limits().items()
    }
    parts: Components = {}
    with gr.Column(elem_classes=["es-card"]):
        heading(3, "Learn", "one direction that makes every source more like the target")
        with gr.Row(elem_classes=["es-learn"]):
            parts["learn"] = gr.Button(
                "Learn the essence", variant="primary", elem_id="learn", scale=2
            )
            parts["stop"] = gr.Button(
                "Stop", variant="stop", elem_id="stop", visible=False, scale=2
            )
            parts["preset"] = gr.Radio(
                choices,
                value=DEFAULT,
                label="How long to learn",
                elem_id="preset",
                scale=4,
                **BARE,
                **UNRESTORED,
            )
        parts["mode"] = gr.Radio(
            MODES, value=NEW, label="What to learn", elem_id="mode", visible=False, **BARE
        )
        parts["progress"] = html(elem_id="progress")
        with gr.Accordion("Settings", open=False, elem_id="settings"):
            with gr.Row(elem_classes=["es-settings"]):
                for name, (label, step, info) in SLIDERS.items():
                    parts[name] = gr.Slider(
                        **bounds[name], step=step, label=label, elem_id=name, info=info
                    )
                parts["seed"] = gr.Number(
                    bounds["seed"]["value"],
                    precision=0,
                    minimum=0,
                    label="Seed",
                    elem_id="seed",
                    info="Same seed, same essence.",
                    **UNRESTORED,
                )
            with gr.Row(elem_classes=["es-buttons"]):
                label = "Copy a link to these settings"
                parts["link"] = gr.Button(label, size="sm", elem_id="link")
        parts["timer"] = gr.Timer(LOOK_AGAIN, active=False)
    return parts


def connect(page: Page, parts: Components, waiting: WaitingList) -> None:
    pool = page.pool

    def idle(state: Session) -> Frame:
        # Then there is more than one way to go on.
        learned = any(item.learnable and item.learned for item in state.items.targets.values())
        visible = (gr.update(visible=True), gr.update(visible=False))
        return *visible, gr.update(active=False), gr.update(visible=learned)

    def busy(state: Session, request: gr.Request) -> Frame:
        waiting.join(request.session_hash, state)
        visible = (gr.update(visible=False), gr.update(visible=True))
        return *visible, gr.update(active=True), SKIP, place(request)

    def place(request: gr.Request) -> Any:
        ahead = waiting.ahead(request.session_hash)
        return SKIP if ahead is None else place_note(ahead)

    def run(state: Session, request: gr.Request, *values: Any) -> Iterator[Frame]:
        # From now on the stream says more, to its last word.
        waiting.begin(request.session_hash)
        try:
            yield from learn(pool.of(state.run.model), state, *values)
        finally:
            waiting.end(request.session_hash)

    def stop(state: Session, request: gr.Request) -> Frame:
        waiting.leave(request.session_hash)
        return after_stop(pool.of(state.run.model), state)

    session = page.session
    controls = [parts[name] for name in ("learn", "stop", "timer", "mode")]
    names = ("mode", "preset", "steps", "seed", "consistency", "identity", "starts")
    values = [parts[name] for name in names]
    outputs = [parts["progress"], *page.view]
    started = parts["learn"].click(busy, session, [*controls, parts["progress"]], **NOW)
    running = started.then(run, [session, *values], outputs, **LEARN)
    running.then(idle, session, controls, **NOW)
    parts["timer"].tick(place, None, parts["progress"], **NOW)
    stopped = parts["stop"].click(stop, session, outputs, cancels=[running], **NOW)
    stopped.then(idle, session, controls, **NOW)


# ---- handlers


def learn(
    studio: Studio,
    session: Session,
    mode: str,
    preset: str,
    *settings: float | None,
) -> Iterator[Frame]:
    """Learn the targets' essences one after the other, from the answer that they had at once where
    the preset leaves the start to us; `settings` as `options_of` takes them. The best essence is in
    the session at each yield, so that closing this generator (Stop) loses nothing.
    """
    with errors_told():
        options = options_of(preset, *settings)
        queue = to_learn(session, mode)
        started, mark = time.monotonic(), object()
        session.run.learning = mark
        for number, target in enumerate(queue, 1):
            title = f"Learning {target.name}"
            if len(queue) > 1:
                title += f" ({number} of {len(queue)})"
            start = target.instant if preset in PATIENT else None
            if mode == CONTINUE:
                start = target.essence
            yield from learn_one(studio, session, target, start, options, title)
            if session.run.learning is not mark:
                # Gradio sends the last frame of a stream once more when it ends: after the words
                # about the stop, which it would replace.
                yield SKIP, SKIP, SKIP, SKIP
                return
            yield SKIP, *show(studio, session)
        session.run.learning = None
        seconds = time.monotonic() - started
        learned = f"Learned {plural(len(queue), 'essence')} in {seconds:.0f} s."
        yield note(f"{learned} {gain_text(queue)}".strip()), *show(studio, session)
        return
    session.run.learning = None
    yield "", SKIP, SKIP, SKIP


def learn_one(
    studio: Studio,
    session: Session,
    target: TargetItem,
    start: Essence | None,
    options: Any,
    title: str,
) -> Iterator[Frame]:
    """Learn one target's essence, with a picture of how it goes at each frame."""
    sources, picture = [item.source for item in session.items.ready()], target.picture
    embedded, mark = embedded_target(studio, target), session.run.learning
    history: list[dict[str, float]] = []
    previews: Sequence[np.ndarray] = ()
    began, shown = time.monotonic(), 0.0
    with closing(studio.extract(embedded, sources, options, start)) as steps:
        for step in steps:
            # Stopped while this step was made, and the page shows the one before.
            if session.run.learning is not mark:
                return
            # Another face or crop was chosen: this essence is nobody's.
            if target.picture is not picture:
                return
            target.take(step.result, sources)
            history.append(dict(step.losses))
            target.gain = gain_of(history[0], step)
            previews = previews if step.preview is None else step.preview
            now = time.monotonic()
            if now - shown >= FRAME_SECONDS or step.index == step.total:
                shown = now
                left = seconds_left(step, now - began)
                progress = progress_html(target, title, step, left, previews, history)
                yield progress, SKIP, SKIP, SKIP
    if step.choices:
        target.choices = shown_choices(studio, sources[0], step.choices[:CHOICES])


def shown_choices(
    studio: Studio, source: Source, choices: Sequence[Essence]
) -> tuple[tuple[Essence, Image.Image], ...]:
    """What came of several starts, each with what it does to a source."""
    cells = studio.blend([source], choices, [1.0] * len(choices))[:, 0]
    return tuple(zip(choices, map(Image.fromarray, cells), strict=True))


def seconds_left(step: Step, elapsed: float) -> int | None:
    """Nothing for the first two steps: they say little about the others."""
    if step.index < 3:
        return None
    return max(round(elapsed / step.index * (step.total - step.index)), 0)


def gain_of(first: Mapping[str, float], step: Step) -> tuple[float, float] | None:
    """Mean cosine to the target where learning began, and of the best so far; None where the
    method does not say.
    """
    if not isinstance(step.result, Essence):
        return None
    best = step.result.provenance.get("losses", {})
    if "transfer" not in first or "transfer" not in best:
        return None
    return 1 - first["transfer"], 1 - best["transfer"]


def gain_text(targets: Sequence[TargetItem]) -> str:
    gains = [target.gain for target in targets if target.gain is not None]
    if not gains:
        return ""
    before, after = np.mean(gains, axis=0)
    return f"Likeness to {plural(len(gains), 'target')}: {before:.2f} → {after:.2f}."


def to_learn(session: Session, mode: str) -> list[TargetItem]:
    """Targets to learn. Raises UserError where there is none, or no source to learn on."""
    if not session.items.ready():
        raise UserError("Add at least one source first: an essence is learned on faces.")
    known = [item for item in session.items.targets.values() if item.learnable]
    wanted = [item for item in known if not item.learned] if mode == NEW else known
    if not known:
        raise UserError("Add a target first: the picture whose essence you want, or words.")
    if not wanted:
        raise UserError(
            f"Every target has its essence. To learn further, choose '{CONTINUE}' or '{AGAIN}'."
        )
    return wanted


def after_stop(studio: Studio, session: Session) -> Frame:
    """After Stop: the best essence so far is the target's, and stays so."""
    session.run.learning = None
    text = "Nothing was learned yet."
    if any(item.learnable and item.learned for item in session.items.targets.values()):
        text = f"The best essence so far is kept; '{CONTINUE}' goes on from it."
    return note(f"Stopped. {text}"), *show(studio, session)


# ---- HTML


def place_note(ahead: int) -> str:
    """What a waiting visitor reads."""
    if ahead == 0:
        return note("Starting.")
    return note(
        f"Waiting: {plural(ahead, 'visitor')} before you. Meanwhile you can add pictures and blend."
    )


def progress_html(
    target: TargetItem,
    title: str,
    step: Step,
    left: int | None,
    previews: Sequence[np.ndarray],
    history: Sequence[dict[str, float]],
) -> str:
    """How a learning goes: `left` seconds, the sources' pictures, and the losses as curves on a
    common scale from zero (the first steps may leave it at the top).
    """
    width, height = CHART_SIZE
    curves = []
    if history:
        losses = np.array([[each.get(name, 0.0) for name in CURVES] for each in history])
        x = np.linspace(0, width, len(losses)) if len(losses) > 1 else np.array([0.0])
        y = height - 4 - (height - 8) * losses / max(losses.max(), 1e-6)
        for i, name in enumerate(CURVES):
            points = " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(x, y[:, i], strict=True))
            curves.append({"name": name, "points": points, "last": losses[-1, i]})
    return render(
        "learning.html",
        target=target,
        title=title,
        step=step,
        left=left,
        previews=previews,
        curves=curves,
        width=width,
        height=height,
    )
