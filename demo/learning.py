"""Learning, live: presets in words, the stream of previews, stop and continue."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator
from contextlib import closing
from typing import Any

from essence import PRESETS, Essence, OptimizeOptions, Step, Studio, UserError, adjusted

from . import views
from .blending import view
from .messages import SKIP, plural, told
from .session import Session, TargetItem

FRAME_SECONDS = 0.05  # between two frames of a stream, at least
NEW, CONTINUE, AGAIN = "new targets", "continue all", "all from the start"
MODES = (NEW, CONTINUE, AGAIN)
DEFAULT = "balanced"
CHOICES: dict[str, OptimizeOptions] = {
    "quick": dataclasses.replace(PRESETS["essence"], steps=40),
    DEFAULT: PRESETS["essence"],
    "thorough": dataclasses.replace(PRESETS["essence"], steps=300),
    "paper": PRESETS["paper"],
    "released": PRESETS["released"],
}
WORDS = {"paper": "as in the paper", "released": "as released"}  # what the others are called


def preset_values(preset: str) -> tuple[int, float]:
    """Steps and lambda of a preset, for the controls."""
    options = CHOICES[preset]
    return options.steps, getattr(options, "lambda_consistency", 0.5)


def options_of(
    preset: str, steps: float, seed: float | None, consistency: float
) -> OptimizeOptions:
    """A preset with the visitor's changes; a picture after every step, because somebody is
    watching.
    """
    changes = {
        "steps": int(steps),
        "seed": int(seed or 0),
        "lambda_consistency": float(consistency),
        "preview_every": 1,
    }
    return adjusted(CHOICES[preset], **changes)


def learn(
    studio: Studio,
    session: Session,
    mode: str,
    preset: str,
    steps: float,
    seed: float | None,
    consistency: float,
) -> Iterator[tuple[Any, ...]]:
    """Learn the targets' essences in turn. Yields (progress, *view); the best essence is in the
    session at each yield, so that closing this generator (Stop) loses nothing."""
    with told():
        options, queue = options_of(preset, steps, seed, consistency), to_learn(session, mode)
        started, mark = time.monotonic(), object()
        session.learning = mark
        for number, target in enumerate(queue, 1):
            title = f"Learning {target.name}" + (
                f" ({number} of {len(queue)})" if len(queue) > 1 else ""
            )
            yield from learn_one(
                studio,
                session,
                target,
                target.essence if mode == CONTINUE else None,
                options,
                title,
            )
            if session.learning is not mark:
                return
            yield SKIP, *view(studio, session)
        session.learning = None
        yield (
            views.note(
                f"Learned {plural(len(queue), 'essence')} in {time.monotonic() - started:.0f} s."
            ),
            *view(studio, session),
        )
        return
    session.learning = None
    yield "", SKIP, SKIP, SKIP


def learn_one(
    studio: Studio,
    session: Session,
    target: TargetItem,
    start: Essence | None,
    options: OptimizeOptions,
    title: str,
) -> Iterator[tuple[Any, ...]]:
    sources, picture = [item.source for item in session.ready()], target.picture
    history, previews, began, shown, mark = [], (), time.monotonic(), 0.0, session.learning
    with closing(studio.extract(studio.embed_target(picture, target.name), sources, options, start)) as course:
        for step in course:
            if (
                session.learning is not mark
            ):  # stopped while this step was made, and the page shows the one before
                return
            if (
                target.picture is not picture
            ):  # another face or crop was chosen: this essence is nobody's
                return
            target.essence = step.result
            history.append(dict(step.losses))
            previews = previews if step.preview is None else step.preview
            if time.monotonic() - shown >= FRAME_SECONDS or step.index == step.total:
                shown = time.monotonic()
                left = seconds_left(step, shown - began)
                yield (
                    views.learning(target, title, step.index, step.total, left, previews, history),
                    SKIP,
                    SKIP,
                    SKIP,
                )


def seconds_left(step: Step, elapsed: float) -> float | None:
    """Nothing for the first two steps: they say little about the others."""
    return None if step.index < 3 else elapsed / step.index * (step.total - step.index)


def to_learn(session: Session, mode: str) -> list[TargetItem]:
    """Targets to learn. Raises UserError where there is none, or no source to learn on."""
    if not session.ready():
        raise UserError("Add at least one source first: an essence is learned on faces.")
    pictured = [item for item in session.targets.values() if item.faces]
    wanted = [item for item in pictured if item.essence is None] if mode == NEW else pictured
    if not pictured:
        raise UserError("Add a target first: the picture whose essence you want.")
    if not wanted:
        raise UserError(
            f"Every target has its essence. To learn further, choose '{CONTINUE}' or '{AGAIN}'."
        )
    return wanted


def stopped(studio: Studio, session: Session) -> tuple[Any, ...]:
    """After Stop: the best essence so far is the target's, and stays so."""
    session.learning = None
    kept = any(item.faces and item.essence for item in session.targets.values())
    text = (
        f"The best essence so far is kept; '{CONTINUE}' goes on from it."
        if kept
        else "Nothing was learned yet."
    )
    return views.note(f"Stopped. {text}"), *view(studio, session)


def place(ahead: int) -> str:
    """What a waiting visitor reads."""
    if ahead == 0:
        return views.note("Starting.")
    return views.note(
        f"Waiting: {plural(ahead, 'visitor')} before you. Meanwhile you can add pictures and blend."
    )
