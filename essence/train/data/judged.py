"""The attributes by which essences are judged: those that the judge reads, and those that landmarks
and colours measure without any training.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ...models.judge import READ, Judge
from ..common import to_float
from ..face_landmarks import landmarks
from .attributes import MEASURED, measure_attributes, opponent_colours, patches

BATCH = 64
# What landmarks and colours say of a face; nothing of its background and clothes.
FROM_LANDMARKS = ("smile", "mouth open", "mouth width", "eye open", "brow height")
FROM_COLOURS = (
    "hair light",
    "hair red",
    "hair yellow",
    "hair long",
    "fringe",
    "skin light",
    "skin red",
    "skin yellow",
    "beard",
    "moustache",
    "lip red",
)
JUDGED = (*READ, *FROM_LANDMARKS, "gaze", *FROM_COLOURS)


@torch.no_grad()
def judged_attributes(judge: Judge, pictures: Tensor) -> Tensor:
    """The attributes JUDGED in raw units, [N, K], of aligned pictures uint8 [N, 3, 128, 128]."""
    columns = [list(MEASURED).index(name) for name in (*FROM_LANDMARKS, *FROM_COLOURS)]
    found = []
    for part in pictures.split(BATCH):
        marks = torch.from_numpy(landmarks(part.permute(0, 2, 3, 1).contiguous().numpy()))
        images = to_float(part)
        measured = measure_attributes(images, marks)[:, columns]
        shapes, colours = measured.split((len(FROM_LANDMARKS), len(FROM_COLOURS)), 1)
        found.append(torch.cat([judge(images), shapes, gaze(images, marks)[:, None], colours], 1))
    return torch.cat(found)


def gaze(images: Tensor, marks: Tensor) -> Tensor:
    """Where the dark of the eyes lies between their corners, [N]: -0.5 left to 0.5 right in the
    picture, the mean of both.
    """
    found = []
    for name in ("eye_l", "eye_r"):
        light = opponent_colours(patches(images, marks)[name])[..., 0].unflatten(1, (7, 7)).mean(1)
        dark = (light.amax(1, keepdim=True) - light) ** 2  # [N, 7], a profile across the eye
        places = torch.linspace(-0.5, 0.5, dark.shape[1])
        found.append((dark * places).sum(1) / dark.sum(1).clamp(min=1e-6))
    return sum(found) / 2


def repeatability(first: Tensor, again: Tensor) -> Tensor:
    """Correlation of each attribute [N, K] between pictures and degraded copies of them, [K]; zero
    for one that does not vary.
    """
    a, b = first - first.mean(0), again - again.mean(0)
    scale = (a.square().sum(0) * b.square().sum(0)).sqrt()
    return ((a * b).sum(0) / scale.clamp(min=1e-12)).clamp(min=0)
