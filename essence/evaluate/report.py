"""The quality of the bundled models, in one command: `python -m essence evaluate models --data DIR
[--tight DIR --tight-labels CSV]`.

Samples, inversion, image-text, essences, weight. Everything is measured on pictures that no recipe
trained on. Prints the table, writes sheets, and with --card puts the table between the two marks of
the model card.
"""

from __future__ import annotations

import csv
import random
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from ..errors import UserError
from ..runtime.folders import WEIGHTS
from ..library.safe_files import write_bytes
from ..methods.optimize import PRESETS
from ..methods.refine import RefineOptions
from ..pictures.grids import grid
from ..pictures.tensors import resample, to_pil
from ..studio import TRUNCATION, Studio, bundled, last
from ..train.common import (
    PHOTOGRAPHS,
    held_out,
    list_pictures,
    load_pictures,
    parse_options,
    to_float,
    to_uint8,
)
from ..train.data import attributes as A
from ..train.data.attribute_teacher import place, read_labels
from ..values import Source
from . import quality, zero_shot

MARKS = ("<!-- figures -->", "<!-- end of figures -->")
SAME_PERSON = 0.6  # dlib's line
BY_HAND = Path(__file__).with_name("zero_shot.csv")
EYEWEAR = Path(A.__file__).with_name("eyewear.csv")


@dataclass(frozen=True)
class Options:
    data: str  # folder of aligned pictures
    labels: str = ""  # CSV about them: file, gender
    tight: str = ""  # folder of tight crops
    tight_labels: str = ""  # CSV about them: file, age, gender, race
    model: str = "mini"
    out: str = "runs/report"  # sheets
    card: str = ""  # model card to write the table into
    samples: int = 5000
    sheet: str = ""  # also write the sheet of samples there
    targets: int = 20
    sources: int = 20
    steps: int = 100
    threads: int = 2

    def __post_init__(self) -> None:
        if self.card and not all(mark in Path(self.card).read_text() for mark in MARKS):
            raise UserError(
                f"{self.card} lacks the marks {MARKS[0]} and {MARKS[1]}, between which the table belongs."
            )


@dataclass(frozen=True)
class Row:
    what: str
    measure: str
    figure: str


class Held:
    """The pictures that no recipe trains on: names, and uint8 [N, 3, S, S]; photographs first."""

    def __init__(self, data: str, size: int):
        paths = list_pictures(data)
        names = held_out([path.name for path in paths])
        chosen = [path for path in paths if path.name in names]
        chosen.sort(key=lambda path: not path.name.startswith(PHOTOGRAPHS))
        if not chosen:
            raise UserError(f"{data} has too few pictures to hold any out: it takes at least ten.")
        self.names, self.pictures = [path.name for path in chosen], load_pictures(chosen, size)
        self.photographs = torch.tensor([name.startswith(PHOTOGRAPHS) for name in self.names])
        self.others = [path for path in paths if path.name not in names]


# ---- samples


def samples(studio: Studio, held: Held, options: Options, out: Path) -> Iterator[Row]:
    """KID and FID to the training pictures, beside what the training pictures have among
    themselves.
    """
    models = studio.models
    rng = torch.Generator().manual_seed(0)
    made = [
        torch.from_numpy(
            models.render(models.generator.repeat(models.generator.mapping(z.to(models.device))))
        ).permute(0, 3, 1, 2)
        for z in tqdm(
            torch.randn(options.samples, models.latent_shape[1], generator=rng).split(64),
            desc="samples",
        )
    ]
    paths = random.Random(0).sample(held.others, min(options.samples, len(held.others)))
    real, made = (
        quality.set_features(load_pictures(paths, models.size)),
        quality.set_features(torch.cat(made)),
    )
    half = len(real) // 2
    for name, distance, times in (("KID x 1000", quality.kid, 1000), ("FID", quality.fid, 1)):
        found, floor = times * distance(real, made), times * distance(real[:half], real[half:])
        yield Row(
            "samples",
            f"{name} of {len(made)} samples to {len(real)} training pictures (dlib's face network, four stages averaged "
            "over space, standardised); between two halves of the training pictures",
            f"{found:.1f}; {floor:.1f}",
        )
    sheet_of_samples(studio).save(out / "samples.png")
    if options.sheet:
        sheet_of_samples(studio).save(options.sheet, quality=90)


def sheet_of_samples(studio: Studio, count: int = 64) -> Image.Image:
    """Uncurated: the first `count` of seed 0, truncation 0.7."""
    models = studio.models
    z = torch.randn(count, models.latent_shape[1], generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        cells = models.render(
            models.generator.repeat(models.generator.mapping(z.to(models.device), TRUNCATION))
        )
    return grid(
        [[Image.fromarray(cell) for cell in cells[i : i + 16]] for i in range(0, count, 16)],
        cell=models.size,
        gap=0,
    )


# ---- inversion


def inversion(studio: Studio, held: Held, out: Path) -> Iterator[Row]:
    default = RefineOptions().steps
    for kind, chosen in (
        ("photographs", held.photographs),
        ("other held-out pictures", ~held.photographs),
    ):
        pictures = held.pictures[chosen]
        if len(pictures) < 2:
            continue
        truth = quality.chip_descriptors(_rows(pictures))
        apart = torch.pdist(truth).mean().item()
        stages = [to_pil(to_float(pictures))]
        for steps in (0, default):
            began = time.perf_counter()
            found = invert(studio, pictures, steps)
            seconds = (time.perf_counter() - began) / len(pictures)
            made = np.stack([np.asarray(source.inversion) for source in found])
            distance = (quality.chip_descriptors(made) - truth).norm(dim=1)
            error = np.abs(made.astype(np.float32) - _rows(pictures)).mean() / 255
            same = (distance < SAME_PERSON).float().mean()
            yield Row(
                f"inversion, {steps} refinement steps",
                f"{len(pictures)} {kind}: mean absolute error in [0, 1]; mean descriptor "
                f"distance of dlib's own chips (different people {apart:.2f}); below 0.6; seconds each",
                f"{error:.3f}; {distance.mean():.2f}; {same:.0%}; {seconds:.2f}",
            )
            stages.append([source.inversion for source in found])
        for first in range(0, len(pictures), 20):
            grid([stage[first : first + 20] for stage in stages], cell=studio.models.size).save(
                out / f"{kind.split()[0]}-{first:03d}.png"
            )


def invert(studio: Studio, pictures: Tensor, steps: int) -> list[Source]:
    options = RefineOptions(steps=steps)
    return [
        last(studio.invert(crop, "held out", options)).result
        for crop in tqdm(to_pil(to_float(pictures)), desc=f"invert, {steps}")
    ]


def _rows(pictures: Tensor) -> np.ndarray:
    return pictures.permute(0, 2, 3, 1).contiguous().numpy()


# ---- image-text


def image_text(studio: Studio, held: Held, options: Options) -> Iterator[Row]:
    """Zero-shot by prompts. Truth: labels where there are any; smile, mouth, beard and hair length:
    the upper and the lower third of what landmarks and colours measure."""
    everyone = [path.name for path in list_pictures(options.data)]
    told = (
        dict(zip(everyone, read_labels(Path(options.labels), everyone), strict=True))
        if options.labels
        else {}
    )
    with BY_HAND.open(newline="") as file:
        by_hand = {row["file"]: row for row in csv.DictReader(file)}
    rows = [told.get(n, {}) | by_hand.get(n, {}) for n in held.names]
    yield from _questions(studio, "aligned pictures", _at(held.pictures, A.SIDE), rows)
    if options.tight:
        paths = list_pictures(options.tight)
        told = (
            read_labels(Path(options.tight_labels), [path.name for path in paths])
            if options.tight_labels
            else [{}] * len(paths)
        )
        chosen = range(0, len(paths), 20)  # the rule of the recipe
        placed = [
            place(Image.open(paths[i]).convert("RGB"))[0] for i in tqdm(chosen, desc="tight crops")
        ]
        pictures = torch.from_numpy(np.stack(placed)).permute(0, 3, 1, 2)
        yield from _questions(studio, "tight crops", pictures, [told[i] for i in chosen])


MEASURES = {
    "smile": ("smile", "yes", "no"),
    "mouth open": ("mouth open", "yes", "no"),
    "hair length": ("hair long", "long", "short"),
    "beard": ("beard", "yes", "no"),
}


def _questions(
    studio: Studio, kind: str, pictures: Tensor, rows: Sequence[Mapping[str, str]]
) -> Iterator[Row]:
    clip = studio.models.clip
    embeddings = zero_shot.embed_pictures(clip, pictures)
    measured = A.measure(to_float(pictures), torch.from_numpy(A.landmarks(_rows(pictures))))
    for question in zero_shot.QUESTIONS:
        if question in MEASURES:
            truth, by = thirds(measured, *MEASURES[question]), "measures"
        else:
            truth, by = [zero_shot.truth_from_labels(question, row) for row in rows], "labels"
        share, balanced, count = zero_shot.accuracy(clip, embeddings, question, truth)
        if count and not (kind == "tight crops" and question == "hair length"):
            yield Row(
                f"image-text, {question}",
                f"zero-shot accuracy on {count} {kind} (truth: {by}); mean over the answers",
                f"{share:.0%}; {balanced:.0%}",
            )


def thirds(measured: Tensor, name: str, high: str, low: str) -> list[str | None]:
    """An answer for the upper and the lower third of a measure, none between."""
    values = measured[:, list(A.MEASURED).index(name)]
    lower, upper = values.quantile(torch.tensor([1 / 3, 2 / 3])).tolist()
    return [high if value > upper else low if value < lower else None for value in values.tolist()]


def _at(pictures: Tensor, side: int) -> Tensor:
    """uint8 [N, 3, H, W] at another side."""
    return (
        pictures
        if pictures.shape[-1] == side
        else to_uint8(resample(to_float(pictures), side, "antialias"))
    )


# ---- essences


def essences(studio: Studio, held: Held, options: Options, out: Path) -> Iterator[Row]:
    """Held-out pictures as targets, others of them as sources, inverted; strength 1."""
    order = random.Random(1).sample(
        range(len(held.names)), min(options.targets + options.sources, len(held.names))
    )
    targets, chosen = order[: options.targets], order[options.targets :]
    sources = invert(studio, held.pictures[chosen], RefineOptions().steps)
    learned_on = studio.sources(bundled("sources")[:4], aligned=True)
    classify = quality.Classifier(
        load_pictures(held.others[:: max(1, len(held.others) // 1000)], A.SIDE), probe(options)
    )
    own = np.stack([np.asarray(source.inversion) for source in sources])
    before, described = classify(_pictures(own)), quality.chip_descriptors(own)
    preset = replace(PRESETS["essence"], steps=options.steps)
    hits, distances, cosines, sheet = (
        [],
        [],
        [],
        [[None, *(source.inversion for source in sources)]],
    )
    for index in tqdm(targets, desc="essences"):
        target = to_pil(to_float(held.pictures[index]))
        essence = last(studio.extract(target, learned_on, preset, name=held.names[index])).result
        cells = studio.blend(sources, [essence], [1.0])[0]
        wanted = classify(_at(held.pictures[index : index + 1], A.SIDE))[0]
        hits.append(
            quality.moved(before, classify(_pictures(cells)), wanted, classify.dominant(wanted))
        )
        distances.append((quality.chip_descriptors(cells) - described).norm(dim=1))
        cosines.append(studio.cosines(target, sources, essence))
        sheet.append([target, *(Image.fromarray(cell) for cell in cells)])
    grid(sheet, cell=studio.models.size).save(out / "essences.png")
    hits, distances, apart = (
        torch.cat(hits).float(),
        torch.cat(distances),
        torch.pdist(described).mean(),
    )
    who = f"{len(targets)} targets x {len(sources)} sources, all held out, {options.steps} steps"
    yield Row(
        "essence",
        f"{who}: dominant attributes of the target that moved at least a third of the way, by landmarks, colours and "
        f"probes on the face network ({len(hits)} judged)",
        f"{hits.mean():.0%}",
    )
    yield Row(
        "essence",
        "descriptor distance of dlib's chips to the own source below 0.6 (mean distance; different sources)",
        f"{(distances < SAME_PERSON).float().mean():.0%} ({distances.mean():.2f}; {apart:.2f})",
    )
    first, then = np.mean(cosines, axis=0)
    yield Row(
        "essence",
        "cosine of the optimised encoder to the target, before and after",
        f"{first:.2f}; {then:.2f}",
    )


def probe(options: Options) -> A.Probe | None:
    """For age, sex, groups and glasses; without labels nothing is said of them."""
    if not (options.tight and options.tight_labels):
        return None
    return quality.fit_probe(
        Path(options.tight), Path(options.tight_labels), EYEWEAR, Path(options.data)
    )


def _pictures(cells: np.ndarray) -> Tensor:
    return _at(torch.from_numpy(np.ascontiguousarray(cells)).permute(0, 3, 1, 2), A.SIDE)


# ---- the whole


def weight(model: str) -> Row:
    size = sum(path.stat().st_size for path in (WEIGHTS / model).rglob("*.safetensors"))
    return Row("weight", "all bundled files together", f"{size / 1e6:.1f} MB")


def report(options: Options) -> list[Row]:
    torch.set_num_threads(options.threads)
    out = Path(options.out)
    out.mkdir(parents=True, exist_ok=True)
    studio = Studio(options.model)
    held = Held(options.data, studio.models.size)
    rows: list[Row] = []
    for part in (
        samples(studio, held, options, out),
        inversion(studio, held, out),
        image_text(studio, held, options),
        essences(studio, held, options, out),
        [weight(options.model)],
    ):
        for row in part:
            rows.append(row)
            print(f"| {row.what} | {row.measure} | {row.figure} |", flush=True)
    return rows


def into_card(card: Path, rows: Sequence[Row], model_id: str) -> None:
    """Put the table between the marks; the rest of the card stays as it is."""
    lines = [
        f"Measured by `python -m essence evaluate models` with the generator `{model_id}`:",
        "",
    ]
    lines += ["| what | measure | figure |", "|---|---|---|"]
    lines += [f"| {row.what} | {row.measure} | {row.figure} |" for row in rows]
    table = f"{MARKS[0]}\n" + "\n".join(lines) + f"\n{MARKS[1]}"
    text = re.sub(f"{MARKS[0]}.*{MARKS[1]}", lambda _: table, card.read_text(), flags=re.DOTALL)
    write_bytes(card, text.encode())


def main(argv: Sequence[str] | None = None) -> None:
    options = parse_options(Options, argv, __doc__)
    rows = report(options)
    if options.card:
        into_card(Path(options.card), rows, Studio(options.model).models.id)


if __name__ == "__main__":
    main()
