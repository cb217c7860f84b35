"""Which models the page works with: what there is, what it may be used for, how to get it; and
going over to another set.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import wait
from html import escape
from typing import Any

import gradio as gr

from essence import Essence, EssenceMismatch, Studio, StudioPool, UserError, bundled
from essence.library import manifest
from essence.pictures import align

from . import shelves
from .blending import view
from .messages import SKIP, inform, plural, told
from .session import Item, Photo, Session, TargetItem

LOOK_SECONDS = 1  # between two looks at how far the loading is

# ---- what there is


def sets(studios: StudioPool, session: Session, loading: str = "", waits: bool = False) -> str:
    """A quiet line; opened, every set with a button for those that are here. `loading`: the name of
    the one that is being loaded;
    `waits`: the page's script shall ask to `watch` it."""
    known, used = studios.sets(), session.model or studios.first
    head = (
        f"Loading {title(known[loading])} … {progress(studios.of(loading))}"
        if loading
        else title(known[used])
    )
    rows = "".join(row(entry, entry.name == used, bool(loading)) for entry in known.values())
    return f"""<details class="models"{" data-waits" * waits}><summary><span>Models</span> <b role="status">{escape(head)}</b></summary>
      <ul>{rows}</ul></details>"""


def progress(studio: Studio) -> str:
    """How far its loading is, where that takes long."""
    what, done, total = studio.loading or ("", 0, 0)
    return (
        f"{what}: {done / total:.0%}"
        if total
        else what or "The first time this may take some minutes."
    )


def title(entry: manifest.ModelSpec) -> str:
    return entry.title.split(":")[0] or entry.name


def row(entry: manifest.ModelSpec, used: bool, loading: bool) -> str:
    name = escape(entry.name)
    about = escape(entry.title.partition(":")[2].strip())
    terms = "".join(f"<p>{escape(text)}</p>" for text in licences(entry))
    missing = (
        f"<p>Not here: {escape(absent(entry))}. To get it: <code>{escape(entry.fetch_command)}</code></p>"
        if entry.missing
        else ""
    )
    if used:
        state = '<span class="used">in use</span>'
    elif entry.missing_required or not entry.components:
        state = ""
    else:
        label, off = f"Use {escape(title(entry))}", " disabled" * loading
        state = f'<button class="download" data-event="use" data-id="{name}" aria-label="{label}"{off}>Use these</button>'
    return f"""<li><div><b>{escape(title(entry))}</b> <span>{" · ".join(filter(None, (name, size(entry), about)))}</span>
      {terms}{missing}</div>{state}</li>"""


def licences(entry: manifest.ModelSpec) -> list[str]:
    """What may be done with it; where that differs, part by part."""
    return (
        list(entry.licence_terms)
        if len(entry.licence_terms) < 2
        else [f"{' and '.join(parts)}: {text}" for text, parts in entry.licence_terms.items()]
    )


def absent(entry: manifest.ModelSpec) -> str:
    """What is missing; a part that lies in another's file goes with it."""
    gone = {entry.components[part].file: part for part in reversed(entry.missing)}
    return ", ".join(reversed(gone.values()))


def size(entry: manifest.ModelSpec) -> str:
    """Of the files, as far as it is known."""
    sizes = [part.path.stat().st_size if part.present else part.size for part in entry.unique_files]
    if not any(sizes):
        return ""
    total = sum(sizes) / 1e6
    return ("" if all(sizes) else "more than ") + (
        f"{total / 1000:.1f} GB" if total >= 1000 else f"{total:.0f} MB"
    )


def shown(studios: StudioPool, name: str) -> tuple[bool, bool]:
    """Whether the bundled faces are sources for this set, and the bundled essences essences of
    it.
    """
    return studios.sets()[name].aligned == "face", any(
        Essence.load(path).model.rpartition("-")[0] == name for path in bundled("essences")
    )


# ---- loading


def arrival(studios: StudioPool, session: Session) -> str:
    """The line for who opens the page: somebody may have fetched files meanwhile, and the models
    may not be there yet.
    """
    name = session.model or studios.first
    return (
        sets(studios, session)
        if studios.of(name).loaded
        else sets(studios, session, loading=name, waits=True)
    )


def watch(studios: StudioPool, session: Session) -> Iterator[str]:
    """The line while the session's models are being loaded."""
    with told():
        yield from awaited(studios, session, session.model or studios.first)
    yield sets(studios, session)


def awaited(studios: StudioPool, session: Session, name: str) -> Iterator[str]:
    """Load a set, if it is not: the line, again and again until it is there. Raises UserError where
    it cannot be loaded.
    """
    loading = studios.of(name).load()
    while not wait([loading], LOOK_SECONDS).done:
        yield sets(studios, session, loading=name)
    loading.result()


# ---- another set


def switch(
    studios: StudioPool, session: Session, name: str, steps: int
) -> Iterator[tuple[Any, ...]]:
    """Go over to another set. Photographs and targets stay: sources are inverted anew, essences
    wait until somebody comes back.

    Yields (sets, faces' examples, essences' examples, *view). `name` comes from the browser.
    """
    old, known = session.model or studios.first, studios.sets()
    if name not in known or name == old:
        return
    boxes = [SKIP, SKIP]
    with told():
        check_idle(session)
        yield sets(studios, session, loading=name), *boxes, SKIP, SKIP, SKIP
        for line in awaited(studios, session, name):
            yield line, *boxes, SKIP, SKIP, SKIP
        studio = studios.of(name)
        same = known[name].aligned == known[old].aligned
        cuts = [
            (item, cut(studio, item, same))
            for item in (*session.sources.values(), *session.targets.values())
        ]
        check_idle(session)
        if waiting := go_over(studio, session, old, name, cuts):
            inform(
                f"Essences belong to their models: {plural(waiting, 'essence')} will be back when you go back to {title(known[old])}."
            )
        boxes = [gr.update(visible=visible) for visible in shown(studios, name)]
    studio = studios.of(session.model)
    yield sets(studios, session), *boxes, *view(studio, session)
    if session.model == name:
        for frame in shelves.invert_stale(studio, session, steps):
            yield SKIP, SKIP, SKIP, *frame


def check_idle(session: Session) -> None:
    if session.learning is not None:
        raise UserError(
            "Stop the learning first: its essence belongs to the models that are in use."
        )


def cut(studio: Studio, item: Item, same: bool) -> Mapping[str, Any]:
    """An item's fields as the new models want its picture. `same`: both sets cut pictures alike, so
    that the squares stay.
    """
    if item.photo is None:
        return {"faces": tuple(studio.crop(face, aligned=True) for face in item.faces)}
    picture, fields = item.photo.picture(), {"chosen": item.chosen, "nudge": item.nudge}
    squares = item.photo.squares
    if not same:
        located = studio.locate(picture, required=False)
        squares, found = located.squares, located.face_found
        fields = {"chosen": 0, "nudge": align.Nudge()} | (
            {"found": found} if isinstance(item, TargetItem) else {}
        )
    nudge = fields["nudge"]
    nudged = (
        None
        if nudge == align.Nudge()
        else studio.cut(picture, squares[fields["chosen"]].nudged(nudge))
    )
    faces = tuple(studio.cut(picture, square) for square in squares)
    return {
        **fields,
        "photo": Photo(item.photo.data, tuple(squares)),
        "faces": faces,
        "nudged": nudged,
    }


def go_over(
    studio: Studio,
    session: Session,
    old: str,
    new: str,
    cuts: Sequence[tuple[Item, Mapping[str, Any]]],
) -> int:
    """Nothing of the old models stays in sight. Returns how many essences were put aside."""
    session.model, session.cells, session.removed, session.looking, session.paces = (
        new,
        {},
        [],
        None,
        (),
    )
    targets = list(session.targets.values())
    strange = [
        target
        for target in targets
        if target.essence is not None and not fits(studio, target.essence)
    ]
    for target in strange:
        if target.faces:
            target.put_aside(old)
    for item, fields in cuts:
        for name, value in fields.items():
            setattr(item, name, value)
    for item in session.sources.values():
        item.source, item.progress = None, 0.0
    for target in targets:
        target.bring_back(new)
    session.put_aside(old, [target for target in strange if not target.faces])
    session.bring_back(new)
    return len(strange)


def fits(studio: Studio, essence: Essence) -> bool:
    try:
        essence.check(studio.models.latent_shape, studio.models.id)
    except EssenceMismatch:
        return False
    return True
