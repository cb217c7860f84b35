"""Measure both looks, the model's pictures and photographs in their own detail:

    python -m essence evaluate looks --data DIR --out runs/looks

Learns every target in assets/targets on the first bundled sources, gives each essence to the
aligned photographs of a folder at several strengths, and prints a table of the identity distance to
the photograph, the similarity to the target, and the sharpness; a sheet for each essence shows what
the numbers are about.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from ..errors import UserError
from ..methods import PRESETS
from ..methods.photograph import PhotographEdit
from ..methods.refine import RefineOptions
from ..pictures.grids import grid
from ..pictures.loading import load_image
from ..runtime.folders import bundled
from ..studio import Studio, last
from ..train.common import list_pictures
from ..values import Essence, Source, Target
from .metrics import sharpness
from .unseen import learning_sources

STRENGTHS = (0.6, 1.0, 1.5)
SIDE = 256  # pixels at which pictures are compared
SHEET_COLUMNS = 10


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder of aligned photographs")
    parser.add_argument("--out", type=Path, default=Path("runs/looks"), help="folder for sheets")
    parser.add_argument("--model", help="model set (default: as everywhere)")
    parser.add_argument("--count", type=int, default=60, help="photographs (default %(default)s)")
    parser.add_argument("--device")
    arguments = parser.parse_args(words)
    paths = list_pictures(arguments.data)[: arguments.count]
    if not paths:
        raise UserError(f"{arguments.data} holds no pictures.")
    arguments.out.mkdir(parents=True, exist_ok=True)
    studio = Studio(arguments.model, arguments.device)
    options = RefineOptions()
    crops, names = [load_image(path) for path in paths], [path.stem for path in paths]
    sources = list(last(studio.invert(crops, names, options)).result)
    learned = learn_targets(studio, arguments.out)
    print_table(studio, sources, learned, arguments.out)


def learn_targets(studio: Studio, out: Path) -> list[tuple[Target, Essence]]:
    """The bundled targets' essences; those that lie in `out` already are not learned again."""
    sources, learned = learning_sources(studio), []
    for path in tqdm(bundled("targets"), "targets"):
        target = studio.target(path, aligned=True)
        file = out / f"{path.stem}-{studio.models.id}.essence.safetensors"
        if not file.exists():
            last(studio.extract(target, sources, PRESETS["essence"])).result.save(file)
        learned.append((target, studio.load_essence(file)))
    return learned


def print_table(
    studio: Studio,
    sources: Sequence[Source],
    learned: Sequence[tuple[Target, Essence]],
    out: Path,
) -> None:
    """Means over all photographs and targets, as Markdown; a sheet for each target."""
    photographs = compared([source.crop for source in sources])
    before = np.mean([studio.similarity(target, photographs) for target, _ in learned])
    sharp = sharpness(photographs)
    inversions = compared([source.picture for source in sources])
    print(f"{len(sources)} photographs, {len(learned)} targets; similarity before {before:.3f}; ")
    print(f"inversions: distance {np.mean(distance(studio, photographs, inversions)):.3f}, ")
    print(f"sharpness {np.mean(sharpness(inversions) / sharp):.2f}.\n")
    print("| look | strength | identity distance | similarity | sharpness |\n|---|---|---|---|---|")
    figures: dict[tuple[str, float], list[tuple[float, float, float]]] = {}
    for target, essence in tqdm(learned, "essences"):
        rows = [photographs, inversions]
        changes = studio.changes(sources, essence)
        for strength in STRENGTHS:
            model = studio.blend(sources, [essence], [strength], fine=True)[0]
            pairs = zip(sources, changes, strict=True)
            edits = [PhotographEdit(source, change, strength) for source, change in pairs]
            edited = studio.photographs(edits, SIDE)
            looks = {"model": list(map(Image.fromarray, model)), "photograph": edited}
            for look, made in looks.items():
                pictures = compared(made)
                rows.append(pictures)
                found = (
                    np.mean(distance(studio, photographs, pictures)),
                    np.mean(studio.similarity(target, pictures)),
                    np.mean(sharpness(pictures) / sharp),
                )
                figures.setdefault((look, strength), []).append(found)
        sheet = [[target.picture, *map(Image.fromarray, row[:SHEET_COLUMNS])] for row in rows]
        grid(sheet, SIDE).save(out / f"{essence.name}.jpg", quality=88)
    for (look, strength), found in sorted(figures.items()):
        cells = " | ".join(f"{value:.3f}" for value in np.mean(found, axis=0))
        print(f"| {look} | {strength:g} | {cells} |")


def compared(pictures: Sequence[Image.Image]) -> np.ndarray:
    """Pictures at one side, uint8 [N, SIDE, SIDE, 3]."""
    sized = (each.resize((SIDE, SIDE), Image.Resampling.LANCZOS) for each in pictures)
    return np.stack([np.asarray(each) for each in sized])


def distance(studio: Studio, before: np.ndarray, after: np.ndarray) -> np.ndarray:
    return np.array(studio.identity_distances(before, after))


if __name__ == "__main__":
    main()
