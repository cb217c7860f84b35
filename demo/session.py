"""What one visitor has on the page: pictures, latents and essences, on the CPU. No model, no tensor
of a GPU.
"""

from __future__ import annotations

import io
import secrets
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakValueDictionary

from PIL import Image

from essence import Essence, Source
from essence.pictures import align

MAX_ITEMS = 12  # sources, and targets, of one visitor
PHOTO_SIDE = (
    2000  # pixels, longest side, of the photograph that is kept so that its crop can be corrected
)
ALL_BANDS = frozenset(("coarse", "middle", "fine"))
SLOW = 0.5  # seconds for one picture
MIX = "mix"  # id of the row that mixes all essences


def new_id() -> str:
    return uuid.uuid4().hex[:8]


@dataclass(frozen=True, eq=False)
class Photo:
    """A photograph, as JPEG because there may be many, and the squares of its faces in its
    pixels.
    """

    data: bytes
    squares: tuple[align.Square, ...]

    @classmethod
    def of(cls, picture: Image.Image, squares: Sequence[align.Square]) -> Photo:
        factor = min(1.0, PHOTO_SIDE / max(picture.size))
        small = (
            picture
            if factor == 1
            else picture.resize(tuple(max(1, round(factor * side)) for side in picture.size))
        )
        buffer = io.BytesIO()
        small.save(buffer, "JPEG", quality=92)
        return cls(buffer.getvalue(), tuple(square.scaled(factor) for square in squares))

    def picture(self) -> Image.Image:
        return Image.open(io.BytesIO(self.data))


@dataclass(eq=False)
class Item:
    """A picture that somebody added. `faces`: its aligned squares, the largest first; `chosen` is
    the one in use, `nudged` its crop corrected by hand."""

    name: str
    faces: tuple[Image.Image, ...] = ()
    chosen: int = 0
    id: str = field(default_factory=new_id)
    photo: Photo | None = None
    nudge: align.Nudge = align.Nudge()
    nudged: Image.Image | None = None

    @property
    def picture(self) -> Image.Image | None:
        return self.nudged or (self.faces[self.chosen] if self.faces else None)

    def choose(self, index: int) -> None:
        self.chosen, self.nudge, self.nudged = index, align.Nudge(), None


@dataclass(eq=False)
class SourceItem(Item):
    source: Source | None = None  # once inverted
    progress: float = 0.0  # of its inversion, 0 ... 1

    @property
    def stale(self) -> bool:
        """Whether what was inverted is not the picture as it is now."""
        return self.source is None or self.source.crop is not self.picture


@dataclass(eq=False)
class TargetItem(Item):
    found: bool = True  # whether a face was found; otherwise the picture was taken as it is
    essence: Essence | None = None  # once learned, or loaded
    strength: float = 1.0  # in the grid
    share: float = 0.5  # in the mixture
    bands: frozenset[str] = ALL_BANDS  # the layers it may change
    aside: dict[str, tuple[Essence, int, align.Nudge]] = field(
        default_factory=dict
    )  # by model set: an essence, and the crop it is of

    @property
    def picture(self) -> Image.Image | None:
        return super().picture or (self.essence.thumbnail if self.essence else None)

    def put_aside(self, model: str) -> None:
        """The essence belongs to another model set now."""
        self.aside[model], self.essence = (self.essence, self.chosen, self.nudge), None

    def bring_back(self, model: str) -> None:
        """The essence that was put aside, if it is one of this crop."""
        essence, *crop = self.aside.pop(model, (None,))
        if essence is not None and crop == [self.chosen, self.nudge]:
            self.essence = essence

    def limited(self) -> Essence:
        return self.essence if self.bands == ALL_BANDS else self.essence.limited(self.bands)


@dataclass(eq=False)
class Cell:
    """A blend as shown, and what it was made of: it is stale as soon as one of these is another."""

    source: Source
    made_of: tuple[Any, ...]  # essence, bands, strength
    url: str
    strip: str = field(
        default_factory=new_id
    )  # names the pictures of the same blend at all strengths
    figures: tuple[float, float | None] | None = (
        None  # identity distance, and likeness to the target where it has a picture
    )


@dataclass(eq=False)
class Session:
    """One visitor's things, in the order in which they were added. Handlers change it in place:
    while one of them learns, another may add a picture or move a slider, and neither may undo what
    the other did."""

    sources: dict[str, SourceItem] = field(default_factory=dict)
    targets: dict[str, TargetItem] = field(default_factory=dict)
    cells: dict[tuple[str, str], Cell] = field(default_factory=dict)  # (target's id, source's id)
    removed: list[tuple[str, int, Item]] = field(
        default_factory=list
    )  # (kind, place, item), the last time
    learning: object | None = None  # a mark of the learning that is under way
    mixing: bool = False  # one row of mixtures instead of the grid
    measuring: bool = False  # show figures below the cells
    looking: tuple[str, str] | None = None  # (target's id, source's id) of the large view
    mix: TargetItem = field(default_factory=lambda: TargetItem("mixture", id=MIX))
    mixed: tuple[Any, ...] = ()  # what `mix` was made of
    # the name of the model set that it works with; empty: the one that the page started with
    model: str = ""
    aside: dict[str, list[TargetItem]] = field(
        default_factory=dict
    )  # by model set: loaded essences that wait for it
    lent: bool = False  # whether each call borrows a GPU (ZeroGPU)
    paces: tuple[float, ...] = ()  # seconds that a picture took, the last few times
    word: str = ""  # what the page calls it by, where Gradio does not name it: see `Visitors`

    def put_aside(self, model: str, items: list[TargetItem]) -> None:
        """Off the shelf, until the visitor goes back to their model set."""
        for item in items:
            self.targets.pop(item.id, None)
        self.aside.setdefault(model, []).extend(items)

    def bring_back(self, model: str) -> None:
        """As many as there is room for; the others wait on."""
        items = self.aside.pop(model, [])
        room = max(0, MAX_ITEMS - len(self.targets))
        self.targets |= {item.id: item for item in items[:room]}
        if items[room:]:
            self.aside[model] = items[room:]

    @property
    def slow(self) -> bool:
        """Whether a drag cannot have its pictures made while it lasts. Once says nothing: models
        warm up, others have the device.
        """
        return self.lent or (len(self.paces) > 1 and min(self.paces) > SLOW)

    def ready(self) -> list[SourceItem]:
        """Sources that can be blended."""
        return [item for item in list(self.sources.values()) if item.source is not None]

    def learned(self) -> list[TargetItem]:
        """Targets that can be blended."""
        return [item for item in list(self.targets.values()) if item.essence is not None]

    def rows(self) -> list[TargetItem]:
        """What is blended now: each essence, or their mixture."""
        if not self.mixing:
            return self.learned()
        parts = self.learned()
        made_of = tuple((item.essence, item.bands, item.share) for item in parts)
        if made_of != self.mixed:
            self.mixed = made_of
            self.mix.essence = (
                Essence.mixture([item.limited() for item in parts], [item.share for item in parts])
                if parts
                else None
            )
        return [self.mix] if parts else []

    def row(self, id: str) -> TargetItem | None:
        return next((item for item in self.rows() if item.id == id), None)

    def stale(self, target: TargetItem) -> list[SourceItem]:
        """Sources whose cell in the target's row has to be drawn (again)."""

        def fresh(item: SourceItem) -> bool:
            cell = self.cells.get((target.id, item.id))
            return (
                cell is not None and cell.source is item.source and cell.made_of == recipe(target)
            )

        return [item for item in self.ready() if not fresh(item)]

    def forget_cells(self) -> None:
        """Drop the cells of sources and targets that are gone."""
        for target, source in list(self.cells):
            if (target not in self.targets and target != MIX) or source not in self.sources:
                self.cells.pop((target, source), None)


class Visitors:
    """Sessions by a word that only their own page knows, as long as Gradio keeps them."""

    def __init__(self) -> None:
        self._known: WeakValueDictionary[str, Session] = WeakValueDictionary()

    def welcome(self, session: Session) -> Session:
        session.word = secrets.token_urlsafe(16)
        self._known[session.word] = session
        return session

    def find(self, word: object) -> Session | None:
        return self._known.get(word) if isinstance(word, str) else None


def recipe(target: TargetItem) -> tuple[Any, ...]:
    """What, beside the source, a cell is made of."""
    return target.essence, target.bands, target.strength
