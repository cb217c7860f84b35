"""Tables of pictures and what is measured of them.

Four kinds of pictures: aligned ones, tight crops put into the same alignment (they show the inner
face only), generated ones and drawn ones.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from ...models.latents import LatentAxes
from ...pictures.loading import load_image
from ..augment import light
from ..common import list_pictures, load_pictures, precision, to_float, to_uint8
from ..face_landmarks import SIDE, align_tight_crop, landmarks
from . import drawings
from .attributes import measure_attributes
from .probes import face_features, hair_features

BATCH = 64
PAINTED, CARTOON = "painted ", "cartoon "  # how names of drawn pictures begin
COLUMNS = ("kind", "pictures", "marks", "measured", "features", "outer")  # of a table
KINDS = ("aligned", "tight", "generated", "drawn")


@dataclass
class Table:
    """Pictures and what is known of them; every tensor has N rows."""

    names: list[str]
    kind: Tensor  # index into KINDS
    pictures: Tensor  # uint8 [N, 3, 128, 128]
    marks: Tensor  # [N, 68, 2]
    measured: Tensor  # [N, len(MEASURED)]
    features: Tensor  # float16 [N, F], of the face network
    outer: Tensor  # float16 [N, F'], of the whole picture; zeros for tight crops

    def __len__(self) -> int:
        return len(self.names)

    def take(self, rows: list[int]) -> Table:
        columns = {name: getattr(self, name)[rows] for name in COLUMNS}
        return Table([self.names[i] for i in rows], **columns)

    @classmethod
    def join(cls, tables: Sequence[Table]) -> Table:
        columns = {name: torch.cat([getattr(t, name) for t in tables]) for name in COLUMNS}
        return cls(sum((t.names for t in tables), []), **columns)


def aligned_table(folder: Path) -> Table:
    """Of a folder of aligned pictures. Raises UserError."""
    paths = list_pictures(folder)
    pictures = load_pictures(paths, SIDE)
    return _measured([path.name for path in paths], "aligned", pictures, _landmarks(pictures))


def tight_table(folder: Path) -> Table:
    """Of a folder of tight crops. Raises UserError."""
    paths = list_pictures(folder)
    aligned = [
        align_tight_crop(load_image(path))
        for path in tqdm(paths, desc="tight crops", mininterval=5)
    ]
    pictures = [torch.from_numpy(picture).permute(2, 0, 1) for picture, _, _ in aligned]
    marks = [marks for _, marks, _ in aligned]
    names = [path.name for path in paths]
    return _measured(names, "tight", torch.stack(pictures), torch.stack(marks))


def generated_table(
    render: Callable[[Tensor], Tensor], latents: Callable[[int], Tensor], count: int
) -> Table:
    """`latents(n)` gives w+ [n, L, D], `render` makes pictures of side 128 or more of them."""
    parts = []
    for start in tqdm(range(0, count, BATCH // 2), desc="rendering", mininterval=5):
        with torch.no_grad(), precision("cpu"):
            images = render(latents(min(BATCH // 2, count - start))).float()
        images = F.interpolate(images, (SIDE, SIDE), mode="bilinear", antialias=True)
        parts.append(to_uint8(images))
    pictures, names = torch.cat(parts), [f"generated {i}" for i in range(count)]
    return _measured(names, "generated", pictures, _landmarks(pictures))


def drawn_table(photographs: Table, count: int) -> Table:
    """Of `count` of the photographs painted over, and half as many cartoons."""
    chosen = torch.arange(0, len(photographs), max(1, len(photographs) // count))[:count]
    names = [f"{PAINTED}{photographs.names[i]}" for i in chosen.tolist()]
    copies = drawings.painted(photographs.pictures[chosen])
    painted = _measured(names, "drawn", copies, photographs.marks[chosen])
    faces = drawings.cartoons(count // 2)
    names = [f"{CARTOON}{i}" for i in range(len(faces))]
    return Table.join([painted, _measured(names, "drawn", faces, _landmarks(faces))])


def _landmarks(pictures: Tensor) -> Tensor:
    parts = tqdm(pictures.split(BATCH), desc="landmarks", mininterval=5)
    rows = [landmarks(part.permute(0, 2, 3, 1).numpy()) for part in parts]
    return torch.from_numpy(np.concatenate(rows))


def _measured(names: list[str], kind: str, pictures: Tensor, marks: Tensor) -> Table:
    """The table of pictures and their landmarks."""
    measured, features, outer = [], [], []
    parts = tqdm(pictures.split(BATCH), desc=f"{kind} faces", mininterval=5)
    for part, points in zip(parts, marks.split(BATCH), strict=True):
        images = to_float(part)
        measured.append(measure_attributes(images, points))
        with torch.no_grad(), precision("cpu"):
            features.append(face_features(images).half())
            whole = hair_features(images if kind != "tight" else images[:1]).half()
        if kind == "tight":
            whole = torch.zeros_like(whole).expand(len(images), -1)
        outer.append(whole)
    return Table(
        names,
        torch.full((len(names),), KINDS.index(kind)),
        pictures,
        marks,
        torch.cat(measured),
        torch.cat(features),
        torch.cat(outer),
    )


def wide_latents(axes: LatentAxes, count: int, layers: int, rng: torch.Generator) -> Tensor:
    """w+ [count, L, D] beyond what people look like on average: 0.7 to 1.5 deviations, and a little
    of its own for every layer.
    """
    reach = torch.empty(count, 1, 1).uniform_(0.7, 1.5, generator=rng)
    common = torch.randn(count, 1, len(axes.axes), generator=rng) * reach
    own = torch.randn(count, layers, len(axes.axes), generator=rng) * 0.25
    return axes.mean + axes.shift(common, own)


def relight(pictures: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """Every picture, uint8, in another light; and which of them look like a print or a painting
    now, bool [N].
    """
    images, drawn = stylise(light(to_float(pictures), rng, 0.8)[0], rng)
    return to_uint8(images), drawn


def stylise(images: Tensor, rng: torch.Generator, share: float = 0.05) -> tuple[Tensor, Tensor]:
    """On three small shares of the pictures: flat colours, brush-sized blur with hard edges, drawn
    contours. Returns the pictures and which of them were changed.
    """
    kind = torch.rand(len(images), 1, 1, 1, generator=rng, device=rng.device)
    levels = torch.randint(3, 7, (len(images), 1, 1, 1), generator=rng, device=rng.device)
    flat = ((images + 1) / 2 * levels).round() / levels * 2 - 1
    soft = F.avg_pool2d(images, 5, 1, 2, count_include_pad=False)
    sharper = soft - F.avg_pool2d(soft, 9, 1, 4, count_include_pad=False)
    painted = (soft + 2.5 * sharper).clamp(-1, 1)
    edges = soft - F.avg_pool2d(images, 3, 1, 1, count_include_pad=False)
    lines = edges.mean(1, keepdim=True).abs()
    drawn = (soft - 8 * lines).clamp(-1, 1)
    for k, changed in enumerate((flat, painted, drawn)):
        images = torch.where((kind >= k * share) & (kind < (k + 1) * share), changed, images)
    return images, kind.flatten() < 3 * share
