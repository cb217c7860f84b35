"""The sources and targets: adding, cropping, ordering, removing. Handlers are plain functions that
run without a server: the studio, the visitor's session and values in, HTML out."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from itertools import count
from pathlib import Path
from typing import Any

from PIL import Image

from essence import RefineOptions, Studio, UserError, bundled, load_image
from essence.pictures import align

from . import crop, views
from .blending import View, view
from .messages import SKIP, inform, told
from .session import MAX_ITEMS, Item, Photo, Session, SourceItem, TargetItem, new_id

SEEDS = 2**31
ESSENCES = (".safetensors", ".npy", ".pt", ".pth")
LONGEST_NAME = 40

File = str | Path | Image.Image


# ---- sources


def add_sources(
    studio: Studio, session: Session, files: Sequence[File], aligned: bool, steps: int
) -> Iterator[View]:
    """Crop each picture, then invert all of them together; the ones that cannot be read are told,
    the others kept.
    """
    added: list[SourceItem] = []
    try:
        for file in files or ():
            name = title_of(file)
            yield views.sources(session, pending=name), SKIP, SKIP
            with told(name):
                check_room(session.sources, "sources")
                picture = load_image(file)
                squares = studio.locate(picture, aligned).squares
                item = SourceItem(name, *cropped(studio, picture, squares))
                tell_faces(item)
                session.sources[item.id] = item
                added.append(item)
        with told():
            yield from invert(studio, session, added, steps)
    finally:
        drop_unknown(session, added)
    yield view(studio, session)


def cropped(
    studio: Studio, picture: Image.Image, squares: Sequence[align.Square]
) -> tuple[Any, ...]:
    """An item's first fields."""
    return (
        tuple(studio.cut(picture, square) for square in squares),
        0,
        new_id(),
        Photo.of(picture, squares),
    )


def random_face(studio: Studio, session: Session) -> View:
    with told():
        check_room(session.sources, "sources")
        source = studio.random_source(random.randrange(SEEDS))
        item = SourceItem(
            free_name(session.sources, "random"), (source.crop,), source=source, progress=1.0
        )
        session.sources[item.id] = item
    return view(studio, session)


def invert(
    studio: Studio, session: Session, items: Sequence[SourceItem], steps: int
) -> Iterator[View]:
    """Find the latents of sources, showing how the model's pictures of them come closer. Another
    crop ends it for its source.
    """
    if not items:
        return
    pictures = [item.picture for item in items]
    for item in items:
        item.progress = 0.0
    try:
        with closing(
            studio.invert(
                pictures, [item.name for item in items], RefineOptions(steps=int(steps))
            )
        ) as course:
            for step in course:
                going = [
                    (item, picture, source)
                    for item, picture, source in zip(items, pictures, step.result, strict=True)
                    if item.id in session.sources and item.picture is picture
                ]
                if not going:
                    return
                for item, picture, source in going:
                    # On ZeroGPU the source comes back from another process, with a copy of the
                    # picture.
                    item.source, item.progress = (
                        dataclasses.replace(source, crop=picture),
                        step.fraction,
                    )
                if step.preview is not None:
                    yield views.sources(session), SKIP, SKIP
    finally:
        drop_unknown(session, items)


def drop_unknown(session: Session, items: Sequence[SourceItem]) -> None:
    """Whoever was not inverted cannot stay."""
    for item in items:
        if item.source is None:
            session.sources.pop(item.id, None)


def invert_stale(studio: Studio, session: Session, steps: int) -> Iterator[View]:
    """Every source whose crop has changed."""
    with told():
        yield from invert(
            studio, session, [item for item in list(session.sources.values()) if item.stale], steps
        )
    yield view(studio, session)


def choose_source_face(
    studio: Studio, session: Session, id: str, index: int, steps: int
) -> Iterator[View]:
    item = session.sources.get(id)
    if item is not None and 0 <= index < len(item.faces) and index != item.chosen:
        item.choose(index)
    yield from invert_stale(studio, session, steps)


# ---- targets


def add_targets(
    studio: Studio, session: Session, files: Sequence[File], aligned: bool
) -> Iterator[View]:
    """Crop each picture, or take it as it is where it shows no face; essence files are loaded."""
    for file in files or ():
        name = title_of(file)
        yield SKIP, views.targets(session, pending=name), SKIP
        with told(name):
            check_room(session.targets, "targets")
            item = (
                load_essence(studio, file)
                if is_essence(file)
                else read_target(studio, name, file, aligned)
            )
            session.targets[item.id] = item
    yield view(studio, session)


def is_essence(file: File) -> bool:
    return not isinstance(file, Image.Image) and Path(file).suffix.lower() in ESSENCES


def load_essence(studio: Studio, file: str | Path) -> TargetItem:
    essence = studio.load_essence(file)
    return TargetItem(
        essence.name, essence=essence, strength=views.nearest_strength(essence.strength)
    )


def read_target(studio: Studio, name: str, file: File, aligned: bool) -> TargetItem:
    picture = load_image(file)
    located = studio.locate(picture, aligned, required=False)
    found = located.face_found or aligned or not studio.has_faces
    item = TargetItem(name, *cropped(studio, picture, located.squares), found=found)
    tell_faces(item)
    if not found:
        inform(
            f"{name}: no face found, so the picture is taken as it is. Drawings and paintings work too."
        )
    return item


def choose_target_face(studio: Studio, session: Session, id: str, index: int) -> View:
    """Take another face of the picture; an essence of the first one would be somebody else's."""
    item = session.targets.get(id)
    if item is not None and 0 <= index < len(item.faces) and index != item.chosen:
        item.choose(index)
        item.essence = None
    return view(studio, session)


# ---- the crop


def edit_crop(session: Session, id: str) -> Any:
    """The photograph with the square of the face on it."""
    item = find(session, id)
    return SKIP if item is None or item.photo is None else crop.editor(item)


def nudge(studio: Studio, session: Session, id: str, values: Mapping[str, object]) -> View:
    """Correct the crop; `invert_stale` then inverts it. A target has to be learned again."""
    item = find(session, id)
    if item is None or item.photo is None:
        return SKIP, SKIP, SKIP
    wanted = crop.checked(values)
    if wanted != item.nudge:
        square = item.photo.squares[item.chosen].nudged(wanted)
        item.nudge, item.nudged = (
            wanted,
            None if wanted == align.Nudge() else studio.cut(item.photo.picture(), square),
        )
        if isinstance(item, TargetItem):
            item.essence = None
    return view(studio, session)


# ---- order


def find(session: Session, id: str) -> Item | None:
    return session.sources.get(id) or session.targets.get(id)


def move(studio: Studio, session: Session, id: str, by: int) -> View:
    """One place to the left (-1) or to the right (1)."""
    for kind in ("sources", "targets"):
        items = list(getattr(session, kind).values())
        here = next((i for i, item in enumerate(items) if item.id == id), None)
        if here is not None and 0 <= here + by < len(items) and abs(by) == 1:
            items[here], items[here + by] = items[here + by], items[here]
            setattr(session, kind, {item.id: item for item in items})
    return view(studio, session)


def rename(studio: Studio, session: Session, id: str, name: str) -> View:
    item, name = find(session, id), " ".join(name.split())[:LONGEST_NAME]
    if item is not None and name:
        item.name = name
    return view(studio, session)


def remove(studio: Studio, session: Session, id: str) -> View:
    for kind in ("sources", "targets"):
        items = getattr(session, kind)
        if id in items:
            session.removed = [(kind, list(items).index(id), items.pop(id))]
    return view(studio, session)


def clear(studio: Studio, session: Session, kind: str) -> View:
    items = session.sources if kind == "sources" else session.targets
    if items:
        session.removed = [(kind, place, item) for place, item in enumerate(items.values())]
        items.clear()
    return view(studio, session)


def undo(studio: Studio, session: Session) -> View:
    """Bring back what was removed last, to its place, as far as there is room."""
    for kind, place, item in session.removed:
        items = list(getattr(session, kind).values())
        if isinstance(item, SourceItem):
            item.progress = 1.0  # nobody refines it any more
        if len(items) < MAX_ITEMS and not (isinstance(item, SourceItem) and item.source is None):
            items.insert(place, item)
            setattr(session, kind, {item.id: item for item in items})
    session.removed = []
    return view(studio, session)


# ---- both


def example(kind: str, name: str) -> list[Path]:
    """The bundled file of that name, or none: names come from the browser."""
    return [path for path in bundled(kind) if path.name == name]


def title_of(file: File) -> str:
    return (
        "camera"
        if isinstance(file, Image.Image)
        else Path(file).stem.removesuffix(".essence")[:LONGEST_NAME] or "picture"
    )


def free_name(items: Mapping[str, Item], name: str) -> str:
    """The name with the first number that is free."""
    taken = {item.name for item in items.values()}
    return next(numbered for number in count(1) if (numbered := f"{name} {number}") not in taken)


def check_room(items: Mapping[str, Any], what: str) -> None:
    if len(items) >= MAX_ITEMS:
        raise UserError(f"There is room for {MAX_ITEMS} {what}. Remove one first.")


def tell_faces(item: Item) -> None:
    if len(item.faces) > 1:
        inform(
            f"{item.name}: {len(item.faces)} faces found. The largest was taken; click another one to change."
        )
