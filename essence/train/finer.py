"""Train a level of twice the side for a finished generator: `python -m essence train finer --data
DIR --out runs/finer`.

What a small generator draws of a picture lies nowhere pixel on pixel on it, and a mean over all
that it may be is a blur: so pictures cannot teach the level directly. Instead a sharpener, a small
convolutional network, learns from real pictures, halved and made as soft as the generator draws, to
give them back. Then the level learns to make of the generator's feature maps what the sharpener
makes of its pictures, while a discriminator of patches compares it with real ones.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from ..library.checkpoints import load_generator, load_latents, save_finer_level
from ..library.components import fingerprint
from ..models.finer_level import FinerLevel
from ..models.style_layers import enlarge
from ..pictures.grids import grid
from ..pictures.tensors import to_pil
from .common import (
    CsvLog,
    cached_on_disk,
    descend,
    load_checkpoint,
    parse_options,
    save_atomic,
    step_generator,
    update_average,
    warm_cosine,
)
from .discriminators import LAZY, PixelDiscriminator, discriminator_loss, generator_loss, r1_penalty
from .finer_data import FinerOptions, load_data
from .sharpener import LAST_RATE, Sharpener, train_sharpener

COLUMNS = ("step", "seconds", "sharp", "believe", "doubt", "rate")
MARGIN = 6  # pixels at the edge of a patch that is cut out of feature maps: they miss their context
SHEET_COLUMNS = 12


class Trainer:
    """Level, its average, discriminator and clock: what a checkpoint holds."""

    def __init__(self, options: FinerOptions):
        """Raises UserError."""
        torch.manual_seed(options.seed)
        self.options, self.out, device = options, Path(options.out), options.device
        self.out.mkdir(parents=True, exist_ok=True)
        self.generator = load_generator(options.generator).to(device)
        self.axes = load_latents(options.latents).to(device)
        config = self.generator.config.finer(options.channels)
        self.data = load_data(options, config.size, self.out)
        self.sharpener = Sharpener(options.sharpener_width).to(device)
        self.sharpener.load_state_dict(
            cached_on_disk(self.out / "sharpener.pt", lambda: train_sharpener(options, self.data))
        )
        self.sharpener.requires_grad_(False)
        self.level = FinerLevel(config, fingerprint(self.generator)).to(device)
        with torch.no_grad():  # it begins as a plain enlargement, or nearly
            self.level.to_rgb.conv.weight.mul_(0.05)
        self.average = copy.deepcopy(self.level).requires_grad_(False)
        self.critic = PixelDiscriminator(options.patch).to(device)
        self.optimizers = [
            torch.optim.Adam(self.level.parameters(), options.rate, betas=(0.5, 0.99)),
            torch.optim.Adam(self.critic.parameters(), options.critic_rate, betas=(0.0, 0.99)),
        ]
        self.clock = {"step": 0, "seconds": 0.0}
        self.path = self.out / "checkpoint.pt"
        self.architecture = {"channels": options.channels, "patch": options.patch}
        if (state := load_checkpoint(self.path, self.architecture)) is not None:
            for name in ("level", "average", "critic"):
                getattr(self, name).load_state_dict(state[name])
            for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
                optimizer.load_state_dict(saved)
            self.clock = state["clock"]

    @property
    def progress(self) -> float:
        """0 to 1, by steps or by time, whichever is further."""
        by_time = self.clock["seconds"] / (60 * self.options.minutes)
        return min(1.0, max(self.clock["step"] / self.options.steps, by_time))

    def save(self) -> None:
        """Raises UserError."""
        state = {name: getattr(self, name).state_dict() for name in ("level", "average", "critic")}
        state["optimizers"] = [optimizer.state_dict() for optimizer in self.optimizers]
        save_atomic(state | {"clock": self.clock, "architecture": self.architecture}, self.path)

    def latents(self, count: int, rng: torch.Generator) -> Tensor:
        """w+ [count, L, D]: half of them the generator's own, more or less near its mean, the
        others of real pictures; a quarter is led astray as edits do.
        """
        layers = self.generator.config.layers
        spread = torch.rand(count, 1, generator=rng, device=rng.device) / 2 + 0.5
        mean = self.axes.mean
        drawn = mean + (self.axes.sample(count, rng) - mean) * spread
        w = drawn[:, None].repeat(1, layers, 1)
        if self.data.w is not None:
            index = torch.multinomial(self.data.weights, count // 2, True, generator=rng).cpu()
            w[: count // 2] = self.data.w[index].to(w)
        led = self.axes.sample(count, rng) - mean
        astray = torch.rand(count, 1, generator=rng, device=rng.device) < 0.25
        return w + (self.options.wander * led * astray)[:, None]

    def train_step(self) -> dict[str, float]:
        """One step of both sides; returns its row of the log."""
        options, began, step = self.options, time.monotonic(), self.clock["step"]
        rng = step_generator(options.seed, options.sharpener_steps + step, options.device)
        factor = warm_cosine(self.progress, step, options.warmup, LAST_RATE)
        for optimizer, rate in zip(
            self.optimizers, (options.rate, options.critic_rate), strict=True
        ):
            optimizer.param_groups[0]["lr"] = rate * factor

        w = self.latents(options.batch, rng)
        with torch.no_grad():
            maps = cut_patches(self.generator.maps(w), options, rng)
            goal = self.sharpener(maps[1])
        made = self.level(*maps, w[:, -1].repeat_interleave(options.patches, 0))
        inner = (..., slice(MARGIN, -MARGIN), slice(MARGIN, -MARGIN))
        sharp = (made - goal)[inner].abs().mean()
        doubt = self.train_critic(made.detach(), rng)
        believe = generator_loss(self.critic(made))
        weight = options.critics * min(1.0, max(0.0, step / max(1, options.critics_after) - 1))
        descend(self.optimizers[0], options.sharp * sharp + weight * believe, max_norm=5.0)

        self.clock = {
            "step": step + 1,
            "seconds": self.clock["seconds"] + time.monotonic() - began,
        }
        update_average(self.average, self.level, step + 1, options.average)
        terms = {"sharp": sharp, "believe": believe, "doubt": doubt}
        row = {name: term.item() for name, term in terms.items()}
        return row | self.clock | {"rate": options.rate * factor}

    def train_critic(self, made: Tensor, rng: torch.Generator) -> Tensor:
        """One step of the discriminator of patches."""
        penalised = self.clock["step"] % LAZY == 0
        real = self.data.patches(len(made), made.shape[-1], rng).requires_grad_(penalised)
        self.critic.requires_grad_(True)
        scores = self.critic(torch.cat([made, real]))
        real_scores = [each[len(made) :] for each in scores]
        loss = discriminator_loss(real_scores, [each[: len(made)] for each in scores])
        penalty = r1_penalty(real_scores, real) if penalised else loss.new_zeros(())
        descend(self.optimizers[1], loss + self.options.r1 * LAZY / 2 * penalty)
        self.critic.requires_grad_(False)
        return loss.detach()


def cut_patches(
    maps: Sequence[Tensor], options: FinerOptions, rng: torch.Generator
) -> list[Tensor]:
    """Feature maps and pictures [B, ., H, W] to patches of both at the same random places,
    [B patches, ., patch / 2, patch / 2].
    """
    side, count = options.patch // 2, len(maps[0]) * options.patches
    last = maps[0].shape[-1] - side
    places = torch.randint(0, last + 1, (count, 2), generator=rng, device=rng.device).tolist()

    def cut(x: Tensor) -> Tensor:
        found = [
            x[i // options.patches, :, top : top + side, left : left + side]
            for i, (top, left) in enumerate(places)
        ]
        return torch.stack(found)

    return [cut(x) for x in maps]


@torch.no_grad()
def draw_sheet(trainer: Trainer) -> Image.Image:
    """What the generator draws, enlarged, what the sharpener makes of it, and the level: of latents
    of real pictures, if there are any, and of its own.
    """
    rng = step_generator(trainer.options.seed, 0, trainer.options.device)
    w, rows = trainer.latents(2 * SHEET_COLUMNS, rng), []
    for part in w.split(SHEET_COLUMNS):
        maps = trainer.generator.maps(part)
        pictures = (enlarge(maps[1]), trainer.sharpener(maps[1]))
        rows += [*pictures, trainer.average(*maps, part[:, -1])]
    return grid([to_pil(row.cpu()) for row in rows], cell=trainer.level.config.size, gap=0)


@torch.no_grad()
def moderated(level: FinerLevel, kept: float) -> FinerLevel:
    """A level that adds this share of it to a plain enlargement: its colours are added, not
    demodulated.
    """
    level = copy.deepcopy(level)
    level.to_rgb.conv.weight.mul_(kept)
    level.to_rgb.bias.mul_(kept)
    return level


def train(options: FinerOptions) -> Path:
    """Run or resume the recipe; returns the folder with `finer.safetensors`. Raises UserError."""
    torch.set_num_threads(options.threads)
    trainer = Trainer(options)
    log = CsvLog(trainer.out / "log.csv", COLUMNS, trainer.clock["step"])
    saved = trainer.clock["seconds"]
    with tqdm(total=options.steps, initial=trainer.clock["step"], mininterval=5) as bar:
        while trainer.progress < 1:
            row = trainer.train_step()
            bar.update()
            log.write(row)
            bar.set_postfix(sharp=f"{row['sharp']:.4f}", refresh=False)
            if trainer.clock["seconds"] - saved > options.checkpoint_seconds:
                saved = trainer.clock["seconds"]
                trainer.save()
                draw_sheet(trainer).save(trainer.out / "sheet.png")
    trainer.save()
    draw_sheet(trainer).save(trainer.out / "sheet.png")
    level = moderated(trainer.average, options.kept).cpu()
    for folder in {trainer.out, Path(options.export or trainer.out)}:
        folder.mkdir(parents=True, exist_ok=True)
        save_finer_level(level, folder / "finer.safetensors")
    return Path(options.export or options.out)


def main(argv: Sequence[str] | None = None) -> None:
    train(parse_options(FinerOptions, argv, __doc__))


if __name__ == "__main__":
    main()
