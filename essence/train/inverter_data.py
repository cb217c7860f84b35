"""The inverter's options and its training data: real pictures, and generated ones with their own
latents; degraded on the way in.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path

import torch
from torch import Tensor

from ..errors import UserError
from ..models.latents import LatentAxes
from ..models.model_set import ModelSet
from . import augment
from .common import (
    cached_on_disk,
    list_training_pictures,
    load_pictures,
    photograph_weights,
    step_generator,
    to_float,
)

MIRRORED = 0.5  # share of the real pictures
# Standard deviations by which the layers of half of the generated pictures differ: those of real
# pictures do.
APART = 0.25


@dataclass(frozen=True)
class InverterOptions:
    data: str  # folder of aligned pictures
    out: str = "runs/inverter"
    export: str = ""  # also write the finished inverter there
    generator: str = "weights/mini/generator.safetensors"
    latents: str = "weights/mini/latents.safetensors"
    start: str = ""  # an inverter to begin with, of the same widths
    passes: int = 3  # looks at each picture and at what the generator made of the last answer
    input_size: int = 128
    fold: int = 2  # a quarter of the work of 1
    widths: tuple[int, int, int, int] = (24, 48, 96, 160)
    depths: tuple[int, int, int, int] = (1, 2, 3, 2)
    head_width: int = 64
    steps: int = 100_000
    minutes: float = 45.0  # the schedule ends at whichever comes first
    batch: int = 36
    generated: int = 6  # of the batch: pictures of the generator
    bank: int = 2048  # how many of those to render beforehand
    oversample: float = 1.5  # how much more often photographs are drawn
    rate: float = 1.5e-3
    # Times `rate`, for the last layers: their weights are scaled down as they run, and so are their
    # steps.
    linear_rate: float = 5.0
    warmup: int = 100
    average: float = 0.998
    # Of generated pictures: of what all layers share, in standard deviations, and of each layer.
    common_weight: float = 0.5
    common_floor: float = 0.5  # variance below which an axis counts no more
    layer_weight: float = 1.0
    seed: int = 0
    threads: int = 2
    device: str = "cuda" if torch.cuda.is_available() else "cpu"
    checkpoint_seconds: float = 180.0
    sheet_seconds: float = 540.0
    half: bool = True  # bfloat16 where it is safe

    def __post_init__(self) -> None:
        if self.passes < 1 or self.batch % self.passes:
            raise UserError(
                f"--batch must be a multiple of --passes, not {self.batch} and {self.passes}."
            )


@dataclass(frozen=True, eq=False)
class Batch:
    input: Tensor  # [B, 3, S, S] in [-1, 1], degraded
    goal: Tensor  # [B, 3, S, S]
    w: Tensor  # [B, L, D]
    known: Tensor  # [B], 1 where w is known, else 0

    def tensors(self) -> list[Tensor]:
        return [getattr(self, field.name) for field in fields(self)]


@dataclass(frozen=True, eq=False)
class InverterDataset:
    """Real pictures uint8 [N, 3, S, S]; generated pictures with their own w+ [M, L, D]. Batches are
    made on the device where these lie.
    """

    real: Tensor
    weights: Tensor  # [N], how often each is drawn
    generated: Tensor
    generated_w: Tensor

    def draw(self, options: InverterOptions, step: int) -> Batch:
        device = self.real.device
        rng = step_generator(options.seed, step, device)
        count = options.batch - options.generated
        index = torch.multinomial(self.weights, count, replacement=True, generator=rng)
        mirrored = torch.rand(count, 1, 1, 1, generator=rng, device=device) < MIRRORED
        real = to_float(self.real[index])
        real = torch.where(mirrored, real.flip(3), real)
        real, _ = augment.light(real, rng)
        of_bank = (options.generated,)
        other = torch.randint(len(self.generated), of_bank, generator=rng, device=device)
        goal = torch.cat([real, to_float(self.generated[other])])
        w = torch.cat([self.generated_w[:1].expand(count, -1, -1), self.generated_w[other]])
        known = (torch.arange(options.batch, device=device) >= count).float()
        # The places of a batch stand for passes: each kind of picture goes through all.
        order = torch.randperm(options.batch, generator=rng, device=device)
        return Batch(augment.degrade(goal[order], rng), goal[order], w[order], known[order])


def load_dataset(options: InverterOptions, models: ModelSet, out: Path) -> InverterDataset:
    """Read the pictures, render the generated ones; the slow part is kept in the run's folder for a
    resumed run. Raises UserError.
    """
    paths = list_training_pictures(options.data)
    real = load_pictures(paths, models.size)
    weights = photograph_weights(paths, options.oversample)
    generated_w = sample_latents(options, models.latents, models.latent_shape[0])

    def render() -> Tensor:
        return torch.from_numpy(models.render(generated_w)).permute(0, 3, 1, 2).contiguous()

    generated = cached_on_disk(out / "made.pt", render, options.bank)
    parts = (real, weights, generated, generated_w)
    return InverterDataset(*(part.to(options.device) for part in parts))


def sample_latents(options: InverterOptions, axes: LatentAxes, layers: int) -> Tensor:
    """w+ [bank, L, D] from the Gaussian, the layers of every second one apart."""
    rng, axes = torch.Generator().manual_seed(options.seed), axes.to("cpu")
    w = axes.sample(options.bank, rng)[:, None].expand(-1, layers, -1).clone()
    apart = torch.randn(len(w[::2]), layers, len(axes.axes), generator=rng) * APART
    w[::2] += apart @ axes.axes
    return w
