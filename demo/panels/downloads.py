"""What a visitor takes home: grids, pictures, essences. Nothing of it lies on the server's disk."""

from __future__ import annotations

import dataclasses
import io
import re
import tempfile
import zipfile
from pathlib import Path
from typing import Any

from PIL import Image

from essence import Essence, Pictures, Studio, encode_picture, picture_grid

from ..blending import cell_pixels
from ..messages import SKIP, warn
from ..rendering import download_link
from ..session import Session, SourceItem, TargetItem

# Pixels; larger cells go into the archive as JPEG, or it would be too much for a link.
LOSSLESS_SIDE = 512


def download_grid(studio: Studio, session: Session) -> Any:
    """The paper's figure: sources along the top, targets down the left, the blends between."""
    found = shown_cells(session)
    if found is None:
        return SKIP
    sources, targets = found
    rows: list[list[Image.Image | None]] = [[None, *(item.source.inversion for item in sources)]]
    for target in targets:
        pictures = map(Image.fromarray, cell_pixels(studio, target, sources))
        rows.append([target.result.thumbnail, *pictures])
    sheet = picture_grid(rows, cell=studio.models.size)
    return download_link("essence-grid.png", encode_picture(sheet, "PNG"), "image/png")


def download_cells(studio: Studio, session: Session) -> Any:
    """Every cell as a picture of its own, in one archive."""
    found = shown_cells(session)
    if found is None:
        return SKIP
    sources, targets = found
    kind = "PNG" if studio.models.size <= LOSSLESS_SIDE else "JPEG"
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for i, target in enumerate(targets, 1):
            pictures = cell_pixels(studio, target, sources)
            for j, (source, pixels) in enumerate(zip(sources, pictures, strict=True), 1):
                folder, name = f"{i}-{file_name(target.name)}", f"{j}-{file_name(source.name)}"
                data = encode_picture(Image.fromarray(pixels), kind)
                archive.writestr(f"{folder}/{name}.{kind.lower()}", data)
    return download_link("essence-cells.zip", buffer.getvalue(), "application/zip")


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
