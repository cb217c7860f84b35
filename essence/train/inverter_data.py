"""What the inverter learns from: real pictures with a teacher's latents, generated pictures with
their own; spoilt on the way in.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from tqdm import tqdm

from ..models.latents import LatentAxes
from ..models.stylegan2 import Generator
from . import augment, parallel
from .autoencoder import load_encoder
from .common import (
    PHOTOGRAPHS,
    held_out,
    list_pictures,
    load_pictures,
    precision,
    save_atomic,
    to_float,
    to_uint8,
)

if TYPE_CHECKING:
    from .inverter import InverterOptions

MIRRORED = 0.3  # share of the real pictures
# each step draws from its own seed, so that a resumed run sees what an uninterrupted one would
STEP_SEEDS = 1_000_003


@dataclass(frozen=True, eq=False)
class Lessons:
    """Real pictures uint8 [N, 3, S, S] with the teacher's w+ [N, L, D] or None; generated ones with
    their own latents.

    The teacher has seen no mirrored picture (it is the slowest network here): those are learned
    from by rendering alone.
    """

    real: Tensor
    weights: Tensor  # [N], how often each is drawn
    real_w: Tensor | None
    made: Tensor
    made_w: Tensor

    def draw(self, options: InverterOptions, step: int) -> Batch:
        rng = torch.Generator().manual_seed(
            (options.seed * 1000 + parallel.rank()) * STEP_SEEDS + step
        )
        count = options.batch - options.generated
        index = torch.multinomial(self.weights, count, replacement=True, generator=rng)
        mirrored = torch.rand(count, generator=rng) < MIRRORED
        x = to_float(self.real[index])
        x = torch.where(mirrored.view(-1, 1, 1, 1), x.flip(3), x)
        x, lit = augment.light(x, rng)
        other = torch.randint(len(self.made), (options.generated,), generator=rng)
        goal = torch.cat([x, to_float(self.made[other])])
        trust = torch.where(lit, options.lit_weight, 1.0) * ~mirrored
        known = (
            self.real_w[index].float()
            if self.real_w is not None
            else self.made_w[:1].expand(count, -1, -1)
        )
        trust = trust if self.real_w is not None else torch.zeros(count)
        w = torch.cat([known, self.made_w[other].float()])
        return Batch(
            augment.degrade(goal, rng), goal, w, torch.cat([trust, torch.ones(options.generated)])
        )


@dataclass(frozen=True, eq=False)
class Batch:
    seen: Tensor  # [B, 3, S, S], spoilt
    goal: Tensor  # [B, 3, S, S]
    w: Tensor  # [B, L, D]
    trust: Tensor  # [B], weight of the latent terms

    def to(self, device: str) -> Batch:
        return Batch(*(getattr(self, field.name).to(device) for field in fields(self)))


def prepare(options: InverterOptions, generator: Generator, axes: LatentAxes, out: Path) -> Lessons:
    """Read the pictures, ask the teacher, render the bank; the slow parts are kept in the run's
    folder for a resumed run.
    """
    paths = list_pictures(options.data)
    held = held_out([path.name for path in paths])
    paths = [path for path in paths if path.name not in held]
    real = load_pictures(paths, generator.config.size)
    weights = torch.tensor(
        [options.oversample if path.name.startswith(PHOTOGRAPHS) else 1.0 for path in paths]
    )
    real_w = (
        _kept(out / "teacher.pt", lambda: _teach(options, real), len(real))
        if options.teacher
        else None
    )
    made_w = _made_latents(options, axes, real_w, generator.config.layers)
    made = _kept(out / "made.pt", lambda: _render(options, generator, made_w), options.bank)
    return Lessons(real, weights, real_w, made, made_w)


def _kept(path: Path, make: Callable[[], Tensor], count: int) -> Tensor:
    """What was prepared for `count` pictures, from the run's folder, or made and put there."""
    if path.exists():
        kept = torch.load(path, weights_only=True)
        if len(kept) == count:
            return kept
    made = make()
    save_atomic(made, path)
    return made


@torch.no_grad()
def _render(options: InverterOptions, generator: Generator, w: Tensor) -> Tensor:
    pictures = []
    for part in tqdm(w.split(32), desc="generated pictures"):
        part = part.to(generator.input.input.device)
        with precision(part.device, options.half):
            pictures.append(to_uint8(generator.synthesis(part)).cpu())
    return torch.cat(pictures)


@torch.no_grad()
def _teach(options: InverterOptions, real: Tensor) -> Tensor:
    teacher = load_encoder(options.teacher).to(memory_format=torch.channels_last)
    shape = teacher(to_float(real[:1])).shape[1:]
    latents = torch.empty(len(real), *shape, dtype=torch.float16)
    for first in tqdm(range(0, len(real), 64), desc="teacher"):
        with precision("cpu", options.half):
            latents[first : first + 64] = teacher(to_float(real[first : first + 64]))
    return latents


def _made_latents(
    options: InverterOptions, axes: LatentAxes, real_w: Tensor | None, layers: int
) -> Tensor:
    """w from the Gaussian; three in four with the deltas of some real picture, so that they lie
    where real ones do.
    """
    rng = torch.Generator().manual_seed(options.seed)
    w = axes.to("cpu").sample(options.bank, rng)[:, None].expand(-1, layers, -1)
    if real_w is None:
        return w.contiguous()
    like = real_w[torch.randint(len(real_w), (options.bank,), generator=rng)].float()
    share = (torch.rand(options.bank, 1, 1, generator=rng) < 0.75).float()
    return w + share * (like - like[:, :1])
