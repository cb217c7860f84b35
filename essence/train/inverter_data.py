"""The inverter's options and its training data: real pictures with a teacher's latents, generated
pictures with their own; degraded on the way in.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from ..models.latents import LatentAxes
from ..models.stylegan2 import Generator
from . import augment
from .autoencoder import load_encoder
from .common import (
    cached_on_disk,
    list_training_pictures,
    load_pictures,
    photograph_weights,
    precision,
    step_generator,
    to_float,
    to_uint8,
)

MIRRORED = 0.3  # share of the real pictures


@dataclass(frozen=True)
class InverterOptions:
    data: str  # folder of aligned pictures
    out: str = "runs/inverter"
    export: str = ""  # also write the finished inverter there
    generator: str = "weights/mini/generator.safetensors"
    latents: str = "weights/mini/latents.safetensors"
    teacher: str = ""  # the autoencoder's encoder: latents of real pictures
    start: str = ""  # an inverter to begin with, of the same widths
    # A quarter of the work of 128; what is too small to be seen there, refinement finds.
    input_size: int = 64
    widths: tuple[int, int, int, int] = (24, 48, 96, 160)
    depths: tuple[int, int, int, int] = (1, 2, 3, 2)
    head_width: int = 64
    steps: int = 100_000
    minutes: float = 45.0  # the schedule ends at whichever comes first
    batch: int = 32
    generated: int = 8  # of the batch: pictures of the generator
    bank: int = 2048  # how many of those to render beforehand
    oversample: float = 4.0  # how much more often photographs are drawn
    # Share of the schedule that learns latents alone: rendering costs more than the encoder.
    latents_first: float = 0.35
    rendered: int = 14  # of the batch at the end: compared as pictures; starts at 4
    # Share of the schedule over which the pictures' weight grows: at once, it would undo the
    # latents for a while.
    fade: float = 0.1
    rate: float = 1.5e-3
    # Times `rate`, for the last layers: their weights are scaled down as they run, and so are their
    # steps.
    linear_rate: float = 5.0
    warmup: int = 100
    average: float = 0.998
    common_weight: float = 0.5
    common_floor: float = 0.5  # variance below which an axis counts no more
    layer_weight: float = 1.0
    # Of the latent terms where the light was changed: the teacher saw another picture.
    lit_weight: float = 0.3
    picture_weight: float = 1.0
    pixels: float = 2.0
    features: float = 1.0
    descriptor: float = 2.0
    delta_weight: float = 0.01
    seed: int = 0
    threads: int = 2
    device: str = "cuda" if torch.cuda.is_available() else "cpu"
    checkpoint_seconds: float = 180.0
    sheet_seconds: float = 540.0
    half: bool = True  # bfloat16 where it is safe


@dataclass(frozen=True, eq=False)
class Batch:
    input: Tensor  # [B, 3, S, S] in [-1, 1], degraded
    goal: Tensor  # [B, 3, S, S]
    w: Tensor  # [B, L, D]
    latent_weight: Tensor  # [B], of the latent terms of the loss

    def tensors(self) -> list[Tensor]:
        return [getattr(self, field.name) for field in fields(self)]


@dataclass(frozen=True, eq=False)
class InverterDataset:
    """Real pictures uint8 [N, 3, S, S] with the teacher's w+ [N, L, D] or None; generated pictures
    with their own latents. Batches are made on the device where these lie.

    The teacher has seen no mirrored picture (it is the slowest network here): those are learned
    from by rendering alone.
    """

    real: Tensor
    weights: Tensor  # [N], how often each is drawn
    real_w: Tensor | None
    generated: Tensor
    generated_w: Tensor

    def draw(self, options: InverterOptions, step: int) -> Batch:
        device = self.real.device
        rng = step_generator(options.seed, step, device)
        count = options.batch - options.generated
        index = torch.multinomial(self.weights, count, replacement=True, generator=rng)
        mirrored = torch.rand(count, generator=rng, device=device) < MIRRORED
        real = to_float(self.real[index])
        real = torch.where(mirrored.view(-1, 1, 1, 1), real.flip(3), real)
        real, lit = augment.light(real, rng)
        other = torch.randint(
            len(self.generated), (options.generated,), generator=rng, device=device
        )
        goal = torch.cat([real, to_float(self.generated[other])])
        if self.real_w is not None:
            real_w = self.real_w[index].float()
            weight = torch.where(lit, options.lit_weight, 1.0) * ~mirrored
        else:
            real_w, weight = (
                self.generated_w[:1].expand(count, -1, -1),
                torch.zeros(count, device=device),
            )
        w = torch.cat([real_w, self.generated_w[other].float()])
        weight = torch.cat([weight, torch.ones(options.generated, device=device)])
        return Batch(augment.degrade(goal, rng), goal, w, weight)


def load_dataset(
    options: InverterOptions, generator: Generator, axes: LatentAxes, out: Path
) -> InverterDataset:
    """Read the pictures, ask the teacher, render the generated ones; the slow parts are kept in the
    run's folder for a resumed run. Raises UserError.
    """
    paths = list_training_pictures(options.data)
    real = load_pictures(paths, generator.config.size)
    weights = photograph_weights(paths, options.oversample)
    real_w = None
    if options.teacher:
        real_w = cached_on_disk(
            out / "teacher.pt", lambda: teacher_latents(options, real), len(real)
        )
    generated_w = sample_latents(options, axes, real_w, generator.config.layers)
    generated = cached_on_disk(
        out / "made.pt", lambda: render_latents(options, generator, generated_w), options.bank
    )
    parts = (real, weights, real_w, generated, generated_w)
    return InverterDataset(*(part if part is None else part.to(options.device) for part in parts))


@torch.no_grad()
def teacher_latents(options: InverterOptions, real: Tensor) -> Tensor:
    """The teacher's w+ [N, L, D] of uint8 pictures, float16."""
    device, latents = options.device, []
    teacher = load_encoder(options.teacher).to(device, memory_format=torch.channels_last)
    for part in tqdm(real.split(64), desc="teacher"):
        with precision(device, options.half):
            latents.append(teacher(to_float(part.to(device))).half().cpu())
    return torch.cat(latents)


def sample_latents(
    options: InverterOptions, axes: LatentAxes, real_w: Tensor | None, layers: int
) -> Tensor:
    """w+ [bank, L, D] from the Gaussian; three in four with the deltas of some real picture, so
    that they lie where real ones do.
    """
    rng = torch.Generator().manual_seed(options.seed)
    w = axes.to("cpu").sample(options.bank, rng)[:, None].expand(-1, layers, -1)
    if real_w is None:
        return w.contiguous()
    real = real_w[torch.randint(len(real_w), (options.bank,), generator=rng)].float()
    keep = (torch.rand(options.bank, 1, 1, generator=rng) < 0.75).float()
    return w + keep * (real - real[:, :1])


@torch.no_grad()
def render_latents(options: InverterOptions, generator: Generator, w: Tensor) -> Tensor:
    """uint8 [N, 3, S, S] of w+ [N, L, D]."""
    device, pictures = generator.latent_avg.device, []
    for part in tqdm(w.split(32), desc="generated pictures"):
        with precision(device, options.half):
            pictures.append(to_uint8(generator.synthesis(part.to(device))).cpu())
    return torch.cat(pictures)
