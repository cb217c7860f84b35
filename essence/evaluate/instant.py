"""Measure essences that are there at once: `python -m essence evaluate instant --data DIR`.

Targets that nobody has trained on (half of them photographs), people who took no part: how like the
target do the instant methods make them where they are as far from themselves as a whole run of the
optimiser takes them? How many steps does the optimiser need, begun at the instant answer, until it
is better than that run? And of photographs: does the mapper's inversion look like its person?
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from ..errors import UserError
from ..methods import METHODS, instant_methods
from ..methods.invert import inversions
from ..methods.optimize_options import OptimizeOptions
from ..methods.refine import RefineOptions
from ..pictures.grids import grid
from ..pictures.loading import load_image
from ..studio import Studio, last
from ..train.common import list_pictures
from ..values import Essence, Source, Step, Target
from .held_out import HeldOut, to_rows
from .metrics import chip_descriptors
from .unseen import UnseenPeople, learning_sources, random_people

CHECKED = (5, 10, 15, 20, 25)  # steps of the optimiser from the instant answer
SIDE = 256  # pixels of a target's picture
CELL = 128
SHEET = 8  # people shown


@dataclass(frozen=True)
class Row:
    """A target: cosines to it, all but `before` at the optimiser's `distance`."""

    before: float
    distance: float
    optimised: float
    instant: dict[str, float]  # by method
    steps: int | None  # from the first method's answer until it beats `optimised`; None: more


def compare(
    unseen: UnseenPeople, target: Target, sources: Sequence[Source], options: OptimizeOptions
) -> tuple[Row, dict[str, Essence]]:
    """A row, and the essences of it, by name."""
    studio = unseen.studio
    essences = {"optimiser": last(studio.extract(target, sources, options)).result}
    before = unseen.measure(target, unseen.pictures)[1]
    distance, optimised = unseen.measure(target, unseen.edits(essences["optimiser"]))
    found = {}
    for name in instant_methods(studio.models):
        essences[name] = last(studio.extract(target, (), METHODS[name].options)).result
        found[name] = unseen.similarity_at(target, essences[name], distance)
    first = next(iter(found))
    steps: int | None = 0
    if found[first] < optimised:
        few = dataclasses.replace(options, steps=CHECKED[-1])
        learning = studio.extract(target, sources, few, essences[first])
        steps = first_better(unseen, target, learning, distance, optimised)
    return Row(before, distance, optimised, found, steps), essences


def first_better(
    unseen: UnseenPeople,
    target: Target,
    learning: Iterator[Step],
    distance: float,
    similarity: float,
) -> int | None:
    """The first step of CHECKED at which what is learned reaches a similarity at a distance."""
    with closing(learning) as steps:
        for step in steps:
            checked = step.index in CHECKED
            if checked and unseen.similarity_at(target, step.result, distance) >= similarity:
                return step.index
    return None


def mapped_photographs(studio: Studio, crops: Sequence[Image.Image]) -> str:
    """A line about the mapper's inversions of photographs of different people."""
    options = RefineOptions(steps=0, inverter="clip")
    names = [str(i) for i in range(len(crops))]
    sources = last(studio.invert(crops, names, options)).result
    theirs = chip_descriptors(np.stack([np.asarray(c.resize((SIDE, SIDE))) for c in crops]))
    made = chip_descriptors(inversions(sources))
    distance = torch.cdist(made, theirs)  # [inversions, photographs]
    own, others = distance.diagonal(), ~torch.eye(len(crops), dtype=torch.bool)
    strangers = (distance.sum(1) - own) / (len(crops) - 1)
    nearer = (own[:, None] < distance)[others].float().mean()
    mean_nearer = (own < strangers).float().mean()
    return (
        f"The mapper's inversions of {len(crops)} photographs: distance {own.mean():.3f} "
        f"(strangers {strangers.mean():.3f}); nearer than the mean stranger {mean_nearer:.0%}, "
        f"than one stranger {nearer:.0%}.\n"
    )


def seconds_of_instant(studio: Studio, targets: Sequence[Target], name: str) -> float:
    """Median time from an aligned picture to its essence."""
    found = []
    for target in targets:
        began = time.perf_counter()
        again = studio.embed_target(target.picture)
        last(studio.extract(again, (), METHODS[name].options))
        found.append(time.perf_counter() - began)
    return statistics.median(found)


def table(rows: Sequence[Row], kinds: Sequence[bool]) -> str:
    """Markdown: means over all targets, photographs, and others; `kinds` says which are
    photographs.
    """
    names = list(rows[0].instant)
    heads = ["targets", "before", "distance", "optimiser", *names, *(f"gain, {n}" for n in names)]
    lines = [f"| {' | '.join(heads)} |", "|" + "---|" * len(heads)]
    for title, chosen in (
        ("all", rows),
        ("photographs", [row for row, kind in zip(rows, kinds, strict=True) if kind]),
        ("others", [row for row, kind in zip(rows, kinds, strict=True) if not kind]),
    ):
        if not chosen:
            continue
        before, distance, optimised = (
            statistics.mean(getattr(row, name) for row in chosen)
            for name in ("before", "distance", "optimised")
        )
        instant = [statistics.mean(row.instant[name] for row in chosen) for name in names]
        gains = [f"{(value - before) / (optimised - before):.0%}" for value in instant]
        cells = [f"{value:.3f}" for value in (before, distance, optimised, *instant)]
        lines.append(f"| {title} ({len(chosen)}) | {' | '.join([*cells, *gains])} |")
    steps = [row.steps for row in rows]
    known = sorted(CHECKED[-1] + 1 if step is None else step for step in steps)
    lines += [
        "",
        f"Steps from {names[0]}'s answer until it beats the optimiser's run: "
        f"median {known[len(known) // 2]}; at once {sum(s == 0 for s in steps)}, within "
        f"{CHECKED[-1]} {sum(s is not None for s in steps)} of {len(steps)}.",
    ]
    return "\n".join(lines) + "\n"


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True, help="folder of aligned pictures")
    parser.add_argument("--photographs", type=Path, help="folder of aligned photographs to invert")
    parser.add_argument("--out", type=Path, default=Path("runs/instant"), help="folder for sheets")
    parser.add_argument("--model", help="model set (default: as everywhere)")
    parser.add_argument("--targets", type=int, default=40, help="half of them photographs")
    parser.add_argument("--people", type=int, default=10)
    parser.add_argument("--steps", type=int, default=OptimizeOptions().steps, help="of a whole run")
    parser.add_argument("--threads", type=int, default=0, help="0: torch's choice")
    arguments = parser.parse_args(words)
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    held = HeldOut(arguments.data, SIDE)
    studio = Studio(arguments.model)
    if not instant_methods(studio.models) or not studio.has_faces:
        raise UserError(f"The model set '{studio.name}' gives no essences of faces at once.")
    arguments.out.mkdir(parents=True, exist_ok=True)
    if arguments.photographs and "mapper" in studio.models.extras:
        crops = [load_image(path) for path in list_pictures(arguments.photographs)]
        print(mapped_photographs(studio, crops), flush=True)
    targets, kinds = held_out_targets(studio, held, arguments.targets)
    people = random_people(studio, arguments.people)
    unseen, options = UnseenPeople(studio, people), OptimizeOptions(steps=arguments.steps)
    sources = learning_sources(studio)
    rows, sheet = [], [[None, *(person.inversion for person in people[:SHEET])]]
    for target in tqdm(targets, "targets"):
        row, essences = compare(unseen, target, sources, options)
        rows.append(row)
        for essence in essences.values():
            cells = unseen.edits(essence)[:SHEET]
            sheet.append([target.picture, *map(Image.fromarray, cells)])
    grid(sheet, CELL).save(arguments.out / "instant.jpg", quality=88)
    print(table(rows, kinds))
    for name in instant_methods(studio.models):
        seconds = seconds_of_instant(studio, targets, name)
        print(f"From an aligned picture to its essence, {name}: {1000 * seconds:.0f} ms.")


def held_out_targets(studio: Studio, held: HeldOut, count: int) -> tuple[list[Target], list[bool]]:
    """Pictures that no recipe trains on, half of them photographs, spread over the list; and which
    are photographs.
    """
    chosen: list[int] = []
    for kind in (held.photographs, ~held.photographs):
        places = kind.nonzero().squeeze(1).tolist()
        chosen += places[:: max(1, 2 * len(places) // count)][: count // 2]
    pictures = [Image.fromarray(held_picture) for held_picture in to_rows(held.pictures[chosen])]
    names = [Path(held.names[i]).stem for i in chosen]
    pairs = zip(pictures, names, strict=True)
    found = [studio.target(picture, name, aligned=True) for picture, name in pairs]
    return found, held.photographs[chosen].tolist()


if __name__ == "__main__":
    main()
