"""What one visitor has on the page: pictures, latents and essences, on the CPU. No model, no tensor of a GPU."""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field

from PIL import Image

from essence import Essence, Source

MAX_ITEMS = 12  # sources, and targets, of one visitor


def new_id() -> str:
    return uuid.uuid4().hex[:8]


@dataclass(eq=False)
class Item:
    """A picture that somebody added. `faces`: its aligned squares, the largest first; `chosen` is the one in use."""

    name: str
    faces: tuple[Image.Image, ...] = ()
    chosen: int = 0
    id: str = field(default_factory=new_id)

    @property
    def picture(self) -> Image.Image | None:
        return self.faces[self.chosen] if self.faces else None


@dataclass(eq=False)
class SourceItem(Item):
    source: Source | None = None  # once inverted
    progress: float = 0.0  # of its inversion, 0 ... 1


@dataclass(eq=False)
class TargetItem(Item):
    found: bool = True  # whether a face was found; otherwise the picture was taken as it is
    essence: Essence | None = None  # once learned, or loaded
    strength: float = 1.0

    @property
    def picture(self) -> Image.Image | None:
        if self.faces:
            return self.faces[self.chosen]
        return self.essence.thumbnail if self.essence else None


@dataclass(eq=False)
class Cell:
    """A blend as shown, and what it was made of: it is stale as soon as one of these is another."""

    source: Source
    essence: Essence
    strength: float
    url: str

    def shows(self, source: Source, essence: Essence, strength: float) -> bool:
        return self.source is source and self.essence is essence and self.strength == strength


@dataclass(eq=False)
class Session:
    """One visitor's things, in the order in which they were added. Handlers change it in place: while one of them learns,
    another may add a picture or move a slider, and neither may undo what the other did."""

    sources: dict[str, SourceItem] = field(default_factory=dict)
    targets: dict[str, TargetItem] = field(default_factory=dict)
    cells: dict[tuple[str, str], Cell] = field(default_factory=dict)  # (target's id, source's id)
    learning: object | None = None  # a mark of the learning that is under way

    def ready(self) -> list[SourceItem]:
        """Sources that can be blended."""
        return [item for item in list(self.sources.values()) if item.source is not None]

    def learned(self) -> list[TargetItem]:
        """Targets that can be blended."""
        return [item for item in list(self.targets.values()) if item.essence is not None]

    def stale(self, target: TargetItem) -> list[SourceItem]:
        """Sources whose cell in the target's row has to be drawn (again)."""
        def fresh(item: SourceItem) -> bool:
            cell = self.cells.get((target.id, item.id))
            return cell is not None and cell.shows(item.source, target.essence, target.strength)

        return [item for item in self.ready() if not fresh(item)]

    def forget_cells(self) -> None:
        """Drop the cells of sources and targets that are gone."""
        for target, source in list(self.cells):
            if target not in self.targets or source not in self.sources:
                self.cells.pop((target, source), None)
