"""White teeth for a finished generator: `python -m essence train teeth --generator FILE --latents
FILE --out FILE`.

A small generator that has seen few open mouths draws teeth that are greener than they are red. No
latent leads out of that, and the smiles of an essence show it. So its own pictures, with that
excess taken out of the mouth, are what it learns to draw: everything else stays as it was, pixel by
pixel, and so does the mapping network, and with it every latent. Needs no photographs, and some
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
from .common import parse_options, warm_cosine

# Of teeth in photographs, in [-1, 1]: red exceeds green by about 15 of 255, and green exceeds blue
# by no more.
WARMTH = 0.12
MOUTH_ONLY = {(0.5, 0.735): (0.16, 0.06)}
LAST_RATE, WARMUP = 0.05, 20
CANDIDATES = 2  # latents for each that is learned from: most of them keep their mouth shut


@dataclass(frozen=True)
class TeethOptions:
    generator: str
    latents: str
    out: str
    steps: int = 200
    batch: int = 8
    rate: float = 2e-4
    others: float = 5.0  # weight of the mean error of all pixels beside that of the teeth
    least: float = 0.7  # spread of the latents, in standard deviations, drawn between these two
    most: float = 1.4
    # how far layers differ, in standard deviations of each axis: as in refined photographs
    layers: float = 0.16
    seed: int = 0
    threads: int = 0  # 0: torch's choice


def whitened(images: Tensor, mouth: Tensor) -> Tensor:
    """Pictures [B, 3, S, S] in [-1, 1] without green or yellow teeth. `mouth` [1, 1, S, S] in [0,
    1] says where to look.

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


def latents(
    axes: LatentAxes, options: TeethOptions, layers: int, random: torch.Generator
) -> Tensor:
    """w+ [CANDIDATES * B, L, D] such as inversions and edits are: spread widely, and the layers
    apart.
    """
    b, k = CANDIDATES * options.batch, len(axes.axes)
    spread = options.least + (options.most - options.least) * torch.rand(b, 1, 1, generator=random)
    common, own = (
        torch.randn(b, 1, k, generator=random),
        torch.randn(b, layers, k, generator=random),
    )
    return axes.mean + axes.shift(spread * common, options.layers * own)


def polish(generator: Generator, axes: LatentAxes, options: TeethOptions) -> Generator:
    """A generator that draws what `generator` draws, with white teeth."""
    random = torch.Generator().manual_seed(options.seed)
    student = copy.deepcopy(generator).requires_grad_(True)
    student.style.requires_grad_(False)
    optimizer = torch.optim.Adam(
        [p for p in student.parameters() if p.requires_grad], lr=options.rate, betas=(0.9, 0.99)
    )
    mouth = losses.care(generator.config.size, 1.0, MOUTH_ONLY) - 1
    bar = tqdm(range(options.steps), desc="teeth")
    for step in bar:
        for group in optimizer.param_groups:
            group["lr"] = options.rate * warm_cosine(step / options.steps, step, WARMUP, LAST_RATE)
        w = latents(axes, options, generator.config.layers, random)
        with torch.no_grad():
            seen = generator.synthesis(w)
            wanted = whitened(seen, mouth)
        chosen = _lesson(seen, wanted, options.batch)
        loss = _loss(student.synthesis(w[chosen]), wanted[chosen], seen[chosen], options)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        bar.set_postfix(loss=f"{loss.item():.4f}")
    return student.requires_grad_(False)


def _loss(drawn: Tensor, wanted: Tensor, seen: Tensor, options: TeethOptions) -> Tensor:
    """The mean error of the pixels that shall change, which are few, and that of all."""
    error, change = (drawn - wanted).abs(), (wanted - seen).abs()
    return (error * change).sum() / change.sum().clamp(min=1e-6) + options.others * error.mean()


def _lesson(seen: Tensor, wanted: Tensor, batch: int) -> Tensor:
    """Indices of `batch` candidates: half of them those whose teeth must change most, the others as
    they came.
    """
    order = (wanted - seen).abs().mean(dim=(1, 2, 3)).argsort(descending=True)
    return torch.cat([order[: batch // 2], order[batch // 2 :].sort().values[: batch - batch // 2]])


def main(argv: Sequence[str] | None = None) -> None:
    options = parse_options(TeethOptions, argv, __doc__)
    if options.threads:
        torch.set_num_threads(options.threads)
    generator = load_generator(options.generator)
    generator.input.to(memory_format=torch.channels_last)
    polished = polish(generator, load_latents(options.latents), options)
    Path(options.out).parent.mkdir(parents=True, exist_ok=True)
    save_generator(polished, options.out, half=True)


if __name__ == "__main__":
    main()
