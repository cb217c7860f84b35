"""What one visitor has on the page: pictures, latents and essences, on the CPU. No model, no tensor
of a GPU.
"""

from __future__ import annotations

import math
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
from PIL import Image

from essence import Change, Essence, Nudge, Pictures, Source, Square, Target

from .photo import Photo
from .scale import STRONGEST, WEAKEST, Scale

MAX_ITEMS = 12  # sources, and targets, of one visitor
LARGEST_CROP = 1024  # pixels, side of the photograph that results are made in
ALL_BANDS = frozenset(("coarse", "middle", "fine"))
SLOW = 0.5  # seconds for one picture
MIX = "mix"  # id of the row that mixes all essences


def new_id() -> str:
    return uuid.uuid4().hex[:8]


def nearest_strength(value: float) -> float:
    """What a slider can show; 1 for what is no number."""
    return min(max(value, WEAKEST), STRONGEST) if value == value else 1.0


# ---- items


@dataclass(eq=False)
class Item:
    """A picture that somebody added. `faces`: its aligned squares, the largest first; `chosen` is
    the one in use, `nudged` its crop corrected by hand.
    """

    largest: ClassVar[int | None] = None  # pixels of a crop; None: as the models want it

    name: str
    faces: tuple[Image.Image, ...] = ()
    chosen: int = 0
    id: str = field(default_factory=new_id)
    photo: Photo | None = None
    nudge: Nudge = Nudge()
    nudged: Image.Image | None = None

    @property
    def picture(self) -> Image.Image | None:
        return self.nudged or (self.faces[self.chosen] if self.faces else None)

    @property
    def square(self) -> Square | None:
        """Where the picture in use was cut from, in the pixels of `photo`."""
        return self.photo.squares[self.chosen].nudged(self.nudge) if self.photo else None

    def choose(self, index: int) -> None:
        self.chosen, self.nudge, self.nudged = index, Nudge(), None


@dataclass(eq=False)
class SourceItem(Item):
    largest: ClassVar[int | None] = LARGEST_CROP

    source: Source | None = None  # once inverted
    progress: float = 0.0  # of its inversion, 0 ... 1
    distance: float = math.nan  # of the model's face to the photograph's, once it is inverted
    seed: int | None = None  # of a face that the generator made up

    @property
    def stale(self) -> bool:
        """Whether what was inverted is not the picture as it is now."""
        return self.source is None or self.source.crop is not self.picture


@dataclass(eq=False)
class TargetItem(Item):
    """A picture, `words`, or an essence file alone. What a method made of it is an `essence`, or
    `pictures` of `pictured` sources where the method knows no direction.
    """

    words: str = ""  # instead of a picture
    neutral: str = ""  # what they are compared with, where there is anything
    found: bool = True  # whether a face was found; otherwise the picture was taken as it is
    embedded: Target | None = None  # the picture in use, or the words, once it was needed
    essence: Essence | None = None  # made at once, learned, or loaded
    instant: Essence | None = None  # the one that was made at once, where the models can
    # Cosine to the target, over the sources, where learning began and of the best so far.
    gain: tuple[float, float] | None = None
    # What came of several starts, the best first, each with a picture of what it does.
    choices: tuple[tuple[Essence, Image.Image], ...] = ()
    pictures: Pictures | None = None
    pictured: tuple[Source, ...] = ()
    strength: float = 1.0  # in the grid
    by_hand: bool = False  # whether somebody chose that strength
    suited: int = 0  # how often it was chosen for the visitor, so that the page follows once each
    share: float = 0.5  # in the mixture
    bands: frozenset[str] = ALL_BANDS  # the layers it may change
    where: frozenset[str] = frozenset()  # the parts of photographs; empty: everywhere
    # By source's id: where the change counts on its photograph, instead of the parts.
    painted: dict[str, Image.Image] = field(default_factory=dict)
    # By model set: an essence, and the crop that it is of.
    aside: dict[str, tuple[Essence, int, Nudge]] = field(default_factory=dict)

    @property
    def picture(self) -> Image.Image | None:
        return super().picture or (self.essence.thumbnail if self.essence else None)

    @property
    def text(self) -> str:
        """The words that it is, or that its essence remembers."""
        return self.words or (self.essence.text if self.essence else "")

    @property
    def result(self) -> Essence | Pictures | None:
        return self.essence or self.pictures

    @property
    def learnable(self) -> bool:
        """Not an essence file, whose target is not here."""
        return bool(self.faces or self.words)

    @property
    def learned(self) -> bool:
        """By more than the method that answers at once."""
        return self.result is not None and self.result is not self.instant

    def take(self, result: Essence | Pictures | None, sources: Sequence[Source] = ()) -> None:
        """Replace what was made of it; None forgets everything."""
        self.essence, self.pictures, self.pictured, self.choices = None, None, (), ()
        if result is None:
            self.instant = self.gain = None
        if isinstance(result, Pictures):
            self.pictures, self.pictured = result, tuple(sources)
        else:
            self.essence = result

    def picture_of(self, source: Source) -> np.ndarray | None:
        """uint8 [H, W, 3] where a method without a direction made one of that source."""
        for number, each in enumerate(self.pictured):
            if each is source:
                return self.pictures.images[number]
        return None

    def recipe(self) -> tuple[Any, ...]:
        """What, beside the source, a cell of the grid is made of; the strength comes last."""
        if self.pictures is not None:
            return self.pictures, None, None, None
        return self.essence, self.bands, self.where, self.strength

    def limited(self) -> Essence:
        """The essence in the layers that it may change."""
        return self.essence if self.bands == ALL_BANDS else self.essence.limited(self.bands)

    def put_aside(self, model: str) -> None:
        """The essence belongs to another model set now."""
        self.aside[model] = (self.essence, self.chosen, self.nudge)
        self.take(None)

    def bring_back(self, model: str) -> None:
        """The essence that was put aside, if it is one of this crop."""
        essence, *crop = self.aside.pop(model, (None,))
        if essence is not None and crop == [self.chosen, self.nudge]:
            self.take(essence)


@dataclass(eq=False)
class Items:
    """Sources and targets by id, in the order in which they are shown."""

    sources: dict[str, SourceItem] = field(default_factory=dict)
    targets: dict[str, TargetItem] = field(default_factory=dict)
    # (kind, place, item) of what was removed the last time.
    removed: list[tuple[str, int, Item]] = field(default_factory=list)
    # By model set: loaded essences that wait for it.
    aside: dict[str, list[TargetItem]] = field(default_factory=dict)

    def find(self, id: str) -> SourceItem | TargetItem | None:
        return self.sources.get(id) or self.targets.get(id)

    def ready(self) -> list[SourceItem]:
        """Sources that can be blended."""
        return [item for item in list(self.sources.values()) if item.source is not None]

    def learned(self) -> list[TargetItem]:
        """Targets that can be blended."""
        return [item for item in list(self.targets.values()) if item.essence is not None]

    def put_aside(self, model: str, targets: Sequence[TargetItem]) -> None:
        """Out of sight, until the visitor goes back to their model set."""
        for item in targets:
            self.targets.pop(item.id, None)
        self.aside.setdefault(model, []).extend(targets)

    def bring_back(self, model: str) -> None:
        """As many as there is room for; the others wait on."""
        waiting = self.aside.pop(model, [])
        room = max(0, MAX_ITEMS - len(self.targets))
        self.targets |= {item.id: item for item in waiting[:room]}
        if waiting[room:]:
            self.aside[model] = waiting[room:]


# ---- the grid


@dataclass(eq=False)
class Cell:
    """A blend as shown, and what it was made of: it is stale as soon as one of these is another."""

    source: Source
    made_of: tuple[Any, ...]  # see `Session.recipe`
    url: str
    coarse: bool = False  # drawn while a slider moved, not by the models' finer level
    strip: str = field(default_factory=new_id)  # names the same blend's pictures at all strengths
    # Identity distance, and likeness to the target where it has a picture.
    figures: tuple[float, float | None] | None = None


@dataclass(eq=False)
class View:
    """What the visitor looks at."""

    look: str = "photograph"  # or "model"
    imagined: tuple[Source, ...] = ()  # faces to choose from
    imagined_seed: int = 0
    mixing: bool = False  # one row of mixtures instead of the grid
    measuring: bool = False  # figures below the cells
    looking: tuple[str, str] | None = None  # (target's id, source's id) of the large view
    cells: dict[tuple[str, str], Cell] = field(default_factory=dict)  # (target's id, source's id)
    scales: dict[tuple[str, str], Scale] = field(default_factory=dict)  # of the same
    people: bool = False  # whether the models make faces, so that identity can be measured
    suiting: bool = False  # strengths are chosen where nobody does it by hand
    budget: float | None = None  # what cells may lose of identity; None: whatever comes
    # What essences do to photographs, by target's id, source's id and the strength at which it was
    # found: the source, what of the target it belongs to, and the change.
    changes: dict[tuple[str, str, float], tuple[Source, Any, Change]] = field(default_factory=dict)
    mix: TargetItem = field(default_factory=lambda: TargetItem("mixture", id=MIX))
    mixed: tuple[Any, ...] = ()  # what `mix` was made of


@dataclass(eq=False)
class Run:
    """What runs for the visitor, and where."""

    learning: object | None = None  # marks the learning that is under way
    model: str = ""  # the model set's name; empty: the one that the page started with
    lent: bool = False  # whether each call borrows a GPU (ZeroGPU)
    paces: tuple[float, ...] = ()  # seconds that a picture took, the last few times
    word: str = ""  # what the page calls the session where Gradio does not name it: see `Visitors`

    @property
    def slow(self) -> bool:
        """Whether a drag cannot have its pictures made while it lasts. Once says nothing: models
        warm up, others have the device.
        """
        return self.lent or (len(self.paces) > 1 and min(self.paces) > SLOW)


@dataclass(eq=False)
class Session:
    """One visitor's things. Handlers change them in place: while one of them learns, another may
    add a picture or move a slider, and neither may undo what the other did.
    """

    items: Items = field(default_factory=Items)
    view: View = field(default_factory=View)
    run: Run = field(default_factory=Run)

    def rows(self) -> list[TargetItem]:
        """The rows of the grid: each target of which something was made, or the essences'
        mixture.
        """
        if not self.view.mixing:
            return [item for item in list(self.items.targets.values()) if item.result is not None]
        parts, view = self.items.learned(), self.view
        made_of = tuple((item.essence, item.bands, item.share) for item in parts)
        if made_of != view.mixed:
            view.mixed, view.mix.essence = made_of, None
            if parts:
                essences, shares = [p.limited() for p in parts], [p.share for p in parts]
                view.mix.essence = Essence.mixture(essences, shares)
        return [view.mix] if parts else []

    def row(self, id: str) -> TargetItem | None:
        return next((item for item in self.rows() if item.id == id), None)

    def cell(self, target: TargetItem, item: SourceItem) -> Cell | None:
        return self.view.cells.get((target.id, item.id))

    def stale(self, target: TargetItem, fine: bool = True) -> list[SourceItem]:
        """Sources whose cell in the target's row has to be drawn (again), coarse ones if `fine`."""
        found = []
        for item in self.items.ready():
            cell, made_of = self.cell(target, item), self.recipe(target, item)
            same = cell and cell.source is item.source and cell.made_of == made_of
            if not same or (fine and cell.coarse):
                found.append(item)
        return found

    def in_photograph(self, item: SourceItem) -> bool:
        """Whether the source's own photograph is shown, rather than the model's picture."""
        return self.view.look == "photograph" and item.source.has_photograph

    def recipe(self, target: TargetItem, item: SourceItem) -> tuple[Any, ...]:
        """What, beside the source, a cell is made of; the strength comes last."""
        strength = target.recipe()[-1]
        return *self.without_strength(target, item), self.range(target, item), strength

    def scale(self, target: TargetItem, item: SourceItem) -> Scale | None:
        """What a cell keeps of its source at every strength, as far as it was measured."""
        scale = self.view.scales.get((target.id, item.id))
        made_of = self.without_strength(target, item)
        fresh = scale and scale.source is item.source and scale.made_of == made_of
        return scale if fresh else None

    def without_strength(self, target: TargetItem, item: SourceItem) -> tuple[Any, ...]:
        """What a cell is made of at any strength."""
        return self.in_photograph(item), target.painted.get(item.id), *target.recipe()[:-1]

    def range(self, target: TargetItem, item: SourceItem) -> tuple[float, float] | None:
        """The strengths that a cell is held to; None: all of them, or nobody knows yet."""
        scale = None if self.view.budget is None else self.scale(target, item)
        return scale and scale.range(self.view.budget)

    def held(self, target: TargetItem, item: SourceItem, strength: float) -> float:
        """A strength as this cell may take it."""
        low, high = self.range(target, item) or (strength, strength)
        return min(max(strength, low), high)

    def forget_cells(self) -> None:
        """Drop the cells of sources and targets that are gone."""
        for target, source in list(self.view.cells):
            known = target in self.items.targets or target == MIX
            if not known or source not in self.items.sources:
                self.view.cells.pop((target, source), None)
        for kept in (self.view.changes, self.view.scales):
            for key in list(kept):
                if key[:2] not in self.view.cells:
                    kept.pop(key, None)
