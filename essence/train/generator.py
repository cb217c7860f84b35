"""Train a small StyleGAN2: `python -m essence train generator --data DIR --out runs/generator`.

An autoencoder with discriminators. A plain encoder gives w+ for real pictures, the generator
renders them; pixels, the face network's features and its descriptor are compared. Discriminators on
pixels and on those features see the same renders, and pictures of latents that nobody encoded. With
`--reconstruct 0` it is a plain StyleGAN2 training: discriminators alone, latents from the mapping
network.

Whatever the discriminators see without a reconstruction beside it deteriorates first: so w+ is
reconstructed with its deltas and without.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from ..library.checkpoints import save_generator
from ..library.safe_files import write_safetensors
from ..pictures.grids import grid
from ..pictures.tensors import to_pil
from .autoencoder import save_encoder
from .common import LOG_EVERY, CsvLog, parse_options, to_float
from .gaussian import RunningMoments, install_gaussian
from .generator_data import GeneratorDataset, GeneratorOptions, load_dataset
from .generator_state import TrainingState
from .generator_step import COLUMNS, MOMENT_PICTURES, TrainingStep
from .parallel import first_process_first, process_group, rank

SHEET_COLUMNS = 16


def train(options: GeneratorOptions) -> Path:
    """Run or resume the recipe; returns the folder with generator, latents and encoder. Raises
    UserError.
    """
    torch.set_num_threads(options.threads)
    with process_group(options.device) as device:
        state = TrainingState(options, device)
        with first_process_first():
            dataset = load_dataset(options, state.out / "tight.pt").to(device)
        step, first = TrainingStep(state, dataset), rank() == 0
        every = LOG_EVERY[torch.device(device).type == "cuda"]
        log = CsvLog(state.out / "log.csv", COLUMNS, state.clock["step"]) if first else None
        saved = drawn = state.clock["seconds"]
        with tqdm(
            total=options.steps,
            initial=state.clock["step"],
            desc="generator",
            disable=not first,
            mininterval=5,
        ) as bar:
            while state.progress < 1:
                row = step.run()
                bar.update()
                if log and state.clock["step"] % every == 0:
                    log.write(row)
                    figures = {"pixels": f"{row['pixels']:.3f}", "believe": f"{row['believe']:.2f}"}
                    bar.set_postfix(figures, refresh=False)
                if state.clock["seconds"] - saved > options.checkpoint_seconds:
                    state.save()
                    saved = state.clock["seconds"]
                if first and state.clock["seconds"] - drawn > options.sheet_seconds:
                    draw_sheet(state, dataset)
                    drawn = state.clock["seconds"]
        state.save()
        if first:
            export(state, dataset)
            draw_sheet(state, dataset)
    return Path(options.export or options.out)


@torch.no_grad()
def latent_moments(state: TrainingState, pictures: Tensor) -> RunningMoments:
    """Of the averaged encoder's w of pictures, uint8 [N, 3, S, S], and of their mirror images."""
    moments = RunningMoments(state.options.style_dim, decay=0).to(state.device)
    for part in tqdm(pictures.split(64), desc="latents", mininterval=5, leave=False):
        images = to_float(part).to(state.device)
        with state.precision():
            moments.add(state.averages[1](torch.cat([images, images.flip(3)]))[:, 0])
    return moments


@torch.no_grad()
def export(state: TrainingState, dataset: GeneratorDataset) -> None:
    """Write the averaged networks. The mapping network is the Gaussian of all whole pictures' w,
    unless it was trained itself.
    """
    moments = latent_moments(state, dataset.whole())
    mean, covariance = moments.mean.cpu(), moments.covariance().cpu()
    generator, encoder = (copy.deepcopy(network).cpu() for network in state.averages)
    if state.options.reconstruct:
        shifted = install_gaussian(generator, mean, covariance)
        encoder.latent.bias += shifted - mean
        mean = shifted
    for folder in {state.out, Path(state.options.export or state.out)}:
        folder.mkdir(parents=True, exist_ok=True)
        save_generator(generator, folder / "generator.safetensors")
        write_safetensors(
            folder / "latents.safetensors",
            {"mean": mean, "covariance": covariance},
            {"kind": "latents"},
        )
        save_encoder(encoder, folder / "encoder.safetensors")


@torch.no_grad()
def draw_sheet(state: TrainingState, dataset: GeneratorDataset) -> None:
    """Real pictures over their reconstructions, then two rows of samples at truncation 0.7, by the
    averaged networks.
    """
    generator, encoder = state.averages
    rng = torch.Generator(state.device).manual_seed(1)
    real = dataset.draw(SHEET_COLUMNS, rng, lit_share=0.0).goal
    moments = latent_moments(state, dataset.whole(MOMENT_PICTURES))
    moments.update_root()
    w = moments.mean + 0.7 * (moments.sample(2 * SHEET_COLUMNS, rng) - moments.mean)
    with state.precision():
        rows = [real, generator.synthesis(encoder(real)), generator.synthesis(w)]
    cells = to_pil(torch.cat([row.float().cpu() for row in rows]))
    rows = [cells[i : i + SHEET_COLUMNS] for i in range(0, len(cells), SHEET_COLUMNS)]
    sheet = grid(rows, cell=state.options.size, gap=0)
    sheet.save(state.out / f"sheet-{state.clock['step']:06d}.png")


def main(argv: Sequence[str] | None = None) -> None:
    train(parse_options(GeneratorOptions, argv, __doc__))


if __name__ == "__main__":
    main()
