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
from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image
from tqdm import tqdm

from ..methods.optimize import PRESETS, OptimizeOptions
from ..methods.refine import RefineOptions
from ..pictures.grids import grid
from ..pictures.loading import load_image
from ..pictures.tensors import resample, to_tensor
from ..studio import Studio, bundled, last
from ..train.common import PHOTOGRAPHS, held_out
from ..values import Essence, Source
from .metrics import distance_between_people, distances

LEARNED_ON = 4
UNSEEN_SEEDS = range(1000, 1016)  # faces that took part in nothing
PORTRAITS = 20


class Group:
    """People who took no part in learning."""

    def __init__(self, studio: Studio, name: str, sources: Sequence[Source]):
        self.name, self.sources = name, sources
        self.descriptors = describe(studio, [source.inversion for source in sources])
        self.apart = distance_between_people(self.descriptors)

    def measure(
        self, studio: Studio, target: Image.Image, essence: Essence
    ) -> tuple[float, float, float]:
        """CLIP cosine to the target before and after, mean descriptor distance to the own
        source.
        """
        before, after = studio.cosines(target, self.sources, essence)
        cells = [Image.fromarray(cell) for cell in studio.blend(self.sources, [essence], [1.0])[0]]
        return before, after, distances(self.descriptors, describe(studio, cells)).mean().item()


def essences(studio: Studio, options: OptimizeOptions, out: Path, groups: Sequence[Group]) -> None:
    """A row for each bundled target, learned on the first bundled sources and applied to each
    group.
    """
    sources = studio.sources(bundled("sources")[:LEARNED_ON], aligned=True)
    print(
        "| target |"
        + "".join(f" {g.name}: cosine before | after | distance |" for g in groups)
        + " seconds |"
    )
    print("|---|" + "---|---|---|" * len(groups) + "---|")
    rows, learned = [], []
    for path in bundled("targets"):
        target, _ = studio.crop_target(load_image(path), aligned=True)
        began = time.perf_counter()
        learned.append(last(studio.extract(target, sources, options, name=path.stem)).result)
        seconds = time.perf_counter() - began
        rows.append(
            [figure for group in groups for figure in group.measure(studio, target, learned[-1])]
            + [seconds]
        )
        _row(path.stem, rows[-1])
    _row("**mean**", [statistics.mean(column) for column in zip(*rows, strict=True)])
    for group in groups:
        print(
            f"\nDistance between different people, {group.name} ({len(group.sources)}): {group.apart:.2f}."
        )
        studio.grid(group.sources[:10], learned, [1.0] * len(learned)).save(
            out / f"essences-{group.name}.png"
        )


def _row(name: str, figures: Sequence[float]) -> None:
    print(
        f"| {name} | "
        + " | ".join(f"{figure:.2f}" for figure in figures[:-1])
        + f" | {figures[-1]:.1f} |",
        flush=True,
    )


def portraits(data: Path, count: int = PORTRAITS) -> list[Image.Image]:
    """Photographs that the recipes hold out."""
    paths = {path.name: path for path in sorted(data.rglob("*.jpg"))}
    names = [name for name in sorted(held_out(list(paths))) if name.startswith(PHOTOGRAPHS)][:count]
    return [load_image(paths[name]) for name in names]


def photographs(
    studio: Studio, crops: Sequence[Image.Image], out: Path, steps: Sequence[int] = (0, 25)
) -> list[Source]:
    """Held-out portraits through the inverter alone and with refinement; returns the ones with the
    default number of steps.
    """
    truth = torch.cat(
        [resample(to_tensor(crop), studio.models.size, "antialias") for crop in crops]
    )
    descriptors = studio.models.describe(truth)
    print(
        "| refinement steps | descriptor distance | worst | mean absolute error | seconds each |\n|---|---|---|---|---|"
    )
    columns, default = [list(crops)], []
    for n in steps:
        began = time.perf_counter()
        options = RefineOptions(steps=n)
        found = [
            studio.source(crop, "portrait", aligned=True, refine=options)
            for crop in tqdm(crops, leave=False)
        ]
        seconds = (time.perf_counter() - began) / len(crops)
        pictures = torch.cat([to_tensor(source.inversion) for source in found])
        d, error = (
            distances(descriptors, studio.models.describe(pictures)),
            (pictures - truth).abs().mean().item() / 2,
        )
        print(f"| {n} | {d.mean():.3f} | {d.max():.3f} | {error:.3f} | {seconds:.2f} |", flush=True)
        columns.append([source.inversion for source in found])
        default = found if n == RefineOptions().steps else default
    apart = distance_between_people(descriptors)
    print(
        f"\n{len(crops)} portraits kept out of training; between different people among them: {apart:.2f}.\n"
    )
    grid(columns, cell=studio.models.size).save(out / "photographs.png")
    return default


def describe(studio: Studio, pictures: Sequence[Image.Image]) -> torch.Tensor:
    return studio.models.describe(to_tensor(list(pictures)))


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
    groups = [Group(studio, "generated", [studio.random_source(seed) for seed in UNSEEN_SEEDS])]
    if arguments.data:
        groups.append(
            Group(
                studio, "photographs", photographs(studio, portraits(arguments.data), arguments.out)
            )
        )
    essences(studio, PRESETS[arguments.preset], arguments.out, groups)


if __name__ == "__main__":
    main()
