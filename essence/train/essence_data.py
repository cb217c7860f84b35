"""The essence recipe's options, and what a step learns from: targets of every kind, as a camera
may have spoilt them, and sources that nobody has seen before.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from tqdm import tqdm

from ..errors import UserError
from ..models.latents import LatentAxes
from ..models.model_set import ModelSet
from ..pictures.tensors import resample, to_pil, to_tensor
from . import augment
from .common import (
    cached_on_disk,
    described,
    list_training_pictures,
    load_pictures,
    photograph_weights,
    step_generator,
    to_float,
    to_uint8,
)
from .data.drawing import strokes

SPACES = ("axes", "w+")
VALIDATED_EVERY = 40  # one real picture of so many is kept for validation
DRAWN_FROM = 256  # pixels, side of the pictures that are drawn anew


@dataclass(frozen=True)
class EssenceOptions:
    data: str = field(metadata={"help": "folder of aligned pictures, the real targets"})
    out: str = described("runs/essence", "folder of the run: checkpoint, log, essence.safetensors")
    generator: str = "weights/mini/generator.safetensors"
    latents: str = "weights/mini/latents.safetensors"
    clip: str = "weights/mini/clip.safetensors"
    start: str = described("", "an inverter, or an essence encoder, of the same widths")
    space: str = described("axes", "where the network speaks: axes, of the latents, or w+")
    input_size: int = 64
    widths: tuple[int, int, int, int] = (24, 48, 96, 160)
    depths: tuple[int, int, int, int] = (1, 2, 3, 2)
    head_width: int = 64
    steps: int = 20_000
    minutes: float = described(60.0, "the schedule ends at whichever comes first")
    batch: int = described(8, "targets in a step")
    sources: int = described(3, "on which each of them is tried")
    pool: int = described(16, "fresh sources in a step, from which every target draws its own")
    fixed: bool = described(False, "the same sources in every step")
    most: int = described(0, "take so many real pictures alone; 0: all")
    oversample: float = described(2.0, "how much more often photographs are drawn")
    generated: float = described(0.25, "share of targets that the generator made")
    bank: int = described(2048, "how many of those to make")
    drawn: float = described(0.1, "share of real pictures done again with brush and pencil")
    drawings: int = described(48, "how many of those to make; one takes seconds")
    lit: float = described(0.5, "share of targets in another light")
    degraded: bool = described(True, "blur, noise, JPEG, misalignment: on what the network sees")
    lambda_transfer: float = 1.0
    lambda_consistency: float = 0.5
    lambda_norm: float = described(0.0, "of |b|, paper and released code")
    lambda_identity: float = described(
        12.0, "of the square of what a face goes beyond --distance from itself; 0: never measured"
    )
    distance: float = described(0.26, "by dlib's face network: as far as `optimize` goes")
    penalty: float = described(0.004, "of |u|^2 + layer-penalty * mean |v|^2, as in `optimize`")
    layer_penalty: float = 15.0
    reach: float = described(3.5, "standard deviations at which a source stops; 0: nowhere")
    rate: float = 1e-3
    linear_rate: float = described(5.0, "times the rate, for the last layers")
    warmup: int = 100
    average: float = described(0.98, "decay of the moving average, over ten steps")
    validated: int = described(32, "pictures that choose the best network; nobody learns from them")
    checkpoint_seconds: float = 180.0
    seed: int = 0
    threads: int = described(0, "0: torch's choice")
    half: bool = described(True, "bfloat16 where it is safe")
    device: str = "cuda" if torch.cuda.is_available() else "cpu"

    def __post_init__(self) -> None:
        if self.space not in SPACES:
            raise UserError(f"--space is one of {', '.join(SPACES)}, not '{self.space}'.")
        if not 1 <= self.sources <= self.pool:
            raise UserError(f"--sources must be from 1 to --pool ({self.pool}).")
        if self.generated + self.drawn > 1 or min(self.generated, self.drawn) < 0:
            raise UserError(
                "--generated and --drawn are shares of all targets: at most 1 together."
            )


class Batch(NamedTuple):
    """What one step learns from."""

    input: Tensor  # [B, 3, S, S] in [-1, 1], what the network sees of the targets
    picture: Tensor  # [B, 3, R, R], what the essence should bring
    w: Tensor  # [P, D], sources
    chosen: Tensor  # int [B, N], which of them each target is tried on


@dataclass(frozen=True, eq=False)
class EssenceDataset:
    """Targets, uint8 [M, 3, R, R], and the latents that sources are drawn from. Batches are made on
    the device where these lie.
    """

    pictures: Tensor
    weights: Tensor  # [M], how often each is drawn
    validation: Tensor  # uint8 [V, 3, R, R], never drawn
    axes: LatentAxes

    def draw(self, options: EssenceOptions, step: int) -> Batch:
        """The batch of a step, the same in every run."""
        device = self.pictures.device
        rng = step_generator(options.seed, step, device)
        index = torch.multinomial(self.weights, options.batch, replacement=True, generator=rng)
        mirrored = torch.rand(options.batch, generator=rng, device=device) < 0.5
        picture = to_float(self.pictures[index])
        picture = torch.where(mirrored.view(-1, 1, 1, 1), picture.flip(3), picture)
        if options.lit:
            picture, _ = augment.light(picture, rng, options.lit)
        seen = augment.degrade(picture, rng) if options.degraded else picture
        return Batch(
            resample(seen, options.input_size, "antialias"),
            picture,
            *self.people(options, options.batch, rng),
        )

    def people(
        self, options: EssenceOptions, count: int, rng: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """Sources [P, D], and which of them each of `count` targets is tried on, [count, N]."""
        if options.fixed:
            rng = torch.Generator(rng.device).manual_seed(options.seed)
        w = self.axes.sample(options.sources if options.fixed else options.pool, rng)
        shuffled = torch.rand(count, len(w), generator=rng, device=rng.device).argsort(1)
        return w, shuffled[:, : options.sources]

    def validation_batch(self, options: EssenceOptions) -> Batch:
        """The pictures kept for it as they are, each on people of its own, always the same: with
        two or three for all of them, what is best is best for those.
        """
        rng = torch.Generator(self.pictures.device).manual_seed(options.seed + 1)
        picture = to_float(self.validation)
        seen = resample(picture, options.input_size, "antialias")
        return Batch(seen, picture, *self.people(options, len(picture), rng))


def load_dataset(options: EssenceOptions, models: ModelSet, out: Path) -> EssenceDataset:
    """Read the real pictures, make the others; those are kept in the run's folder for a resumed
    run. Raises UserError for a folder without pictures.
    """
    side = max(options.input_size, models.clip.size)
    paths = list_training_pictures(options.data)[: options.most or None]
    kept = paths[::VALIDATED_EVERY][: options.validated] if len(paths) > 1 else []
    paths = [path for path in paths if path not in set(kept)]
    device, axes = models.device, models.latents
    real = load_pictures(paths, side)
    kinds = [(real, photograph_weights(paths, options.oversample))]
    shares = [1 - options.generated - options.drawn]
    if options.generated:
        made = cached_on_disk(
            out / "made.pt", lambda: generated_targets(options, models, side), options.bank
        )
        kinds.append((made, torch.ones(len(made))))
        shares.append(options.generated)
    if options.drawn:
        drawn = cached_on_disk(
            out / "drawn.pt", lambda: drawn_targets(options, paths, side), options.drawings
        )
        kinds.append((drawn, torch.ones(len(drawn))))
        shares.append(options.drawn)
    weights = [share * w / w.sum() for share, (_, w) in zip(shares, kinds, strict=True)]
    validation = load_pictures(kept or paths, side)
    pictures = torch.cat([pictures for pictures, _ in kinds])
    parts = (pictures, torch.cat(weights), validation)
    return EssenceDataset(*(part.to(device) for part in parts), axes)


@torch.no_grad()
def generated_targets(options: EssenceOptions, models: ModelSet, side: int) -> Tensor:
    """uint8 [bank, 3, side, side]: pictures of w from the latents' Gaussian."""
    w = models.latents.to("cpu").sample(options.bank, torch.Generator().manual_seed(options.seed))
    parts = models.generator.repeat(w).split(models.render_batch)
    shown = tqdm(parts, desc="generated targets", mininterval=5)
    return torch.cat(
        [to_uint8(resample(models.images(part), side, "antialias")).cpu() for part in shown]
    )


def drawn_targets(options: EssenceOptions, paths: Sequence[Path], side: int) -> Tensor:
    """uint8 [drawings, 3, side, side]: real pictures in oil and in pencil, by turns."""
    rng = torch.Generator().manual_seed(options.seed)
    chosen = torch.randint(len(paths), (options.drawings,), generator=rng).tolist()
    pictures = to_float(load_pictures([paths[i] for i in chosen], DRAWN_FROM))
    drawn = []
    for i, picture in enumerate(tqdm(pictures, desc="drawn targets", mininterval=5)):
        draw = strokes.pencil if i % 2 else strokes.oil
        drawn.append(resample(to_tensor(draw(to_pil(picture), i)), side, "antialias"))
    return to_uint8(torch.cat(drawn))
