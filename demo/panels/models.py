"""Which models the page works with: what there is, what it may be used for, how to get it; and
switching to another set.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import wait
from typing import Any

import gradio as gr

from essence import (
    Essence,
    EssenceMismatch,
    Nudge,
    Studio,
    StudioPool,
    UserError,
    bundled,
    manifest,
)

from ..events import ADD, EVERY, NOW, QUIET, Components, Page
from ..messages import SKIP, errors_told, inform, plural
from ..rendering import render
from ..session import Item, Photo, Session, TargetItem
from .components import html
from .items import cut_faces, show
from .sources import invert_stale

LOOK_SECONDS = 1  # between two looks at how far the loading is
MODELS_JS = """essence.clicks(element, trigger, ['use']);
essence.waits(element, trigger, watch, 'wait')"""


# ---- components and events


def build(pool: StudioPool) -> gr.HTML:
    return html(models_html(pool, Session()), MODELS_JS, elem_id="models")


def connect(page: Page, models: gr.HTML, sources: Components, targets: Components) -> None:
    pool, session = page.pool, page.session

    def use(state: Session, event: gr.EventData, steps: float) -> Iterator[tuple[Any, ...]]:
        yield from switch_models(pool, state, str(event.id), int(steps))

    def wait_for_models(state: Session) -> Iterator[str]:
        yield from watch_loading(pool, state)

    page.blocks.load(lambda state: arrival(pool, state), session, models, **NOW)
    models.wait(wait_for_models, session, models, concurrency_limit=None, **QUIET)
    # In the queue of those who add pictures: no inversion by the old models can be under way. Who
    # changes their mind meanwhile waits there too.
    boxes = [sources["examples_box"], targets["essences_box"], targets["notions_box"]]
    boxes.append(sources["imagined"])
    models.use(use, [session, sources["refine"]], [models, *boxes, *page.view], **EVERY, **ADD)


# ---- what there is


def models_html(pool: StudioPool, session: Session, loading: str = "", waits: bool = False) -> str:
    """A quiet line; opened, every set with a button for those that are here. `loading`: the name of
    the one that is being loaded; `waits`: the page's script shall ask to `watch_loading`.
    """
    sets, used = pool.sets(), session.run.model or pool.first
    status = title_of(sets[loading or used])
    if loading:
        what, done, total = pool.of(loading).loading or ("", 0, 0)
        progress = f"{what}: {done / total:.0%}" if total else what
        status = f"Loading {status} … {progress or 'The first time this may take some minutes.'}"
    rows = [model_row(spec, spec.name == used) for spec in sets.values()]
    return render("models.html", status=status, rows=rows, loading=loading, waits=waits)


def title_of(spec: manifest.ModelSpec) -> str:
    return spec.title.split(":")[0] or spec.name


def model_row(spec: manifest.ModelSpec, used: bool) -> dict[str, Any]:
    """What the list says about a set."""
    files = list(spec.unique_files)
    sizes = [file.path.stat().st_size if file.present else file.size for file in files]
    megabytes, size = sum(sizes) / 1e6, ""
    if any(sizes):
        size = f"{megabytes / 1000:.1f} GB" if megabytes >= 1000 else f"{megabytes:.0f} MB"
        size = size if all(sizes) else f"more than {size}"
    terms = spec.licence_terms
    # A missing component that lies in another's file goes with it.
    missing = {spec.components[kind].file: kind for kind in reversed(spec.missing)}
    return {
        "name": spec.name,
        "title": title_of(spec),
        "facts": [fact for fact in (spec.name, size, spec.title.partition(":")[2].strip()) if fact],
        # What may be done with it; where that differs, component by component.
        "terms": list(terms)
        if len(terms) < 2
        else [f"{' and '.join(kinds)}: {text}" for text, kinds in terms.items()],
        "missing": ", ".join(reversed(missing.values())),
        "command": spec.fetch_command,
        "used": used,
        "usable": bool(spec.components) and not spec.missing_required,
    }


def usable_examples(pool: StudioPool, name: str) -> tuple[bool, bool]:
    """Whether the bundled faces are sources for this set, and the bundled essences essences of
    it.
    """
    models = [Essence.load(path).model.rpartition("-")[0] for path in bundled("essences")]
    return pool.sets()[name].aligned == "face", name in models


# ---- loading


def arrival(pool: StudioPool, session: Session) -> str:
    """The line for a visitor who opens the page: somebody may have downloaded files meanwhile, and
    the models may not be there yet.
    """
    name = session.run.model or pool.first
    if pool.of(name).loaded:
        return models_html(pool, session)
    return models_html(pool, session, loading=name, waits=True)


def watch_loading(pool: StudioPool, session: Session) -> Iterator[str]:
    """The line while the session's models are being loaded."""
    with errors_told():
        yield from load_models(pool, session, session.run.model or pool.first)
    yield models_html(pool, session)


def load_models(pool: StudioPool, session: Session, name: str) -> Iterator[str]:
    """Load a set, if it is not: the line, again and again until it is there. Raises UserError where
    it cannot be loaded.
    """
    loading = pool.of(name).load()
    while not wait([loading], LOOK_SECONDS).done:
        yield models_html(pool, session, loading=name)
    loading.result()


# ---- another set


def switch_models(
    pool: StudioPool, session: Session, name: str, steps: int
) -> Iterator[tuple[Any, ...]]:
    """Switch to another set. Photographs and targets stay: sources are inverted anew, essences wait
    until the visitor comes back.

    Yields (models, sources' examples, ready-made essences, notions, faces to choose from, *view).
    `name` comes from the browser.
    """
    old, sets = session.run.model or pool.first, pool.sets()
    if name not in sets or name == old:
        return
    boxes, unchanged = [SKIP] * 4, (SKIP, SKIP, SKIP)
    with errors_told():
        check_not_learning(session)
        yield models_html(pool, session, loading=name), *boxes, *unchanged
        for line in load_models(pool, session, name):
            yield line, *boxes, *unchanged
        studio, items = pool.of(name), session.items
        same = sets[name].aligned == sets[old].aligned
        cuts = [
            (item, recut(studio, item, same))
            for item in (*items.sources.values(), *items.targets.values())
        ]
        check_not_learning(session)
        waiting = exchange_models(studio, session, old, name, cuts)
        if waiting:
            inform(
                f"Essences belong to their models: {plural(waiting, 'essence')} will be back when "
                f"you go back to {title_of(sets[old])}."
            )
        faces, essences = usable_examples(pool, name)
        boxes = [gr.update(visible=visible) for visible in (faces, essences, faces)] + [""]
    studio = pool.of(session.run.model)
    yield models_html(pool, session), *boxes, *show(studio, session)
    if session.run.model == name:
        for frame in invert_stale(studio, session, steps):
            yield SKIP, *[SKIP] * 4, *frame


def check_not_learning(session: Session) -> None:
    if session.run.learning is not None:
        raise UserError(
            "Stop the learning first: its essence belongs to the models that are in use."
        )


def recut(studio: Studio, item: Item, same: bool) -> Mapping[str, Any]:
    """An item's fields as the new models want its picture. `same`: both sets cut pictures alike, so
    that the squares stay.
    """
    if item.photo is None:
        return {"faces": tuple(studio.crop(face, aligned=True) for face in item.faces)}
    picture = item.photo.picture()
    if not same:
        cropped = cut_faces(studio, picture)
        photo = Photo(item.photo.data, cropped.photo.squares)
        fields = {"photo": photo, "faces": cropped.faces}
        fields |= {"chosen": 0, "nudge": Nudge(), "nudged": None}
        return fields | ({"found": cropped.found} if isinstance(item, TargetItem) else {})
    squares, nudged = item.photo.squares, None
    if item.nudge != Nudge():
        square = squares[item.chosen].nudged(item.nudge)
        nudged = studio.cut(picture, square, item.largest)
    faces = tuple(studio.cut(picture, square, item.largest) for square in squares)
    return {"faces": faces, "nudged": nudged}


def exchange_models(
    studio: Studio,
    session: Session,
    old: str,
    new: str,
    cuts: Sequence[tuple[Item, Mapping[str, Any]]],
) -> int:
    """Nothing of the old models stays in sight. Returns how many essences were put aside."""
    session.run.model, session.run.paces = new, ()
    session.view.cells, session.view.looking, session.items.removed = {}, None, []
    session.view.imagined, session.view.imagined_seed = (), -1  # nor of what is being made
    targets = list(session.items.targets.values())
    strange = [
        item for item in targets if item.essence is not None and not fits(studio, item.essence)
    ]
    waiting = [item for item in strange if item.learned]
    for target in strange:
        if not target.learned:
            target.take(None)  # the new models make their own at once
        elif target.learnable:
            target.put_aside(old)
    for item, fields in cuts:
        for name, value in fields.items():
            setattr(item, name, value)
    for source in session.items.sources.values():
        source.source, source.progress = None, 0.0
    for target in targets:
        target.embedded = None
        if target.pictures is not None:
            target.take(None)
        target.bring_back(new)
    session.items.put_aside(old, [target for target in strange if not target.learnable])
    session.items.bring_back(new)
    return len(waiting)


def fits(studio: Studio, essence: Essence) -> bool:
    """Whether an essence is one of the studio's models."""
    try:
        essence.check(studio.models.latent_shape, studio.models.id)
    except EssenceMismatch:
        return False
    return True
