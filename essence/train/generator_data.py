"""What the generator learns from: whole aligned pictures, and tight crops of which only the inner
face counts.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from ..pictures.loading import load_image
from ..pictures.tensors import resample
from . import augment
from .common import (
    PHOTOGRAPHS,
    held_out,
    list_pictures,
    load_pictures,
    save_atomic,
    to_float,
    to_uint8,
)
from .data.attribute_teacher import place

STEP_SEEDS = 1_000_003
MARGIN, FEATHER = (
    4,
    9,
)  # pixels of 128: a crop's edge is not shown, and what lies inside it fades in


@dataclass(frozen=True, eq=False)
class Batch:
    """`goal` [B, 3, S, S] in [-1, 1]; `shown` [B, 1, S, S], 1 where the goal is to be met; `plain`
    [B]: whole and in its own light.
    """

    seen: Tensor  # the goal, spoilt a little: what the encoder gets
    goal: Tensor
    shown: Tensor
    plain: Tensor


@dataclass(frozen=True, eq=False)
class Pictures:
    """uint8 [N, 3, S, S], and for each the mask's index: `masks` uint8 [M, 1, S, S], the first one
    all ones.
    """

    pictures: Tensor
    mask: Tensor  # [N]
    masks: Tensor
    weights: Tensor  # [N], how often each is drawn

    def draw(self, count: int, rng: torch.Generator, lit_share: float) -> Batch:
        index = torch.multinomial(self.weights, count, replacement=True, generator=rng)
        flip = torch.rand(count, 1, 1, 1, generator=rng) < 0.5
        goal, shown = to_float(self.pictures[index]), self.masks[self.mask[index]].float() / 255
        goal, shown = (torch.where(flip, x.flip(3), x) for x in (goal, shown))
        goal, lit = augment.light(goal, rng, lit_share)
        seen = augment.misalign(goal, rng, 0.01, 0.01, 0.005)
        return Batch(seen, goal, shown, ~lit & (self.mask[index] == 0))

    def whole(self) -> Tensor:
        """The pictures without a mask."""
        return self.pictures[self.mask == 0]


def prepare(
    data: str, tight: str, out: Path, size: int, photographs: float, tight_share: float
) -> Pictures:
    """Read the folders; photographs are drawn `photographs` times as often, tight crops make up
    `tight_share` of a batch.
    """
    paths = list_pictures(data)
    held = held_out([path.name for path in paths])
    paths = [path for path in paths if path.name not in held]
    pictures = load_pictures(paths, size)
    weights = torch.tensor(
        [photographs if path.name.startswith(PHOTOGRAPHS) else 1.0 for path in paths]
    )
    mask, masks = (
        torch.zeros(len(paths), dtype=torch.long),
        torch.full((1, 1, size, size), 255, dtype=torch.uint8),
    )
    if not tight:
        return Pictures(pictures, mask, masks, weights)
    crops, own = _tight(Path(tight), out / "tight.pt", size)
    each = weights.sum() * tight_share / (1 - tight_share) / len(crops)
    return Pictures(
        torch.cat([pictures, crops]),
        torch.cat([mask, 1 + torch.arange(len(crops))]),
        torch.cat([masks, own]),
        torch.cat([weights, each.expand(len(crops))]),
    )


def _tight(folder: Path, kept: Path, size: int) -> tuple[Tensor, Tensor]:
    if kept.exists():
        found = torch.load(kept, weights_only=True)
        if found["pictures"].shape[-1] == size:
            return found["pictures"], found["masks"]
    pictures, masks = [], []
    for path in tqdm(list_pictures(folder), desc="tight crops", mininterval=5):
        picture, _, own = place(load_image(path))
        pictures.append(torch.from_numpy(picture.copy()).permute(2, 0, 1))
        masks.append(torch.from_numpy(np.array(own))[None])
    pictures, masks = (
        torch.stack(pictures),
        torch.cat([inner(part) for part in torch.stack(masks).split(512)]),
    )
    if size != pictures.shape[-1]:
        pictures, masks = (
            to_uint8(resample(to_float(x), size, "antialias")) for x in (pictures, masks)
        )
    save_atomic({"pictures": pictures, "masks": masks}, kept)
    return pictures, masks


def inner(own: Tensor) -> Tensor:
    """uint8 masks [N, 1, H, W]: the crop without its margin, its edge feathered."""
    outside = F.pad(255 - own.float(), (1, 1, 1, 1), value=255)
    grown = F.max_pool2d(outside, 2 * (MARGIN + FEATHER // 2) + 1, 1, MARGIN + FEATHER // 2)[
        ..., 1:-1, 1:-1
    ]
    return (
        (255 - F.avg_pool2d(grown, FEATHER, 1, FEATHER // 2, count_include_pad=False))
        .round()
        .to(torch.uint8)
    )
