"""White teeth for a finished generator: `python -m essence train teeth --generator FILE --latents
FILE --out FOLDER`.

A small generator that has seen few open mouths draws teeth that are greener than they are red. No
latent leads out of that, and the smiles of an essence show it. So the generator learns to draw its
own pictures with that excess taken out of the mouth: everything else stays as it was, pixel by
pixel, and so does the mapping network, and with it every latent. It needs no photographs, and some
minutes on a CPU.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from ..library.checkpoints import load_generator, load_latents, save_generator
from ..methods import losses
from ..models.latents import LatentAxes
from ..models.stylegan2 import Generator
from .common import descend, parse_options, warm_cosine

# Of teeth in photographs, in [-1, 1]: red exceeds green by about 15 of 255, and green exceeds blue
# by no more.
WARMTH = 0.12
MOUTH_ONLY = {(0.5, 0.735): (0.16, 0.06)}
LAST_RATE, WARMUP = 0.05, 20
CANDIDATES = 2  # latents for each that is learned from: most of them keep their mouth shut


@dataclass(frozen=True)
class MouthColourOptions:
    generator: str
    latents: str
    out: str  # folder that generator.safetensors is written into
    steps: int = 200
    batch: int = 8
    rate: float = 2e-4
    others: float = 5.0  # weight of the mean error of all pixels beside that of the teeth
    # Spread of the latents, in standard deviations, drawn between these two.
    least: float = 0.7
    most: float = 1.4
    # How far layers differ, in standard deviations of each axis: as in refined photographs.
    layers: float = 0.16
    seed: int = 0
    threads: int = 0  # 0: torch's choice


def whiten_teeth(images: Tensor, mouth: Tensor) -> Tensor:
    """Pictures [B, 3, S, S] in [-1, 1] without green or yellow teeth; `mouth` [1, 1, S, S] in
    [0, 1] says where to look.

    Half of the excess of green over red goes from green to red, so that the brightness stays; lips
    and skin have none. Blue is raised where the teeth, and nothing else there is as bright and as
    grey, are yellow.
    """
    red, green, blue = images.unbind(1)
    excess = (green - red + WARMTH).clamp(min=0) * mouth[:, 0]
    red, green = red + excess / 2, green - excess / 2
    tooth = (excess / WARMTH).clamp(max=1)
    blue = blue + tooth * (green - blue - WARMTH).clamp(min=0)
    return torch.stack([red, green, blue], 1)


def sample_latents(
    axes: LatentAxes, options: MouthColourOptions, layers: int, rng: torch.Generator
) -> Tensor:
    """w+ [CANDIDATES * B, L, D] such as inversions and edits are: spread widely, and the layers
    apart.
    """
    count, k = CANDIDATES * options.batch, len(axes.axes)
    spread = torch.rand(count, 1, 1, generator=rng) * (options.most - options.least)
    common = torch.randn(count, 1, k, generator=rng) * (options.least + spread)
    own = torch.randn(count, layers, k, generator=rng) * options.layers
    return axes.mean + axes.shift(common, own)


def select_batch(images: Tensor, wanted: Tensor, batch: int) -> Tensor:
    """Indices of `batch` candidates: half of them those whose teeth must change most, the others as
    they came.
    """
    order = (wanted - images).abs().mean(dim=(1, 2, 3)).argsort(descending=True)
    others = order[batch // 2 :].sort().values
    return torch.cat([order[: batch // 2], others[: batch - batch // 2]])


def fine_tune(generator: Generator, axes: LatentAxes, options: MouthColourOptions) -> Generator:
    """A generator that draws what `generator` draws, with white teeth."""
    rng = torch.Generator().manual_seed(options.seed)
    student = copy.deepcopy(generator).requires_grad_(True)
    student.style.requires_grad_(False)
    trained = [p for p in student.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(trained, lr=options.rate, betas=(0.9, 0.99))
    mouth = losses.care(generator.config.size, 1.0, MOUTH_ONLY) - 1
    bar = tqdm(range(options.steps), desc="teeth")
    for step in bar:
        factor = warm_cosine(step / options.steps, step, WARMUP, LAST_RATE)
        optimizer.param_groups[0]["lr"] = options.rate * factor
        w = sample_latents(axes, options, generator.config.layers, rng)
        with torch.no_grad():
            images = generator.synthesis(w)
            wanted = whiten_teeth(images, mouth)
        chosen = select_batch(images, wanted, options.batch)
        images, wanted = images[chosen], wanted[chosen]
        # The mean error of the pixels that are to change, which are few, and that of all.
        error = (student.synthesis(w[chosen]) - wanted).abs()
        change = (wanted - images).abs()
        loss = (error * change).sum() / change.sum().clamp(min=1e-6)
        loss = loss + options.others * error.mean()
        descend(optimizer, loss)
        bar.set_postfix(loss=f"{loss.item():.4f}")
    return student.requires_grad_(False)


def train(options: MouthColourOptions) -> Path:
    """Run the recipe; returns the tuned generator's file."""
    if options.threads:
        torch.set_num_threads(options.threads)
    generator = load_generator(options.generator)
    generator.input.to(memory_format=torch.channels_last)
    tuned = fine_tune(generator, load_latents(options.latents), options)
    path = Path(options.out) / "generator.safetensors"
    path.parent.mkdir(parents=True, exist_ok=True)
    save_generator(tuned, path, half=True)
    return path


def main(argv: Sequence[str] | None = None) -> None:
    train(parse_options(MouthColourOptions, argv, __doc__))


if __name__ == "__main__":
    main()
