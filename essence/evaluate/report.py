"""The quality of the bundled models, in one command: `python -m essence evaluate models --data DIR
[--tight DIR --tight-labels CSV]`.

Samples, inversion, image-text, essences, weight. Everything is measured on pictures that no recipe
trained on. Prints the table, writes sheets, and with --card puts the table between the two marks of
the model card.
"""

from __future__ import annotations

import dataclasses
import random
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from ..errors import UserError
from ..methods import PRESETS
from ..methods.invert import inversions
from ..methods.refine import RefineOptions
from ..pictures.grids import grid
from ..pictures.loading import load_image
from ..pictures.tensors import to_pil
from ..runtime.files import write_bytes
from ..runtime.folders import WEIGHTS
from ..studio import TRUNCATION, Studio, last
from ..train.common import list_pictures, load_pictures, parse_options, to_float
from ..train.data.labels import SEEN, SEEN_HELD_OUT, read_labels, seen_by_eye
from ..train.face_landmarks import SIDE, align_tight_crop
from ..values import Source
from .attribute_transfer import AttributeClassifier, fit_probe, moved_attributes
from .held_out import HeldOut, at_side, to_channels, to_rows
from .metrics import (
    SAME_PERSON,
    chip_descriptors,
    distance_between_people,
    fid,
    identity_distance,
    kid,
    set_features,
)
from .unseen import learning_sources
from .zero_shot import zero_shot_results

AT_ONE, SUITED = "strength 1", "the strength that suits"
MARKS = ("<!-- figures -->", "<!-- end of figures -->")


@dataclass(frozen=True)
class ReportOptions:
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
                f"{self.card} lacks the marks {MARKS[0]} and {MARKS[1]}, between which the table "
                "belongs."
            )


@dataclass(frozen=True)
class Row:
    what: str
    measure: str
    figure: str

    def __str__(self) -> str:
        return f"| {self.what} | {self.measure} | {self.figure} |"


# ---- samples


def random_pictures(studio: Studio, count: int, truncation: float = 1.0) -> np.ndarray:
    """The first `count` of seed 0: uint8 [N, H, W, 3]."""
    models, pictures = studio.models, []
    z = torch.randn(count, models.latent_shape[1], generator=torch.Generator().manual_seed(0))
    for part in tqdm(z.split(64), desc="samples"):
        with torch.no_grad():
            w = models.generator.mapping(part.to(models.device), truncation)
            pictures.append(models.render(models.generator.repeat(w)))
    return np.concatenate(pictures)


def sample_rows(studio: Studio, held: HeldOut, options: ReportOptions, out: Path) -> Iterator[Row]:
    """KID and FID to the training pictures, beside what the training pictures have among
    themselves; and a sheet of samples.
    """
    count = min(options.samples, len(held.training_paths))
    paths = random.Random(0).sample(held.training_paths, count)
    made = set_features(to_channels(random_pictures(studio, options.samples)))
    real = set_features(load_pictures(paths, studio.models.size))
    half = len(real) // 2
    for name, distance, factor in (("KID x 1000", kid, 1000), ("FID", fid, 1)):
        found, floor = factor * distance(real, made), factor * distance(real[:half], real[half:])
        yield Row(
            "samples",
            f"{name} of {len(made)} samples to {len(real)} training pictures (dlib's face network, "
            "four stages averaged over space, standardised); between two halves of the training "
            "pictures",
            f"{found:.1f}; {floor:.1f}",
        )
    cells = [Image.fromarray(cell) for cell in random_pictures(studio, 64, TRUNCATION)]
    sheet = grid([cells[i : i + 16] for i in range(0, 64, 16)], cell=studio.models.size, gap=0)
    sheet.save(out / "samples.png")
    if options.sheet:
        sheet.save(options.sheet, quality=90)


# ---- inversion


def invert_pictures(studio: Studio, pictures: Tensor, steps: int) -> list[Source]:
    """Aligned pictures, uint8 [N, 3, S, S], one after another."""
    crops = tqdm(to_pil(to_float(pictures)), desc=f"invert, {steps}")
    options = RefineOptions(steps=steps)
    return [last(studio.invert([crop], ["held out"], options)).result[0] for crop in crops]


def inversion_rows(studio: Studio, held: HeldOut, out: Path) -> Iterator[Row]:
    """How close held-out pictures come back, without refinement and with the default; sheets."""
    photographs = held.photographs
    for kind, chosen in (("photographs", photographs), ("other held-out pictures", ~photographs)):
        pictures = held.pictures[chosen]
        if len(pictures) < 2:
            continue
        truth = chip_descriptors(to_rows(pictures))
        apart = distance_between_people(truth)
        stages = [to_pil(to_float(pictures))]
        for steps in (0, RefineOptions().steps):
            began = time.perf_counter()
            found = invert_pictures(studio, pictures, steps)
            seconds = (time.perf_counter() - began) / len(pictures)
            made = inversions(found)
            distance = identity_distance(chip_descriptors(made), truth)
            error = np.abs(made.astype(np.float32) - to_rows(pictures)).mean() / 255
            same = (distance < SAME_PERSON).float().mean()
            yield Row(
                f"inversion, {steps} refinement steps",
                f"{len(pictures)} {kind}: mean absolute error in [0, 1]; mean descriptor distance "
                f"of dlib's own chips (different people {apart:.2f}); below 0.6; seconds each",
                f"{error:.3f}; {distance.mean():.2f}; {same:.0%}; {seconds:.2f}",
            )
            stages.append([source.inversion for source in found])
        for first in range(0, len(pictures), 20):
            rows = [stage[first : first + 20] for stage in stages]
            sheet = grid(rows, cell=studio.models.size)
            sheet.save(out / f"{kind.split()[0]}-{first:03d}.png")


# ---- image-text


def image_text_rows(studio: Studio, held: HeldOut, options: ReportOptions) -> Iterator[Row]:
    """Zero-shot by prompts. Truth: labels where there are any; smile, mouth, beard and hair length:
    the upper and the lower third of what landmarks and colours measure.
    """

    def labels(path: str, names: list[str]) -> list[dict[str, str]]:
        return read_labels(Path(path), names) if path else [{}] * len(names)

    names = [path.name for path in list_pictures(options.data)]
    found = dict(zip(names, labels(options.labels, names), strict=True))
    seen = dict(zip(names, seen_by_eye(names, SEEN_HELD_OUT), strict=True))
    chosen = sorted(set(held.names) | {name for name, row in seen.items() if row})
    pictures = load_pictures([Path(options.data) / name for name in chosen], SIDE)
    rows = [found[name] | seen[name] for name in chosen]
    yield from question_rows(studio, "aligned pictures", pictures, rows)
    if options.tight:
        paths = list_pictures(options.tight)
        rows = labels(options.tight_labels, [path.name for path in paths])[::20]
        # Every twentieth: the rule of the recipe.
        crops = [
            align_tight_crop(load_image(path))[0] for path in tqdm(paths[::20], desc="tight crops")
        ]
        yield from question_rows(studio, "tight crops", to_channels(np.stack(crops)), rows)


def question_rows(
    studio: Studio, kind: str, pictures: Tensor, labels: Sequence[Mapping[str, str]]
) -> Iterator[Row]:
    """A row for each question that can be judged on these pictures, uint8 [N, 3, 128, 128]."""
    for result in zero_shot_results(studio.models.clip, pictures, labels):
        if not (kind == "tight crops" and result.question == "hair length"):
            yield Row(
                f"image-text, {result.question}",
                f"zero-shot accuracy on {result.count} {kind} (truth: {result.truth}); mean over "
                "the answers",
                f"{result.share:.0%}; {result.balanced:.0%}",
            )


# ---- essences


def essence_rows(studio: Studio, held: HeldOut, options: ReportOptions, out: Path) -> Iterator[Row]:
    """Held-out pictures as targets, others of them as sources, inverted; at strength 1, and at the
    strength that suits each source.
    """
    count = min(options.targets + options.sources, len(held.names))
    order = random.Random(1).sample(range(len(held.names)), count)
    targets, chosen = order[: options.targets], order[options.targets :]
    sources = invert_pictures(studio, held.pictures[chosen], RefineOptions().steps)
    learned_on = learning_sources(studio)
    # For age, sex, groups and glasses; without labels nothing is said of them.
    probe = None
    if options.tight and options.tight_labels:
        tight, labels = Path(options.tight), Path(options.tight_labels)
        probe = fit_probe(tight, labels, Path(options.data), SEEN)
    ordinary = held.training_paths[:: max(1, len(held.training_paths) // 1000)]
    classify = AttributeClassifier(load_pictures(ordinary, SIDE), probe)

    unedited = inversions(sources)
    before, descriptors = classify(at_side(to_channels(unedited))), chip_descriptors(unedited)
    preset = dataclasses.replace(PRESETS["essence"], steps=options.steps)
    moved: dict[str, list[Tensor]] = {AT_ONE: [], SUITED: []}
    distances: dict[str, list[Tensor]] = {AT_ONE: [], SUITED: []}
    cosines = []
    sheet: list[list[Image.Image | None]] = [[None, *(source.inversion for source in sources)]]
    for index in tqdm(targets, desc="essences"):
        picture = held.pictures[index]
        target = studio.embed_target(to_pil(to_float(picture)), held.names[index])
        essence = last(studio.extract(target, learned_on, preset)).result
        wanted = classify(at_side(picture[None]))[0]
        suited = [studio.auto_strength(source, essence, target) for source in sources]
        for name, strengths in ((AT_ONE, 1.0), (SUITED, torch.tensor(suited))):
            cells = studio.blend(sources, [essence], [strengths])[0]
            after = classify(at_side(to_channels(cells)))
            moved[name].append(moved_attributes(before, after, wanted, classify.dominant(wanted)))
            distances[name].append(identity_distance(chip_descriptors(cells), descriptors))
            sheet.append([target.picture, *(Image.fromarray(cell) for cell in cells)])
        cosines.append(studio.cosines(target, sources, essence))
    grid(sheet, cell=studio.models.size).save(out / "essences.png")

    apart = torch.pdist(descriptors).mean()
    for name in moved:
        hits, distance = torch.cat(moved[name]).float(), torch.cat(distances[name])
        same = (distance < SAME_PERSON).float().mean()
        yield Row(
            f"essence, {name}",
            f"{len(targets)} targets x {len(sources)} sources, all held out, {options.steps} "
            "steps: dominant attributes of the target that moved at least a third of the way, by "
            f"landmarks, colours and probes on the face network ({len(hits)} judged)",
            f"{hits.mean():.1%}",
        )
        yield Row(
            f"essence, {name}",
            "descriptor distance of dlib's chips to the own source below 0.6 (mean distance; "
            "different sources)",
            f"{same:.1%} ({distance.mean():.2f}; {apart:.2f})",
        )
    first, then = np.mean(cosines, axis=0)
    yield Row(
        f"essence, {AT_ONE}",
        "cosine of the optimised encoder to the target, before and after",
        f"{first:.2f}; {then:.2f}",
    )


# ---- the whole


def report(studio: Studio, options: ReportOptions) -> list[Row]:
    """All rows, each printed as soon as it is known. Raises UserError."""
    out = Path(options.out)
    out.mkdir(parents=True, exist_ok=True)
    held = HeldOut(options.data, studio.models.size)
    folder = options.model if Path(options.model).is_dir() else WEIGHTS / options.model
    size = sum(path.stat().st_size for path in Path(folder).rglob("*.safetensors"))
    rows: list[Row] = []
    for part in (
        sample_rows(studio, held, options, out),
        inversion_rows(studio, held, out),
        image_text_rows(studio, held, options),
        essence_rows(studio, held, options, out),
        [Row("weight", "all files together", f"{size / 1e6:.1f} MB")],
    ):
        for row in part:
            rows.append(row)
            print(row, flush=True)
    return rows


def table(rows: Sequence[Row], model_id: str) -> str:
    """The rows as Markdown."""
    lines = [
        f"Measured by `python -m essence evaluate models` with the generator `{model_id}`:",
        "",
        "| what | measure | figure |",
        "|---|---|---|",
        *map(str, rows),
    ]
    return "\n".join(lines) + "\n"


def write_card(card: Path, figures: str) -> None:
    """Put the table between the marks; the rest of the card stays as it is."""
    pattern, between = f"{MARKS[0]}.*{MARKS[1]}", f"{MARKS[0]}\n{figures}{MARKS[1]}"
    text = re.sub(pattern, lambda _: between, card.read_text(), flags=re.DOTALL)
    write_bytes(card, text.encode())


def main(argv: Sequence[str] | None = None) -> None:
    options = parse_options(ReportOptions, argv, __doc__)
    torch.set_num_threads(options.threads)
    studio = Studio(options.model)
    rows = report(studio, options)
    if options.card:
        write_card(Path(options.card), table(rows, studio.models.id))


if __name__ == "__main__":
    main()
