"""What the bundled models are measured by: distances between sets of pictures, between faces, and
whether attributes moved over.
"""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..models.identity import face_descriptor
from ..pictures.loading import load_image
from ..train.common import held_out, list_pictures, precision, to_float
from ..train.data import attributes as A
from ..train.data.attribute_teacher import place, read_row

BATCH = 32
POOLED = (
    1,
    2,
    3,
    4,
)  # stages of the face network whose maps are averaged over space: 64 + 128 + 256 + 256 numbers
DOMINANT = 6  # attributes of a target, at most
# deviations from the ordinary that make an attribute a target's own, and that it must differ from
# the source
CLEAR = 1.0
MOVED = 1 / 3  # of the way to the target
JUDGED = 0.5  # attributes with a smaller weight are identity or noise


# ---- sets of pictures


@torch.no_grad()
def set_features(pictures: Tensor) -> Tensor:
    """uint8 [N, 3, H, W] to [N, 704]: the face network's maps after each stage but the first,
    averaged over space.
    """
    net, found = face_descriptor(), []
    for part in pictures.split(BATCH):
        with precision("cpu"):
            maps = net.features(to_float(part))
        found.append(torch.cat([maps[i].float().mean(dim=(2, 3)) for i in POOLED], 1))
    return torch.cat(found)


def kid(real: Tensor, made: Tensor) -> float:
    """Kernel distance (Binkowski et al. 2018, arXiv 1801.01401): unbiased squared MMD with the
    kernel (x.y / d + 1)^3, features [N, F] standardised by the real ones. About zero for two halves
    of one set."""
    mean, deviation = real.mean(0), real.std(0) + 1e-6
    x, y = ((part - mean) / deviation for part in (real.double(), made.double()))

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        return (a @ b.T / a.shape[1] + 1) ** 3

    def within(a: Tensor) -> Tensor:
        k = kernel(a, a)
        return (k.sum() - k.diagonal().sum()) / (len(a) * (len(a) - 1))

    return (within(x) + within(y) - 2 * kernel(x, y).mean()).item()


def fid(real: Tensor, made: Tensor) -> float:
    """Frechet distance (Heusel et al. 2017, arXiv 1706.08500) between Gaussians fitted to
    standardised features [N, F].
    """
    mean, deviation = real.mean(0), real.std(0) + 1e-6
    x, y = ((part - mean) / deviation for part in (real.double(), made.double()))
    a, b = torch.cov(x.T), torch.cov(y.T)
    values, axes = torch.linalg.eigh(a)
    root = axes @ torch.diag(values.clamp(min=0).sqrt()) @ axes.T
    overlap = torch.linalg.eigvalsh(root @ b @ root).clamp(min=0).sqrt().sum()
    return ((x.mean(0) - y.mean(0)).square().sum() + a.trace() + b.trace() - 2 * overlap).item()


# ---- faces


@torch.no_grad()
def chip_descriptors(pictures: np.ndarray) -> Tensor:
    """Aligned pictures uint8 [N, H, W, 3] to [N, 128] as dlib itself would describe them:
    landmarks, its own chip of 150 pixels with a margin of a quarter, then the network. These
    distances compare with dlib's line of 0.6 for one person; the whole crop's do not."""
    import dlib

    find, chips = A.predictor(), []
    for picture in pictures:
        picture = dlib.resize_image(np.ascontiguousarray(picture), max(1.0, 256 / picture.shape[0]))
        side = picture.shape[0]
        marks = find(picture, dlib.rectangle(*(round(edge * side) for edge in A.ALIGNED_BOX)))
        chips.append(
            torch.from_numpy(dlib.get_face_chip(picture, marks, 150, 0.25)).permute(2, 0, 1)
        )
    net = face_descriptor()
    return torch.cat([net(to_float(part)) for part in torch.stack(chips).split(BATCH)])


# ---- attributes


class Classifier:
    """Attributes of a face from landmarks, colours and ridge probes on the face network; no part of
    the image-text encoder.

    Scores are in deviations from the ordinary picture of `pictures`, uint8 [N, 3, 128, 128]."""

    def __init__(self, pictures: Tensor, probe: A.Probe | None):
        self.probe = probe
        weights = {
            **A.MEASURED,
            **A.PROBED,
            **dict.fromkeys(A.HAIRED, 0.0),
        }  # hair is judged by its measured colour
        self.judged = torch.tensor([weights[name] >= JUDGED for name in A.NAMES])
        raw = self.raw(pictures)
        self.centre = raw.median(0).values
        self.scale = ((raw.quantile(0.9, 0) - raw.quantile(0.1, 0)) / 2.56).clamp(min=1e-3)

    @torch.no_grad()
    def raw(self, pictures: Tensor) -> Tensor:
        found = []
        for part in pictures.split(BATCH):
            images, marks = (
                to_float(part),
                torch.from_numpy(A.landmarks(part.permute(0, 2, 3, 1).numpy())),
            )
            found.append(
                torch.cat(
                    [
                        A.measure(images, marks),
                        self.probed(images),
                        torch.zeros(len(part), len(A.HAIRED)),
                    ],
                    1,
                )
            )
        return torch.cat(found)

    def probed(self, images: Tensor) -> Tensor:
        if self.probe is None:
            return torch.zeros(len(images), len(A.PROBED))
        with precision("cpu"):
            features = A.face_features(images)
        return self.probe(features.float())

    def __call__(self, pictures: Tensor) -> Tensor:
        """[N, K] in deviations, softly limited to three."""
        return 3 * torch.tanh((self.raw(pictures) - self.centre) / self.scale / 3)

    def dominant(self, target: Tensor) -> Tensor:
        """Indices of the attributes [K] that make a target what it is: the judged ones furthest
        from the ordinary.
        """
        reach = target.abs() * self.judged
        order = reach.argsort(descending=True)[:DOMINANT]
        return order[reach[order] >= CLEAR]


def moved(before: Tensor, after: Tensor, target: Tensor, dominant: Tensor) -> Tensor:
    """Scores [N, K], [N, K], [K] to bool, one for each source and dominant attribute in which it
    differs from the target: did the essence take it at least a third of the way?"""
    gap = target[dominant] - before[:, dominant]
    change = after[:, dominant] - before[:, dominant]
    return (change * gap.sign() >= MOVED * gap.abs())[gap.abs() >= CLEAR]


def fit_probe(tight: Path, labels: Path, glasses: Path, aligned: Path, rows: int = 4000) -> A.Probe:
    """Ridge probes for age, sex and groups on tight crops with labels, and for glasses on aligned
    ones. Slow: a few minutes.
    """
    known: list[tuple[Tensor, dict[str, float]]] = []
    for folder, table, whole in ((tight, labels, False), (aligned, glasses, True)):
        with table.open(newline="") as file:
            held = (
                held_out([path.name for path in list_pictures(folder)]) if whole else set()
            )  # tight crops are not judged
            listed = [
                row
                for row in csv.DictReader(file)
                if row["file"] not in held and (folder / row["file"]).is_file()
            ]
        for row in listed[:: max(1, len(listed) // rows)]:
            image = load_image(folder / row["file"])
            picture = np.asarray(image.resize((A.SIDE, A.SIDE))) if whole else place(image)[0]
            known.append((torch.from_numpy(picture.copy()).permute(2, 0, 1), read_row(row)))
    values, told = (
        torch.zeros(len(known), len(A.PROBED)),
        torch.zeros(len(known), len(A.PROBED), dtype=torch.bool),
    )
    for i, (_, facts) in enumerate(known):
        for name, value in facts.items():
            values[i, list(A.PROBED).index(name)], told[i, list(A.PROBED).index(name)] = value, True
    features = []
    with torch.no_grad(), precision("cpu"):
        for part in torch.stack([picture for picture, _ in known]).split(BATCH):
            features.append(A.face_features(to_float(part)).half())
    return A.Probe.fit(torch.cat(features), values, told)
