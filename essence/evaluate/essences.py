"""Measure the bundled essences: does an essence move over, does the person stay, do photographs
come back?

    python -m essence evaluate essences --out runs/evaluation [--data DIR]

Learns every target in assets/targets on the first four bundled sources and applies it to people who
took no part; with a folder of aligned photographs, also inverts those of its pictures that no
training saw. Writes tables (Markdown, on stdout) and sheets (PNG).
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from tqdm import tqdm

from ..errors import UserError
from ..methods import PRESETS
from ..methods.refine import RefineOptions
from ..pictures.grids import grid
from ..pictures.loading import load_image
from ..pictures.tensors import resample, to_tensor
from ..runtime.folders import bundled
from ..studio import Studio, last
from ..train.common import PHOTOGRAPHS, held_out
from ..values import Source
from .metrics import distance_between_people, identity_distance
from .unseen import UnseenPeople, learning_sources, random_people

UNSEEN = 16  # generated faces
PORTRAITS = 20


def evaluate_targets(
    studio: Studio, options: Any, out: Path, groups: Mapping[str, UnseenPeople]
) -> None:
    """Print a row for each bundled target, learned on the first bundled sources and applied to each
    group; write the sheets.
    """

    def print_row(name: str, figures: Sequence[float]) -> None:
        cells = [*(f"{figure:.2f}" for figure in figures[:-1]), f"{figures[-1]:.1f}"]
        print(f"| {name} | " + " | ".join(cells) + " |", flush=True)

    sources = learning_sources(studio)
    titles = [f" {name}: cosine before | after | distance |" for name in groups]
    print("| target |" + "".join(titles) + " seconds |")
    print("|---|" + "---|---|---|" * len(groups) + "---|")
    rows, learned = [], []
    for path in bundled("targets"):
        target = studio.target(path, aligned=True)
        began = time.perf_counter()
        essence = last(studio.extract(target, sources, options)).result
        seconds = time.perf_counter() - began
        figures = []
        for group in groups.values():
            _, before = group.measure(target, group.pictures)
            distance, after = group.measure(target, group.edits(essence))
            figures += [before, after, distance]
        rows.append([*figures, seconds])
        learned.append(essence)
        print_row(path.stem, rows[-1])
    print_row("**mean**", [statistics.mean(column) for column in zip(*rows, strict=True)])
    for name, group in groups.items():
        apart = distance_between_people(group.descriptors)
        who = f"{name} ({len(group.sources)})"
        print(f"\nDistance between different people, {who}: {apart:.2f}.")
        sheet = studio.grid(group.sources[:10], learned, [1.0] * len(learned))
        sheet.save(out / f"essences-{name}.png")


def held_out_portraits(data: Path, count: int = PORTRAITS) -> list[Image.Image]:
    """Photographs that the recipes hold out."""
    paths = {path.name: path for path in sorted(data.rglob("*.jpg"))}
    names = [name for name in sorted(held_out(list(paths))) if name.startswith(PHOTOGRAPHS)][:count]
    return [load_image(paths[name]) for name in names]


def evaluate_inversion(studio: Studio, crops: Sequence[Image.Image], out: Path) -> list[Source]:
    """Print how held-out portraits come back through the inverter alone and with the default
    refinement, write the sheet, and return the refined ones.
    """
    size = studio.models.size
    truth = torch.cat([resample(to_tensor(crop), size, "antialias") for crop in crops])
    descriptors = studio.models.describe(truth)
    print("| refinement steps | descriptor distance | worst | mean absolute error | seconds each |")
    print("|---|---|---|---|---|")
    columns, found = [list(crops)], []
    for steps in (0, RefineOptions().steps):
        began = time.perf_counter()
        options = RefineOptions(steps=steps)
        found = [
            studio.sources([crop], aligned=True, refine=options)[0]
            for crop in tqdm(crops, leave=False)
        ]
        seconds = (time.perf_counter() - began) / len(crops)
        pictures = torch.cat([to_tensor(source.inversion) for source in found])
        distance = identity_distance(descriptors, studio.models.describe(pictures))
        error = (pictures - truth).abs().mean().item() / 2
        figures = f"{distance.mean():.3f} | {distance.max():.3f} | {error:.3f} | {seconds:.2f}"
        print(f"| {steps} | {figures} |", flush=True)
        columns.append([source.inversion for source in found])
    apart = distance_between_people(descriptors)
    print(
        f"\n{len(crops)} portraits kept out of training; between different people among them: "
        f"{apart:.2f}.\n"
    )
    grid(columns, cell=size).save(out / "photographs.png")
    return found


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("runs/evaluation"))
    parser.add_argument("--data", type=Path, help="folder with the aligned training pictures")
    parser.add_argument("--preset", choices=PRESETS, default="essence")
    arguments = parser.parse_args(argv)
    arguments.out.mkdir(parents=True, exist_ok=True)
    studio = Studio("mini")
    groups = {"generated": UnseenPeople(studio, random_people(studio, UNSEEN))}
    if arguments.data:
        portraits = held_out_portraits(arguments.data)
        if not portraits:
            raise UserError(f"{arguments.data} has no photographs that the recipes hold out.")
        inverted = evaluate_inversion(studio, portraits, arguments.out)
        groups["photographs"] = UnseenPeople(studio, inverted)
    evaluate_targets(studio, PRESETS[arguments.preset], arguments.out, groups)


if __name__ == "__main__":
    main()
