"""What the image-text encoder learns from: pictures with their attributes, and the vector that its
image side should give for each.

Three kinds of pictures: aligned ones, tight crops placed into the same alignment (they show the
inner face only), and generated ones.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from ...errors import UserError
from ...models.latents import LatentAxes
from ...pictures.align import ffhq_square
from ...pictures.loading import load_image
from ..augment import light
from ..common import list_pictures, load_pictures, precision, to_float, to_uint8
from . import attributes as A

BATCH = 64
AGES = {
    "0-2": 1,
    "3-9": 6,
    "10-19": 15,
    "20-29": 25,
    "30-39": 35,
    "40-49": 45,
    "50-59": 55,
    "60-69": 65,
    "more than 70": 75,
}
GROUPS = {
    "white": "white",
    "caucasian": "white",
    "black": "black",
    "african": "black",
    "asian": "asian",
    "east asian": "asian",
    "southeast asian": "asian",
    "indian": "indian",
}
KINDS = ("aligned", "tight", "generated")


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

    @classmethod
    def join(cls, tables: Sequence[Table]) -> Table:
        names = ("kind", "pictures", "marks", "measured", "features", "outer")
        columns = {name: torch.cat([getattr(t, name) for t in tables]) for name in names}
        return cls(sum((t.names for t in tables), []), **columns)


# ---- pictures


def read_labels(path: Path, names: Sequence[str]) -> list[dict[str, str]]:
    """Rows of a CSV with a column `file`, in the order of `names`; {} for a picture without a row.
    Raises UserError.
    """
    if not path.is_file():
        raise UserError(f"There is no file {path}: give a CSV with a column 'file', or none.")
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    if rows and "file" not in rows[0]:
        raise UserError(f"{path.name} has no column 'file' (its columns: {', '.join(rows[0])}).")
    by_name = {
        row["file"]: {key: value.strip() for key, value in row.items() if value and key}
        for row in rows
    }
    missing = sorted(set(by_name) - set(names))
    if missing:
        raise UserError(
            f"{path.name} names {len(missing)} pictures that are not there, such as {missing[0]}: "
            "give the CSV of this folder, or remove those rows."
        )
    return [by_name.get(name, {}) for name in names]


def aligned_table(folder: Path) -> Table:
    paths = list_pictures(folder)
    pictures = load_pictures(paths, A.SIDE)
    return _table([path.name for path in paths], "aligned", pictures, _landmarks(pictures))


def tight_table(folder: Path) -> Table:
    paths = list_pictures(folder)
    placed = [place(load_image(path)) for path in tqdm(paths, desc="tight crops", mininterval=5)]
    pictures = torch.stack([torch.from_numpy(picture).permute(2, 0, 1) for picture, _, _ in placed])
    return _table(
        [path.name for path in paths],
        "tight",
        pictures,
        torch.stack([marks for _, marks, _ in placed]),
    )


def generated_table(
    render: Callable[[Tensor], Tensor], latents: Callable[[int], Tensor], count: int
) -> Table:
    """`latents(n)` gives w+ [n, L, D], `render` makes pictures of side 128 or more of them."""
    parts = []
    for start in tqdm(range(0, count, BATCH // 2), desc="rendering", mininterval=5):
        with torch.no_grad(), precision("cpu"):
            images = render(latents(min(BATCH // 2, count - start))).float()
        images = F.interpolate(images, (A.SIDE, A.SIDE), mode="bilinear", antialias=True)
        parts.append(images.clamp(-1, 1).add(1).mul(127.5).round().to(torch.uint8))
    pictures = torch.cat(parts)
    return _table(
        [f"generated {i}" for i in range(count)], "generated", pictures, _landmarks(pictures)
    )


def place(image: Image.Image) -> tuple[np.ndarray, Tensor, np.ndarray]:
    """A tight face chip into FFHQ alignment: uint8 [128, 128, 3], the edge pixels stretched
    outwards; its landmarks [68, 2]; and uint8 [128, 128], 255 where the chip itself lies."""
    pixels = np.asarray(image)
    marks = A.landmarks(pixels[None], A.TIGHT_BOX)[0].astype(np.float64)
    size = np.array([image.width, image.height])
    centre, x = ffhq_square(marks * size)  # half of the square's side, along its x axis
    y = np.array([-x[1], x[0]])
    border = max(image.size)
    corners = [centre + border + sx * x + sy * y for sx, sy in ((-1, -1), (-1, 1), (1, 1), (1, -1))]

    def cut(framed: np.ndarray) -> np.ndarray:
        quad = [v for corner in corners for v in corner]
        return np.asarray(
            Image.fromarray(framed).transform(
                (A.SIDE, A.SIDE), Image.Transform.QUAD, quad, Image.Resampling.BILINEAR
            )
        )

    placed = cut(np.pad(pixels, ((border, border), (border, border), (0, 0)), mode="edge"))
    own = cut(np.pad(np.full(pixels.shape[:2], 255, np.uint8), border))
    offset = marks * size - centre
    inside = np.stack([offset @ x, offset @ y], 1) / (x @ x) / 2 + 0.5
    return placed, torch.from_numpy(inside).float(), own


def _landmarks(pictures: Tensor) -> Tensor:
    rows = [
        A.landmarks(part.permute(0, 2, 3, 1).numpy())
        for part in tqdm(pictures.split(BATCH), desc="landmarks", mininterval=5)
    ]
    return torch.from_numpy(np.concatenate(rows))


def _table(names: list[str], kind: str, pictures: Tensor, marks: Tensor) -> Table:
    measured, features, outer = [], [], []
    for part, points in zip(
        tqdm(pictures.split(BATCH), desc=f"{kind} faces", mininterval=5),
        marks.split(BATCH),
        strict=True,
    ):
        images = to_float(part)
        measured.append(A.measure(images, points))
        with torch.no_grad(), precision("cpu"):
            features.append(A.face_features(images).half())
            whole = A.hair_features(images if kind != "tight" else images[:1]).half()
            outer.append(
                whole if kind != "tight" else torch.zeros_like(whole).expand(len(images), -1)
            )
    kinds = torch.full((len(names),), KINDS.index(kind))
    return Table(
        names, kinds, pictures, marks, torch.cat(measured), torch.cat(features), torch.cat(outer)
    )


def wide_latents(axes: LatentAxes, count: int, layers: int, rng: torch.Generator) -> Tensor:
    """w+ [count, L, D] beyond what people look like on average: 0.7 to 1.5 deviations, and a little
    of its own for every layer.
    """
    reach = torch.empty(count, 1, 1).uniform_(0.7, 1.5, generator=rng)
    common = torch.randn(count, 1, len(axes.axes), generator=rng) * reach
    own = torch.randn(count, layers, len(axes.axes), generator=rng) * 0.25
    return axes.mean + axes.shift(common, own)


def relight(table: Table, rng: torch.Generator) -> dict[str, Tensor]:
    """Every picture in another light, some of them as a print or a painting: uint8 pictures, and
    their measures at the old landmarks.
    """
    pictures, measured = torch.empty_like(table.pictures), torch.empty_like(table.measured)
    for rows in tqdm(torch.arange(len(table)).split(BATCH), desc="relighting", mininterval=5):
        images = stylise(light(to_float(table.pictures[rows]), rng, 0.8)[0], rng)
        pictures[rows] = to_uint8(images)
        measured[rows] = A.measure(images, table.marks[rows])
    return {"pictures": pictures, "measured": measured}


def stylise(images: Tensor, rng: torch.Generator, share: float = 0.1) -> Tensor:
    """On three small shares of the pictures: flat colours, brush-sized blur with hard edges, drawn
    contours.
    """
    kind = torch.rand(len(images), 1, 1, 1, generator=rng)
    levels = torch.randint(3, 7, (len(images), 1, 1, 1), generator=rng)
    flat = ((images + 1) / 2 * levels).round() / levels * 2 - 1
    soft = F.avg_pool2d(images, 5, 1, 2, count_include_pad=False)
    painted = (soft + 2.5 * (soft - F.avg_pool2d(soft, 9, 1, 4, count_include_pad=False))).clamp(
        -1, 1
    )
    lines = (
        (soft - F.avg_pool2d(images, 3, 1, 1, count_include_pad=False)).mean(1, keepdim=True).abs()
    )
    drawn = (soft - 8 * lines).clamp(-1, 1)
    images = torch.where(kind < share, flat, images)
    images = torch.where((kind > 0.3) & (kind < 0.3 + share), painted, images)
    return torch.where((kind > 0.6) & (kind < 0.6 + share), drawn, images)


# ---- labels for the probes


def probe_labels(labels: Sequence[dict[str, str]]) -> tuple[Tensor, Tensor]:
    """Values and known, [N, len(PROBED)]: what the labels say of age (0-1), sex, groups and
    eyewear.
    """
    values, known = (
        torch.zeros(len(labels), len(A.PROBED)),
        torch.zeros(len(labels), len(A.PROBED), dtype=torch.bool),
    )
    for i, row in enumerate(labels):
        for name, value in read_row(row).items():
            column = list(A.PROBED).index(name)
            values[i, column], known[i, column] = value, True
    return values, known


def hair_probe(table: Table, labels: Sequence[dict[str, str]], free: Tensor) -> Tensor:
    """Scores of the hair colours [N, 5], about -1 to 1, by a probe fitted on the labelled rows that
    are `free`; zeros without labels.
    """
    colours = [name.removesuffix(" hair") for name in A.HAIRED]
    classes = torch.tensor(
        [colours.index(row["hair"]) if row.get("hair") in colours else -1 for row in labels]
    )
    classes = torch.where(free, classes, -1)
    if len(set(classes.tolist()) - {-1}) < 2:
        return torch.zeros(len(table), len(colours))
    rows = A.balanced(classes)

    def seen(part: slice | Tensor) -> Tensor:
        return torch.cat([table.outer[part].float(), table.measured[part]], 1)

    values = F.one_hot(classes[rows], len(colours)).float() * 2 - 1
    probe = A.Probe.fit(seen(rows), values, torch.ones_like(values, dtype=torch.bool))
    found = torch.cat([probe(seen(part)) for part in torch.arange(len(table)).split(2048)])
    return found * (table.kind != KINDS.index("tight"))[:, None]


def read_row(row: dict[str, str]) -> dict[str, float]:
    found: dict[str, float] = {}
    if row.get("age") in AGES:
        found["age"] = AGES[row["age"]] / 75
    if sex := row.get("gender", "").lower():
        found["female"] = 2.0 * (sex == "female") - 1
    if group := row.get("race", row.get("group", "")).lower():
        found |= {
            name: 2.0 * (GROUPS.get(group) == name) - 1
            for name in ("white", "black", "asian", "indian")
        }
    if "glasses" in row or "glasses" in row.get("text", "").lower():
        found["glasses"] = -1.0 if row.get("glasses") == "no" else 1.0
    return found


# ---- the vector that the image side should give


@dataclass(frozen=True)
class TeacherOptions:
    decorrelate: float = 0.5  # 0: as measured, 1: no two attributes correlated
    layouts: int = 8  # directions of the thumbnail that the attributes do not explain
    layout_weight: float = 0.35  # deviation of each, where an attribute has about 0.3 to 1.3


@dataclass
class Teacher:
    """Raw attributes to targets: standardise, squash, take half of the correlations out, weight; a
    share of the picture's layout beside.
    """

    centre: Tensor  # [K]
    scale: Tensor  # [K]
    mix: Tensor  # [K, K]
    layout_mean: Tensor  # [T]
    layout_out: Tensor  # [K, T]: what the attributes say of the thumbnail already
    layout_axes: Tensor  # [T, R]
    fill: Tensor  # [K, K]: the outer attributes' expected scores given the inner ones

    @classmethod
    def fit(cls, raw: Tensor, pictures: Tensor, options: TeacherOptions) -> Teacher:
        """raw [N, K] of whole (not tight) pictures, uint8 pictures [N, 3, 128, 128]."""
        centre, spread = raw.median(0).values, raw.quantile(0.9, 0) - raw.quantile(0.1, 0)
        scale = (spread / 2.56).clamp(
            min=1e-3
        )  # 2.56 deviations lie between the 10th and the 90th percentile
        scores = squash((raw - centre) / scale)
        correlation = torch.corrcoef(scores.T).nan_to_num(0) + 1e-4 * torch.eye(len(A.NAMES))
        values, axes = torch.linalg.eigh(
            options.decorrelate * correlation + (1 - options.decorrelate) * torch.eye(len(A.NAMES))
        )
        weights = torch.tensor([*A.MEASURED.values(), *A.PROBED.values(), *A.HAIRED.values()])
        mix = axes @ torch.diag(values.rsqrt()) @ axes.T @ torch.diag(weights)
        return cls(centre, scale, mix, *_layout(scores, pictures, options), _fill(correlation))

    def scores(self, raw: Tensor, kind: Tensor) -> Tensor:
        """Standardised and squashed, [N, K]; what a tight crop cannot show is filled with its
        expectation.
        """
        scores = squash((raw - self.centre) / self.scale)
        return torch.where((kind == KINDS.index("tight"))[:, None], scores @ self.fill, scores)

    def targets(self, scores: Tensor, layout: Tensor) -> Tensor:
        """[N, K] and [N, R] to [N, K + R], about zero over people; not normalised."""
        return torch.cat([scores @ self.mix, layout], 1)

    def layout(self, scores: Tensor, pictures: Tensor) -> Tensor:
        return (
            thumbnails(pictures) - self.layout_mean - scores @ self.layout_out
        ) @ self.layout_axes


def squash(scores: Tensor) -> Tensor:
    """Softly limited to three deviations."""
    return 3 * torch.tanh(scores / 3)


def thumbnails(pictures: Tensor) -> Tensor:
    """uint8 [N, 3, 128, 128] to [N, 192] in [0, 1]: 8 x 8 pixels."""
    return torch.cat(
        [F.avg_pool2d(part.float(), A.SIDE // 8).flatten(1) / 255 for part in pictures.split(2048)]
    )


def _layout(
    scores: Tensor, pictures: Tensor, options: TeacherOptions
) -> tuple[Tensor, Tensor, Tensor]:
    thumbs = thumbnails(pictures)
    mean = thumbs.mean(0)
    gram = scores.T @ scores / len(scores) + 0.01 * torch.eye(scores.shape[1])
    out = torch.linalg.solve(gram, scores.T @ (thumbs - mean) / len(scores))
    _, deviations, axes = torch.linalg.svd(thumbs - mean - scores @ out, full_matrices=False)
    deviations = deviations[: options.layouts] / len(scores) ** 0.5
    return mean, out, axes[: options.layouts].T * options.layout_weight / (deviations + 1e-3)


def _fill(correlation: Tensor, ridge: float = 0.3) -> Tensor:
    """[K, K]: scores @ fill keeps the inner attributes and expects the outer ones from them."""
    outer = torch.tensor([name in A.OUTER for name in A.NAMES])
    inner = correlation[~outer][:, ~outer]
    fill = torch.diag((~outer).float())
    rows = torch.linalg.solve(inner + ridge * torch.eye(len(inner)), correlation[~outer][:, outer])
    fill[~outer.view(-1, 1) & outer.view(1, -1)] = rows.flatten()
    return fill


def raw_attributes(measured: Tensor, probed: Tensor) -> Tensor:
    return torch.cat([measured, probed], 1)


def mirrored(scores: Tensor) -> Tensor:
    """The scores of the flipped picture."""
    sign = torch.ones(len(A.NAMES))
    sign[[A.NAMES.index("yaw"), A.NAMES.index("light side")]] = -1
    return scores * sign
