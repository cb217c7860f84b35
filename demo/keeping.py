"""What a visitor takes home: pictures, animations, essences. Nothing of it lies on the server's
disk.
"""

from __future__ import annotations

import dataclasses
import io
import re
import tempfile
import zipfile
from pathlib import Path
from typing import Any

from PIL import Image

from essence import Essence, Studio

from . import views
from .blending import SWEEP, looked_at, strip
from .messages import SKIP, tell
from .session import Session, TargetItem

LOSSLESS_SIDE = (
    512  # pixels; larger cells go into the archive as JPEG, or it would be too much for a link
)


def download_grid(studio: Studio, session: Session) -> Any:
    sources, targets = session.ready(), session.rows()
    if not sources or not targets:
        return nothing()
    sheet = studio.grid(
        [s.source for s in sources], [t.limited() for t in targets], [t.strength for t in targets]
    )
    return views.download("essence-grid.png", encoded(sheet, "PNG"), "image/png")


def download_cells(studio: Studio, session: Session) -> Any:
    """Every cell as a picture of its own, in one archive."""
    sources, targets = session.ready(), session.rows()
    if not sources or not targets:
        return nothing()
    pictures = studio.blend(
        [s.source for s in sources], [t.limited() for t in targets], [t.strength for t in targets]
    )
    kind = "PNG" if studio.models.size <= LOSSLESS_SIDE else "JPEG"
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for i, target in enumerate(targets):
            for j, source in enumerate(sources):
                name = f"{i + 1}-{file_name(target.name)}/{j + 1}-{file_name(source.name)}.{kind.lower()}"
                archive.writestr(name, encoded(Image.fromarray(pictures[i, j]), kind))
    return views.download("essence-cells.zip", buffer.getvalue(), "application/zip")


def download_picture(studio: Studio, session: Session, strength: float) -> Any:
    """The picture of the large view, at the strength chosen there."""
    if (found := looked_at(session)) is None:
        return SKIP
    target, item = found
    pixels = strip(studio, item, target.limited(), [views.nearest_strength(strength)])[0]
    return views.download(
        f"{file_name(f'{item.name} {target.name}')}.png",
        encoded(Image.fromarray(pixels), "PNG"),
        "image/png",
    )


def download_sweep(studio: Studio, session: Session) -> Any:
    """The large view's source through all strengths, as an animation."""
    if (found := looked_at(session)) is None:
        return SKIP
    target, item = found
    data = studio.sweep(item.source, target.limited(), SWEEP)
    return views.download(f"{file_name(f'{item.name} {target.name}')}.webp", data, "image/webp")


def download_essence(session: Session, id: str) -> Any:
    """The essence as a file, with the slider's strength in it."""
    target = session.targets.get(id) or session.row(id)
    if target is None or target.essence is None:
        return SKIP
    return views.download(
        f"{file_name(target.name)}.essence.safetensors",
        essence_bytes(kept(target)),
        "application/octet-stream",
    )


def kept(target: TargetItem) -> Essence:
    """As the page uses it: its name, strength and layers."""
    return dataclasses.replace(target.limited(), name=target.name, strength=target.strength)


def essence_bytes(essence: Essence) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "essence.safetensors"
        essence.save(path)
        return path.read_bytes()


def encoded(image: Image.Image, kind: str) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, quality=95)
    return buffer.getvalue()


def nothing() -> Any:
    tell("There is no grid yet: it takes a source and a learned or loaded essence.")
    return SKIP


def file_name(name: str) -> str:
    return re.sub(r"[^\w-]+", "-", name).strip("-") or "essence"
