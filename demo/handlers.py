"""What happens when somebody does something: the studio, the visitor's session and plain values in, HTML out.

Each runs without a server. Only here do a person's errors become messages of the page; the session stays usable.
"""

from __future__ import annotations

import dataclasses
import io
import random
import re
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr
from PIL import Image

from essence import PRESETS, Essence, OptimizeOptions, RefineOptions, Step, Studio, UserError, bundled, load_image

from . import views
from .session import MAX_ITEMS, Cell, Item, Session, SourceItem, TargetItem

MESSAGE_SECONDS = 12
FRAME_SECONDS = 0.05  # between two frames of a stream, at least
NEW, CONTINUE, AGAIN = "new targets", "continue all", "all from the start"
MODES = (NEW, CONTINUE, AGAIN)
SEEDS = 2**31
SKIP = gr.skip()

View = tuple[Any, Any, Any]  # HTML of the sources, the targets and the grid; or SKIP


# ---- messages

def tell(message: str, title: str = "Please note") -> None:
    gr.Warning(escape(message, quote=False), duration=MESSAGE_SECONDS, title=title)


@contextmanager
def told(name: str = "") -> Iterator[None]:
    """Turn a person's error into a message; whatever else was asked for goes on."""
    try:
        yield
    except UserError as error:
        message = str(error)
        tell(f"{name}: {message}" if name and name not in message else message, "That did not work")


# ---- the whole view

def view(studio: Studio, session: Session) -> View:
    draw_cells(studio, session)
    return views.sources(session), views.targets(session), views.board(session)


def draw_cells(studio: Studio, session: Session) -> None:
    """Render the cells whose source, essence or strength has changed: rows that lack the same sources together."""
    session.forget_cells()
    rows: dict[tuple[SourceItem, ...], list[TargetItem]] = {}
    for target in session.learned():
        if stale := session.stale(target):
            rows.setdefault(tuple(stale), []).append(target)
    for items, targets in rows.items():
        draw_rows(studio, session, items, targets)


def draw_rows(studio: Studio, session: Session, items: Sequence[SourceItem], targets: Sequence[TargetItem]) -> None:
    sources, essences = [item.source for item in items], [target.essence for target in targets]
    strengths = [target.strength for target in targets]
    for target, essence, strength, row in zip(targets, essences, strengths, studio.blend(sources, essences, strengths), strict=True):
        for item, source, pixels in zip(items, sources, row, strict=True):
            session.cells[target.id, item.id] = Cell(source, essence, strength, views.data_url(pixels, views.CELL_SIDE))


# ---- sources

def add_sources(studio: Studio, session: Session, files: Sequence[str | Path | Image.Image], aligned: bool, steps: int) -> Iterator[View]:
    """Crop and invert each picture in turn; the ones that cannot be read are told, the others kept."""
    for file in files or ():
        name = title_of(file)
        yield views.sources(session, pending=name), SKIP, SKIP
        with told(name):
            check_room(session.sources, "sources")
            faces = studio.faces(load_image(file), aligned)
            tell_faces(name, len(faces))
            item = SourceItem(name, tuple(faces))
            session.sources[item.id] = item
            yield from invert(studio, session, item, steps)
    yield view(studio, session)


def random_face(studio: Studio, session: Session) -> View:
    with told():
        check_room(session.sources, "sources")
        source = studio.random_source(random.randrange(SEEDS))
        item = SourceItem("random face", (source.crop,), source=source, progress=1.0)
        session.sources[item.id] = item
    return view(studio, session)


def invert(studio: Studio, session: Session, item: SourceItem, steps: int) -> Iterator[View]:
    """Find the latents of a source, showing how the model's picture of it comes closer."""
    item.source, item.progress = None, 0.0
    try:
        with closing(studio.invert(item.picture, item.name, RefineOptions(steps=int(steps)))) as course:
            for step in course:
                if item.id not in session.sources:  # removed meanwhile
                    return
                item.source, item.progress = step.result, step.fraction
                if step.preview is not None:
                    yield views.sources(session), SKIP, SKIP
    finally:
        if item.source is None:
            session.sources.pop(item.id, None)


def choose_source_face(studio: Studio, session: Session, id: str, index: int, steps: int) -> Iterator[View]:
    item = session.sources.get(id)
    if item is not None and 0 <= index < len(item.faces) and index != item.chosen:
        item.chosen = index
        with told(item.name):
            yield from invert(studio, session, item, steps)
    yield view(studio, session)


# ---- targets

def add_targets(studio: Studio, session: Session, files: Sequence[str | Path | Image.Image], aligned: bool) -> Iterator[View]:
    for file in files or ():
        name = title_of(file)
        yield SKIP, views.targets(session, pending=name), SKIP
        with told(name):
            check_room(session.targets, "targets")
            faces, found = studio.target_faces(load_image(file), aligned)
            if found or aligned:
                tell_faces(name, len(faces))
            else:
                gr.Info(f"{escape(name)}: no face found, so the picture is taken as it is. Drawings and paintings work too.")
            item = TargetItem(name, tuple(faces), found=found or aligned)
            session.targets[item.id] = item
    yield view(studio, session)


def choose_target_face(studio: Studio, session: Session, id: str, index: int) -> View:
    """Take another face of the picture; an essence of the first one would be somebody else's."""
    item = session.targets.get(id)
    if item is not None and 0 <= index < len(item.faces) and index != item.chosen:
        item.chosen, item.essence = index, None
    return view(studio, session)


def load_essences(studio: Studio, session: Session, files: Sequence[str | Path]) -> View:
    for file in files or ():
        with told(Path(file).name):
            check_room(session.targets, "targets")
            essence = studio.load_essence(file)
            item = TargetItem(essence.name, essence=essence, strength=nearest_strength(essence.strength))
            session.targets[item.id] = item
    return view(studio, session)


def nearest_strength(value: float) -> float:
    return min(max(value, views.WEAKEST), views.STRONGEST)


# ---- both

def example(kind: str, name: str) -> list[Path]:
    """The bundled file of that name, or none: names come from the browser."""
    return [path for path in bundled(kind) if path.name == name]


def remove(studio: Studio, session: Session, id: str) -> View:
    session.sources.pop(id, None)
    session.targets.pop(id, None)
    return view(studio, session)


def clear(studio: Studio, session: Session, kind: str) -> View:
    (session.sources if kind == "sources" else session.targets).clear()
    return view(studio, session)


def title_of(file: str | Path | Image.Image) -> str:
    return "camera" if isinstance(file, Image.Image) else Path(file).stem[:40] or "picture"


def check_room(items: dict[str, Any], what: str) -> None:
    if len(items) >= MAX_ITEMS:
        raise UserError(f"There is room for {MAX_ITEMS} {what}. Remove one first.")


def tell_faces(name: str, count: int) -> None:
    if count > 1:
        gr.Info(f"{escape(name)}: {count} faces found. The largest was taken; click another one to change.")


# ---- learning

def preset_values(preset: str) -> tuple[int, float]:
    """Steps and lambda of a preset, for the controls."""
    options = PRESETS[preset]
    return options.steps, options.lambda_consistency


def options_of(preset: str, steps: float, seed: float | None, consistency: float) -> OptimizeOptions:
    """A preset with the visitor's changes; a picture after every step, because somebody is watching."""
    changes = {"steps": int(steps), "seed": int(seed or 0), "lambda_consistency": float(consistency), "preview_every": 1}
    return dataclasses.replace(PRESETS[preset], **changes)


def learn(studio: Studio, session: Session, mode: str, preset: str, steps: float, seed: float | None, consistency: float
          ) -> Iterator[tuple[Any, ...]]:
    """Learn the targets' essences in turn. Yields (progress, *view); the best essence is in the session at each yield, so
    that closing this generator (Stop) loses nothing."""
    with told():
        options, queue = options_of(preset, steps, seed, consistency), to_learn(session, mode)
        started, mark = time.monotonic(), object()
        session.learning = mark
        for number, target in enumerate(queue, 1):
            title = f"Learning {target.name}" + (f" ({number} of {len(queue)})" if len(queue) > 1 else "")
            yield from learn_one(studio, session, target, target.essence if mode == CONTINUE else None, options, title)
            if session.learning is not mark:
                return
            yield SKIP, *view(studio, session)
        yield views.note(f"Learned {plural(len(queue), 'essence')} in {time.monotonic() - started:.0f} s."), *view(studio, session)
        return
    yield "", SKIP, SKIP, SKIP


def learn_one(studio: Studio, session: Session, target: TargetItem, start: Essence | None, options: OptimizeOptions, title: str
              ) -> Iterator[tuple[Any, ...]]:
    sources = [item.source for item in session.ready()]
    history, previews, began, shown, mark = [], (), time.monotonic(), 0.0, session.learning
    with closing(studio.extract(target.picture, sources, options, start, target.name)) as course:
        for step in course:
            if session.learning is not mark:  # stopped while this step was made, and the page shows the one before
                return
            target.essence = step.result
            history.append(dict(step.losses))
            previews = previews if step.preview is None else step.preview
            if time.monotonic() - shown >= FRAME_SECONDS or step.index == step.total:
                shown = time.monotonic()
                left = seconds_left(step, shown - began)
                yield views.learning(target, title, step.index, step.total, left, previews, history), SKIP, SKIP, SKIP


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
        raise UserError(f"Every target has its essence. To learn further, choose '{CONTINUE}' or '{AGAIN}'.")
    return wanted


def stopped(studio: Studio, session: Session) -> tuple[Any, ...]:
    """After Stop: the best essence so far is the target's, and stays so."""
    session.learning = None
    return views.note("Stopped. The best essence so far is kept."), *view(studio, session)


def plural(count: int, word: str) -> str:
    return f"{count} {word}" + "s" * (count != 1)


# ---- the grid

def set_strengths(studio: Studio, session: Session, strengths: dict[str, float]) -> str:
    """Strength by target's id, as the sliders stand. Numbers come from the browser: others than the sliders' are pulled in."""
    for id, value in strengths.items():
        if (target := session.targets.get(id)) is not None and isinstance(value, (int, float)) and value == value:
            target.strength = nearest_strength(float(value))
    draw_cells(studio, session)
    return views.board(session)


def look(studio: Studio, session: Session, target_id: str, source_id: str) -> Any:
    """The large before and after of one cell."""
    target, item = session.targets.get(target_id), session.sources.get(source_id)
    if target is None or item is None or target.essence is None or item.source is None:
        return SKIP
    edited = studio.blend([item.source], [target.essence], [target.strength])[0, 0]
    return views.compare(item, target, edited)


# ---- downloads

def download_grid(studio: Studio, session: Session) -> Any:
    sources, targets = session.ready(), session.learned()
    if not sources or not targets:
        tell("There is no grid yet: it takes a source and a learned or loaded essence.")
        return SKIP
    sheet = studio.grid([s.source for s in sources], [t.essence for t in targets], [t.strength for t in targets])
    buffer = io.BytesIO()
    sheet.save(buffer, "PNG")
    return views.download("essence-grid.png", buffer.getvalue(), "image/png")


def download_essence(session: Session, id: str) -> Any:
    """The essence as a file, with the slider's strength in it."""
    target = session.targets.get(id)
    if target is None or target.essence is None:
        return SKIP
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "essence.safetensors"
        dataclasses.replace(target.essence, name=target.name, strength=target.strength).save(path)
        data = path.read_bytes()
    return views.download(f"{file_name(target)}.essence.safetensors", data, "application/octet-stream")


def file_name(item: Item) -> str:
    return re.sub(r"[^\w-]+", "-", item.name).strip("-") or "essence"
