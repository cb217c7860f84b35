"""Teach a finished essence encoder the target's own share: `python -m essence train share --data
DIR --start runs/essence/essence.safetensors --out runs/share`.

What `optimize` adds to the essence that it has learned, a share of the target's own w
(`methods.directions.own_shift`), needs the inverter. Here the network itself learns to say both: no
picture is rendered, and a step takes a second.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from ..errors import UserError
from ..library.checkpoints import load_essence_encoder, load_inverter, save_essence_encoder
from ..methods.directions import TAUGHT_SHARE
from ..models.e4e import EssenceEncoder, Inverter
from ..pictures.tensors import resample
from . import augment
from .common import (
    CsvLog,
    descend,
    described,
    list_training_pictures,
    load_pictures,
    parse_options,
    photograph_weights,
    step_generator,
    to_float,
    update_average,
    warm_cosine,
)
from .recording import set_rates

COLUMNS = ("step", "error", "held_out")
LOGGED = 20  # steps between two rows
KEPT_EVERY = 60  # one picture of so many is kept for measuring
LAST_RATE = 0.02
LIT = 0.5  # share of pictures in another light
SIDE = 96  # pixels, of the pictures that are kept


@dataclass(frozen=True)
class ShareOptions:
    data: str = field(metadata={"help": "folder of aligned pictures"})
    out: str = described("runs/share", "folder of the run: log, essence.safetensors")
    start: str = described(
        "weights/mini/essence.safetensors", "the essence encoder, as `train essence` leaves it"
    )
    inverter: str = "weights/mini/inverter.safetensors"
    share: float = described(
        TAUGHT_SHARE, "of the target's own w, as `optimize` adds; below zero takes it out again"
    )
    steps: int = 2000
    batch: int = 24
    oversample: float = described(2.0, "how much more often photographs are drawn")
    rate: float = 1e-3
    warmup: int = 50
    average: float = described(0.98, "decay of the moving average")
    seed: int = 0
    threads: int = described(0, "0: torch's choice")
    device: str = "cuda" if torch.cuda.is_available() else "cpu"

    def __post_init__(self) -> None:
        if self.steps < 1 or self.batch < 2:
            raise UserError("Give --steps from 1 and --batch from 2.")


@dataclass(frozen=True)
class Teachers:
    """The essence encoder as it was, and the inverter."""

    essence: EssenceEncoder
    inverter: Inverter
    share: float

    @torch.no_grad()
    def __call__(self, pictures: Tensor) -> Tensor:
        """b [B, L, D] of pictures [B, 3, S, S]: the essence and the share of the own w, in which
        all layers say the same.
        """
        own = self.inverter(sized(pictures, self.inverter)) - self.inverter.latent_avg
        b = self.essence(sized(pictures, self.essence))
        return b + self.share * own.float().mean(1, keepdim=True)


def sized(pictures: Tensor, network: EssenceEncoder | Inverter) -> Tensor:
    return resample(pictures, network.input_size, "antialias")


def relative_error(b: Tensor, wanted: Tensor) -> Tensor:
    """Mean square of the difference, as a part of that of what is wanted."""
    return (b - wanted).square().mean() / wanted.square().mean()


def train(options: ShareOptions) -> Path:
    """Run the recipe; returns the file of the encoder. Raises UserError, and BadFile for a start
    that is no essence encoder.
    """
    if options.threads:
        torch.set_num_threads(options.threads)
    device = options.device
    essence, inverter = load_essence_encoder(options.start), load_inverter(options.inverter)
    student = copy.deepcopy(essence.encoder).to(device).requires_grad_(True).train()
    average = copy.deepcopy(essence).to(device)
    teachers = Teachers(essence.to(device), inverter.to(device), options.share)
    paths = list_training_pictures(options.data)
    kept = paths[::KEPT_EVERY] if len(paths) > 1 else paths
    learned = [path for path in paths if path not in set(kept)] or paths
    held_out = to_float(load_pictures(kept, SIDE).to(device))
    wanted = teachers(held_out)
    pictures = load_pictures(learned, SIDE).to(device)
    weights = photograph_weights(learned, options.oversample).to(device)
    optimizer = torch.optim.Adam(student.parameters(), options.rate, (0.9, 0.99))
    out = Path(options.out)
    out.mkdir(parents=True, exist_ok=True)
    log = CsvLog(out / "log.csv", COLUMNS, 0)
    with tqdm(range(options.steps), "share", mininterval=5) as bar:
        for step in bar:
            factor = warm_cosine(step / options.steps, step, options.warmup, LAST_RATE)
            set_rates(optimizer, [options.rate * factor])
            shown, seen = draw(pictures, weights, options, step)
            b = student(sized(seen, essence)).float()
            error = relative_error(b, teachers(shown))
            descend(optimizer, error, max_norm=1.0)
            update_average(average.encoder, student, step + 1, options.average)
            if (step + 1) % LOGGED == 0 or step + 1 == options.steps:
                with torch.no_grad():
                    held = relative_error(average(sized(held_out, essence)), wanted).item()
                log.write({"step": step + 1, "error": error.item(), "held_out": held})
                bar.set_postfix(held_out=f"{held:.4f}", refresh=False)
    path = out / "essence.safetensors"
    save_essence_encoder(average.cpu(), path)
    return path


def draw(
    pictures: Tensor, weights: Tensor, options: ShareOptions, step: int
) -> tuple[Tensor, Tensor]:
    """What the teachers see in a step, [B, 3, S, S], and the same as a camera may have spoilt it,
    which the network learns from.
    """
    rng = step_generator(options.seed, step, pictures.device)
    index = torch.multinomial(weights, options.batch, replacement=True, generator=rng)
    mirrored = torch.rand(options.batch, generator=rng, device=pictures.device) < 0.5
    shown = to_float(pictures[index])
    shown = torch.where(mirrored.view(-1, 1, 1, 1), shown.flip(3), shown)
    shown, _ = augment.light(shown, rng, LIT)
    return shown, augment.degrade(shown, rng)


def main(argv: Sequence[str] | None = None) -> None:
    print(train(parse_options(ShareOptions, argv, __doc__)))


if __name__ == "__main__":
    main()
