"""Measure the bundled models: does an essence move over, does the person stay, do photographs come back?

    python -m essence.train.evaluate --out runs/evaluation [--data DIR]

Learns every target in assets/targets on the first four bundled sources and applies it to people who took no part; with a folder of
aligned photographs, also inverts those of its pictures that no training saw. Writes tables (Markdown, on stdout) and sheets (PNG).
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from ..images import grid, load_image, resample, to_tensor
from ..methods.optimize import PRESETS, OptimizeOptions
from ..methods.refine import RefineOptions
from ..metrics import distance_between_people, distances
from ..studio import Studio, bundled, last
from ..types import Essence, Source
from .common import held_out

LEARNED_ON = 4
UNSEEN_SEEDS = range(1000, 1016)  # faces that took part in nothing


def essences(studio: Studio, options: OptimizeOptions, out: Path, targets: list[Path]) -> None:
    """A row for each target: CLIP cosine on unseen sources before and after, descriptor distance to the own source."""
    sources = [studio.source(path, path.stem, aligned=True) for path in bundled("sources")[:LEARNED_ON]]
    unseen = [studio.random_source(seed) for seed in UNSEEN_SEEDS]
    before = _describe(studio, np.stack([np.asarray(s.inversion) for s in unseen]))
    apart = distance_between_people(before)
    print("| target | cosine before | after | distance to own source | worst | seconds |\n|---|---|---|---|---|---|")
    rows, learned = [], []
    for path in targets:
        target, _ = studio.crop_target(load_image(path), aligned=True)
        began = time.perf_counter()
        essence = last(studio.extract(target, sources, options, name=path.stem)).result
        seconds = time.perf_counter() - began
        low, high = studio.cosines(target, unseen, essence)
        moved = distances(before, _describe(studio, studio.blend(unseen, [essence], [1.0])[0]))
        print(f"| {path.stem} | {low:.2f} | {high:.2f} | {moved.mean():.2f} | {moved.max():.2f} | {seconds:.1f} |", flush=True)
        rows.append((low, high, moved.mean().item(), seconds))
        learned.append(essence)
    low, high, moved, seconds = (statistics.mean(column) for column in zip(*rows, strict=True))
    print(f"| **mean** | {low:.2f} | {high:.2f} | {moved:.2f} | | {seconds:.1f} |")
    print(f"\nBetween different people among these sources: {apart:.2f}.")
    _sheet(studio, sources[:2] + unseen[:8], learned).save(out / "essences.png")


def _sheet(studio: Studio, sources: list[Source], learned: list[Essence]) -> Image.Image:
    return studio.grid(sources, learned, [1.0] * len(learned))


def photographs(studio: Studio, data: Path, out: Path, steps: tuple[int, ...] = (0, 25, 100), count: int = 20) -> None:
    """Held-out portraits, through the inverter alone and with refinement."""
    names = sorted(path.name for path in data.rglob("*.jpg"))
    kept = [name for name in sorted(held_out(names)) if name.startswith("congress")][:count]
    crops = [studio.crop(load_image(next(data.rglob(name))), aligned=True) for name in kept]
    truth = torch.cat([resample(to_tensor(crop), studio.models.size, "antialias") for crop in crops])
    descriptors = studio.models.describe(truth)
    apart = distance_between_people(descriptors)
    print("| refinement steps | descriptor distance | worst | mean absolute error | seconds each |\n|---|---|---|---|---|")
    columns: list[list[Image.Image | None]] = [list(crops)]
    for n in steps:
        began = time.perf_counter()
        found = [last(studio.invert(crop, "p", RefineOptions(steps=n))).result for crop in tqdm(crops, leave=False)]
        seconds = (time.perf_counter() - began) / len(crops)
        pictures = torch.cat([to_tensor(source.inversion) for source in found])
        d = distances(descriptors, studio.models.describe(pictures))
        error = (pictures - truth).abs().mean().item() / 2
        print(f"| {n} | {d.mean():.3f} | {d.max():.3f} | {error:.3f} | {seconds:.2f} |", flush=True)
        columns.append([source.inversion for source in found])
    print(f"\n{len(kept)} portraits kept out of training; between different people among them: {apart:.2f}.")
    grid([list(row) for row in zip(*columns, strict=True)], cell=studio.models.size).save(out / "photographs.png")


def _describe(studio: Studio, pictures: np.ndarray) -> torch.Tensor:
    return studio.models.describe(torch.tensor(pictures).permute(0, 3, 1, 2) / 127.5 - 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/evaluation"))
    parser.add_argument("--data", type=Path, help="folder with the aligned training pictures")
    parser.add_argument("--preset", choices=PRESETS, default="essence")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    studio = Studio("mini")
    essences(studio, PRESETS[arguments.preset], arguments.out, bundled("targets"))
    if arguments.data:
        photographs(studio, arguments.data, arguments.out)


if __name__ == "__main__":
    main()
