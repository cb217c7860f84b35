"""What sources and targets have in common: adding pictures, cropping, order, names, undo."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from essence import Studio, UserError, bundled

from ..blending import answer_at_once
from ..events import ADD, EVERY, NOW, Components, Page, bind
from ..messages import SKIP, inform
from ..session import MAX_ITEMS, Item, Photo, Session, SourceItem
from .cards import sources_html, targets_html
from .grid import show_grid

LONGEST_NAME = 40

File = str | Path | Image.Image
Shown = tuple[Any, Any, Any]  # HTML of the sources, the targets and the grid; or SKIP


def show(studio: Studio, session: Session) -> Shown:
    """Everything that handlers may change, with essences for new targets and the grid drawn."""
    answer_at_once(studio, session)
    return sources_html(session), targets_html(session), show_grid(studio, session)


# ---- events


def connect_inputs(
    page: Page, kind: str, add: Callable, parts: Components, values: Sequence[Any]
) -> None:
    """Files, the camera and the examples of the "sources" or "targets" all go the same way:
    `add(studio, session, files, *values)`.
    """
    bound, upload, camera = bind(page.pool, add), parts["upload"], parts["camera"]

    def add_and_empty(state: Session, files: Any, *values: Any) -> Iterator[tuple[Any, ...]]:
        """Empties the control at the first frame, so that the next picture can come while this one
        is worked on.
        """
        files = [files] if isinstance(files, Image.Image) else files
        for number, frame in enumerate(bound(state, files, *values)):
            yield SKIP if number else None, *frame

    session, view = page.session, page.view
    upload.upload(add_and_empty, [session, upload, *values], [upload, *view], **EVERY, **ADD)
    camera.input(add_and_empty, [session, camera, *values], [camera, *view], **EVERY, **ADD)
    picked = bind(page.pool, add, id=lambda name: example(kind, str(name)))
    parts["examples"].pick(picked, [session, *values], view, **EVERY, **ADD)


def connect_cards(page: Page, kind: str, parts: Components) -> None:
    """Order, names, and what is removed."""
    pool, session, view, cards = page.pool, page.session, page.view, parts["cards"]
    cards.remove(bind(pool, remove, id=str), session, view, **NOW)
    cards.move(bind(pool, move, id=str, by=int), session, view, **NOW)
    cards.rename(bind(pool, rename, id=str, name=str), session, view, **NOW)
    cards.undo(bind(pool, undo), session, view, **NOW)
    parts["clear"].click(bind(pool, clear, kind), session, view, **NOW)


# ---- a picture as an item


@dataclass(frozen=True, eq=False)
class Cropped:
    """A picture's faces cut out, the largest first; `found` is False where it was taken as it is,
    because it shows none.
    """

    photo: Photo
    faces: tuple[Image.Image, ...]
    found: bool


def cut_faces(
    studio: Studio,
    picture: Image.Image,
    aligned: bool = False,
    required: bool = False,
    largest: int | None = None,
) -> Cropped:
    """`largest`: pixels, at their own resolution up to this, else as the models want them. Raises
    NoFaceFound where a face is `required`.
    """
    located = studio.locate(picture, aligned, required)
    faces = tuple(studio.cut(picture, square, largest) for square in located.squares)
    return Cropped(Photo.of(picture, located.squares), faces, located.face_found)


def tell_faces(item: Item) -> None:
    if item.square is not None and item.square.turn:
        inform(
            f"{item.name} was turned by {item.square.turn}°, so that the face stands upright. "
            "Its crop can be turned back."
        )
    if len(item.faces) > 1:
        inform(
            f"{item.name}: {len(item.faces)} faces found. The largest was taken; click another one "
            "to change."
        )


def example(kind: str, name: str) -> list[Path]:
    """The bundled file of that name, or none: names come from the browser."""
    return [path for path in bundled(kind) if path.name == name]


def title_of(file: File) -> str:
    if isinstance(file, Image.Image):
        return "camera"
    return Path(file).stem.removesuffix(".essence")[:LONGEST_NAME] or "picture"


def check_room(items: dict[str, Any], what: str) -> None:
    """Raises UserError where there are as many as there may be."""
    if len(items) >= MAX_ITEMS:
        raise UserError(f"There is room for {MAX_ITEMS} {what}. Remove one first.")


# ---- order


def move(studio: Studio, session: Session, id: str, by: int) -> Shown:
    """One place to the left (-1) or to the right (1)."""
    for kind in ("sources", "targets"):
        items = list(getattr(session.items, kind).values())
        here = next((i for i, item in enumerate(items) if item.id == id), None)
        if here is not None and 0 <= here + by < len(items) and abs(by) == 1:
            items[here], items[here + by] = items[here + by], items[here]
            setattr(session.items, kind, {item.id: item for item in items})
    return show(studio, session)


def rename(studio: Studio, session: Session, id: str, name: str) -> Shown:
    item, name = session.items.find(id), " ".join(name.split())[:LONGEST_NAME]
    if item is not None and name:
        item.name = name
    return show(studio, session)


def remove(studio: Studio, session: Session, id: str) -> Shown:
    for kind in ("sources", "targets"):
        items = getattr(session.items, kind)
        if id in items:
            session.items.removed = [(kind, list(items).index(id), items.pop(id))]
    return show(studio, session)


def clear(studio: Studio, session: Session, kind: str) -> Shown:
    """Remove all "sources" or "targets"."""
    items = getattr(session.items, kind)
    if items:
        session.items.removed = [(kind, place, item) for place, item in enumerate(items.values())]
        items.clear()
    return show(studio, session)


def undo(studio: Studio, session: Session) -> Shown:
    """Bring back what was removed last, to its place, as far as there is room."""
    for kind, place, item in session.items.removed:
        items = list(getattr(session.items, kind).values())
        if isinstance(item, SourceItem):
            item.progress = 1.0  # nobody refines it any more
        if len(items) < MAX_ITEMS and not (isinstance(item, SourceItem) and item.source is None):
            items.insert(place, item)
            setattr(session.items, kind, {item.id: item for item in items})
    session.items.removed = []
    return show(studio, session)
