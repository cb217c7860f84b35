"""The generator's options and its training pictures: whole aligned pictures, and tight crops of
which only the inner face counts.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from ..pictures.loading import load_image
from ..pictures.tensors import resample
from . import augment
from .common import (
    list_pictures,
    list_training_pictures,
    load_pictures,
    photograph_weights,
    save_atomic,
    to_float,
    to_uint8,
)
from .face_landmarks import align_tight_crop

# Pixels of 128: the margin of a tight crop is not shown, and what lies inside it fades in.
MARGIN, FEATHER = 4, 9


@dataclass(frozen=True)
class GeneratorOptions:
    data: str  # folder of aligned pictures
    out: str = "runs/generator"
    export: str = ""  # also write generator and latents into this folder
    # Folder of tight face crops (FairFace's layout), of which the inner face is learned.
    tight: str = ""
    start: str = ""  # generator to begin with
    start_encoder: str = ""  # its encoder
    size: int = 128
    style_dim: int = 256
    n_mlp: int = 4
    channels: tuple[int, ...] = (256, 256, 192, 128, 64, 32)  # at 4, 8, ..., size
    steps: int = 1_000_000
    minutes: float = 90.0  # the schedule ends at whichever comes first
    batch: int = 12  # real pictures
    sampled: int = 4  # further renders, of latents that no picture gave
    photographs: float = 3.0  # how much more often photographs are drawn
    tight_share: float = 0.3  # of a batch
    lit_share: float = 0.3  # of the pictures get another light
    deltas: float = 0.4  # share of the pictures whose layers keep their own w
    rate: float = 2.5e-4
    last_rate: float = 0.03  # of `rate`, at the end
    critic_rate: float = 1e-3
    warmup: int = 200
    critics_after: int = 200  # steps; then their weight grows over as many again
    average: float = 0.998
    reconstruct: float = 1.0
    pixels: float = 2.5
    coarse: float = 1.5  # pixels at a quarter of the side
    features: float = 0.5
    descriptor: float = 0.3
    care: float = 2.0  # how much more eyes and mouth count
    critics: float = 0.25
    r1: float = 0.5
    delta_weight: float = 0.01
    mixing: float = 0.3  # share of the sampled latents made of two people
    seed: int = 0
    threads: int = 2
    device: str = "cuda" if torch.cuda.is_available() else "cpu"
    half: bool = True  # bfloat16 where it is safe
    checkpoint_seconds: float = 300.0
    sheet_seconds: float = 900.0


class Batch(NamedTuple):
    """Pictures [B, 3, S, S] in [-1, 1], and what is to be learned of them."""

    input: Tensor  # what the encoder gets: the goal, slightly misaligned
    goal: Tensor
    mask: Tensor  # [B, 1, S, S], 1 where the goal is to be met
    unaltered: Tensor  # bool [B]: whole and in its own light


@dataclass(frozen=True, eq=False)
class GeneratorDataset:
    """Pictures and their masks; batches are made on the device where these lie."""

    pictures: Tensor  # uint8 [N, 3, S, S]
    mask: Tensor  # [N], an index into `masks`
    masks: Tensor  # uint8 [M, 1, S, S], the first one all 255
    weights: Tensor  # [N], how often each picture is drawn

    def to(self, device: str) -> GeneratorDataset:
        return GeneratorDataset(*(getattr(self, field.name).to(device) for field in fields(self)))

    def draw(self, count: int, rng: torch.Generator, lit_share: float) -> Batch:
        index = torch.multinomial(self.weights, count, replacement=True, generator=rng)
        flip = torch.rand(count, 1, 1, 1, generator=rng, device=rng.device) < 0.5
        goal, mask = to_float(self.pictures[index]), self.masks[self.mask[index]].float() / 255
        goal, mask = (torch.where(flip, x.flip(3), x) for x in (goal, mask))
        goal, lit = augment.light(goal, rng, lit_share)
        misaligned = augment.misalign(goal, rng, 0.01, 0.01, 0.005)
        return Batch(misaligned, goal, mask, ~lit & (self.mask[index] == 0))

    def whole(self, at_most: int | None = None) -> Tensor:
        """The pictures without a mask: all of them, or about `at_most` evenly spaced ones."""
        whole = self.pictures[self.mask == 0]
        return whole if at_most is None else whole[:: max(1, len(whole) // at_most)]


def load_dataset(options: GeneratorOptions, cache: Path) -> GeneratorDataset:
    """Read the folders; aligned tight crops are kept at `cache`. Raises UserError."""
    paths, size = list_training_pictures(options.data), options.size
    pictures = load_pictures(paths, size)
    weights = photograph_weights(paths, options.photographs)
    mask = torch.zeros(len(paths), dtype=torch.long)
    masks = torch.full((1, 1, size, size), 255, dtype=torch.uint8)
    if not options.tight:
        return GeneratorDataset(pictures, mask, masks, weights)
    crops, crop_masks = load_tight_crops(Path(options.tight), cache, size)
    share = options.tight_share / (1 - options.tight_share)
    weight = weights.sum() * share / len(crops)
    return GeneratorDataset(
        torch.cat([pictures, crops]),
        torch.cat([mask, 1 + torch.arange(len(crops))]),
        torch.cat([masks, crop_masks]),
        torch.cat([weights, weight.expand(len(crops))]),
    )


def load_tight_crops(folder: Path, cache: Path, size: int) -> tuple[Tensor, Tensor]:
    """Aligned crops uint8 [N, 3, size, size] and their masks uint8 [N, 1, size, size]."""
    if cache.exists():
        kept = torch.load(cache, weights_only=True)
        if kept["pictures"].shape[-1] == size:
            return kept["pictures"], kept["masks"]
    aligned = [
        align_tight_crop(load_image(path))
        for path in tqdm(list_pictures(folder), desc="tight crops", mininterval=5)
    ]
    pictures = torch.from_numpy(np.stack([crop for crop, _, _ in aligned])).permute(0, 3, 1, 2)
    covered = torch.from_numpy(np.stack([mask for _, _, mask in aligned]))[:, None]
    pictures = pictures.contiguous()
    masks = torch.cat([feathered(part) for part in covered.split(512)])
    if size != pictures.shape[-1]:
        pictures, masks = (
            to_uint8(resample(to_float(x), size, "antialias")) for x in (pictures, masks)
        )
    save_atomic({"pictures": pictures, "masks": masks}, cache)
    return pictures, masks


def feathered(masks: Tensor) -> Tensor:
    """uint8 masks [N, 1, H, W] without their margin, their edges feathered."""
    outside = F.pad(255 - masks.float(), (1, 1, 1, 1), value=255)
    reach = MARGIN + FEATHER // 2
    grown = F.max_pool2d(outside, 2 * reach + 1, 1, reach)[..., 1:-1, 1:-1]
    soft = F.avg_pool2d(grown, FEATHER, 1, FEATHER // 2, count_include_pad=False)
    return (255 - soft).round().to(torch.uint8)
