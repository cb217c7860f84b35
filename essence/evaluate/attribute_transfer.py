"""Whether the attributes of a target moved over to the sources, by landmarks, colours and probes on
the face network; no part of the image-text encoder judges.
"""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..pictures.loading import load_image
from ..train.common import held_out, list_pictures, precision, to_float
from ..train.data.attributes import HAIRED, LOOKED, MEASURED, NAMES, PROBED, measure_attributes
from ..train.data.labels import probe_targets
from ..train.data.probes import Probe, face_features
from ..train.face_landmarks import SIDE, align_tight_crop, landmarks

BATCH = 32
MOST_DOMINANT = 6  # attributes of a target
# Deviations from the ordinary that make an attribute a target's own, and that it must differ from
# the source.
CLEAR = 1.0
MOVED = 1 / 3  # of the way to the target
JUDGED = 0.5  # attributes with a smaller weight are identity or noise


class AttributeClassifier:
    """Attributes of a face in deviations from the ordinary one of `pictures`, uint8
    [N, 3, 128, 128]. Without a probe nothing is said of the attributes that need one.
    """

    def __init__(self, pictures: Tensor, probe: Probe | None):
        self.probe = probe
        # Hair is judged by its measured colour, and looks by nobody here.
        weights = {**MEASURED, **PROBED, **dict.fromkeys((*HAIRED, *LOOKED), 0.0)}
        self.judged = torch.tensor([weights[name] >= JUDGED for name in NAMES])
        raw = self.raw(pictures)
        self.centre = raw.median(0).values
        self.scale = ((raw.quantile(0.9, 0) - raw.quantile(0.1, 0)) / 2.56).clamp(min=1e-3)

    @torch.no_grad()
    def raw(self, pictures: Tensor) -> Tensor:
        """[N, K] in raw units."""
        found = []
        for part in pictures.split(BATCH):
            images = to_float(part)
            marks = torch.from_numpy(landmarks(part.permute(0, 2, 3, 1).numpy()))
            probed = torch.zeros(len(part), len(PROBED))
            if self.probe is not None:
                with precision("cpu"):
                    features = face_features(images)
                probed = self.probe(features.float())
            others = torch.zeros(len(part), len(HAIRED) + len(LOOKED))
            found.append(torch.cat([measure_attributes(images, marks), probed, others], 1))
        return torch.cat(found)

    def __call__(self, pictures: Tensor) -> Tensor:
        """[N, K] in deviations, softly limited to three."""
        return 3 * torch.tanh((self.raw(pictures) - self.centre) / self.scale / 3)

    def dominant(self, target: Tensor) -> Tensor:
        """Indices of the attributes [K] that make a target what it is: the judged ones furthest
        from the ordinary.
        """
        distance = target.abs() * self.judged
        order = distance.argsort(descending=True)[:MOST_DOMINANT]
        return order[distance[order] >= CLEAR]


def moved_attributes(before: Tensor, after: Tensor, target: Tensor, dominant: Tensor) -> Tensor:
    """Scores [N, K], [N, K], [K] to bool, one for each source and dominant attribute in which it
    differs from the target: did the essence take it at least a third of the way?
    """
    gap = target[dominant] - before[:, dominant]
    change = after[:, dominant] - before[:, dominant]
    return (change * gap.sign() >= MOVED * gap.abs())[gap.abs() >= CLEAR]


def fit_probe(
    tight: Path, tight_labels: Path, aligned: Path, glasses: Path, rows: int = 4000
) -> Probe:
    """Ridge probes for age, sex and groups on tight crops with labels, and for glasses on aligned
    pictures. Slow: a few minutes.
    """
    pictures: list[np.ndarray] = []
    labels: list[dict[str, str]] = []
    for folder, table, whole in ((tight, tight_labels, False), (aligned, glasses, True)):
        # Held-out aligned pictures are judged, tight crops are not.
        held = held_out([path.name for path in list_pictures(folder)]) if whole else set()
        with table.open(newline="") as file:
            listed = [
                row
                for row in csv.DictReader(file)
                if row["file"] not in held and (folder / row["file"]).is_file()
            ]
        for row in listed[:: max(1, len(listed) // rows)]:
            image = load_image(folder / row["file"])
            if whole:
                pictures.append(np.asarray(image.resize((SIDE, SIDE))))
            else:
                pictures.append(align_tight_crop(image)[0])
            labels.append(row)
    features = []
    with torch.no_grad(), precision("cpu"):
        for part in torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).split(BATCH):
            features.append(face_features(to_float(part)).half())
    return Probe.fit(torch.cat(features), *probe_targets(labels))
