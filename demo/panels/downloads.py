"""What a visitor takes home: grids, pictures, essences. Nothing of it lies on the server's disk."""

from __future__ import annotations

import dataclasses
import io
import re
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from essence import Essence, Pictures, Studio, encode_picture, picture_grid, xmp_packet

from ..looks import before, row_pictures
from ..messages import SKIP, warn
from ..rendering import download_link, words_picture
from ..session import Session, SourceItem, TargetItem

# Pixels; larger pictures go as JPEG, or they would be too much for a link.
LOSSLESS_SIDE = 512
GRID_SIDE = 512  # of a cell of the grid as one picture


def download_grid(studio: Studio, session: Session) -> Any:
    """The paper's figure: sources along the top, targets down the left, the blends between."""
    found = shown_cells(session)
    if found is None:
        return SKIP
    sources, targets = found
    rows: list[list[Image.Image | None]] = [[None, *(before(session, s) for s in sources)]]
    for target in targets:
        pictures = row_pictures(studio, session, target, sources, GRID_SIDE)
        head = target.result.thumbnail
        if head is None and target.text:
            head = words_picture(target.text, GRID_SIDE)
        rows.append([head, *pictures])
    side = max(picture.width for picture in rows[-1][1:])
    data = encode_picture(picture_grid(rows, cell=side), "PNG", packet(session, targets, sources))
    return download_link("essence-grid.png", data, "image/png")


def download_cells(studio: Studio, session: Session) -> Any:
    """Every cell as a picture of its own, in one archive."""
    found = shown_cells(session)
    if found is None:
        return SKIP
    sources, targets = found
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for i, target in enumerate(targets, 1):
            pictures = row_pictures(studio, session, target, sources, None)
            for j, (source, picture) in enumerate(zip(sources, pictures, strict=True), 1):
                folder, name = f"{i}-{file_name(target.name)}", f"{j}-{file_name(source.name)}"
                kind = "PNG" if picture.width <= LOSSLESS_SIDE else "JPEG"
                data = encode_picture(picture, kind, packet(session, [target], [source]))
                archive.writestr(f"{folder}/{name}.{kind.lower()}", data)
    return download_link("essence-cells.zip", buffer.getvalue(), "application/zip")


def packet(session: Session, targets: Sequence[TargetItem], sources: Sequence[SourceItem]) -> bytes:
    """What pictures of these say about themselves."""
    photographs = any(session.in_photograph(source) for source in sources)
    names, strengths = [t.name for t in targets], [t.strength for t in targets]
    if len(sources) == 1:
        strengths = [session.held(t, sources[0], t.strength) for t in targets]
    return xmp_packet(names, strengths, photographs)


def picture_link(name: str, picture: Image.Image, xmp: bytes, parent: bytes | None = None) -> str:
    """A link to one picture, an edit of `parent` if that is given; large ones go as JPEG."""
    kind = "PNG" if picture.width <= LOSSLESS_SIDE else "JPEG"
    data = encode_picture(picture, kind, xmp, parent=parent)
    return download_link(f"{file_name(name)}.{kind.lower()}", data, f"image/{kind.lower()}")


def shown_cells(session: Session) -> tuple[list[SourceItem], list[TargetItem]] | None:
    """The grid's columns and rows; the visitor is told where there are none."""
    sources, targets = session.items.ready(), session.rows()
    if sources and targets:
        return sources, targets
    warn("There is no grid yet: it takes a source and a learned or loaded essence.")
    return None


def download_result(studio: Studio, session: Session, id: str) -> Any:
    """The essence as a file, with the slider's name, strength and layers in it; or the pictures
    side by side.
    """
    target = session.items.targets.get(id) or session.row(id)
    if target is None or target.result is None:
        return SKIP
    name = file_name(target.name)
    if target.pictures is not None:
        return download_link(f"{name}.png", saved_bytes(target.pictures, ".png"), "image/png")
    essence = dataclasses.replace(target.limited(), name=target.name, strength=target.strength)
    data = saved_bytes(essence, ".safetensors")
    return download_link(f"{name}.essence.safetensors", data, "application/octet-stream")


def saved_bytes(result: Essence | Pictures, suffix: str) -> bytes:
    """The file that `result.save` writes."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"result{suffix}"
        result.save(path)
        return path.read_bytes()


def file_name(name: str) -> str:
    return re.sub(r"[^\w-]+", "-", name).strip("-") or "essence"
