"""All bundled models, one after the other: `python -m essence train all --data FOLDER --out RUN
[--index CSV] [--tight FOLDER --tight-labels CSV] [--start MODELS] [--quick]`.

Each recipe has a folder of its own, named after its inputs and options: what has been made from the
same is not made again, what was interrupted goes on, and whatever rests on something new is made
anew. RUN/models is the model set, RUN/assets has examples and ready-made essences, RUN/report the
figures; with --card the table goes into the model card.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from ..errors import UserError
from ..runtime.files import write_bytes
from ..studio import Studio
from ..train import clip, essence, finer, generator, inverter, judge, mapper, mouth_colour, texts
from ..train.clip_data import ClipOptions
from ..train.common import described, parse_options
from ..train.essence_data import EssenceOptions
from ..train.examples import make_examples
from ..train.finer_data import FinerOptions
from ..train.generator_data import GeneratorOptions
from ..train.inverter_data import InverterOptions
from ..train.runs import Runs, chosen_pictures, labels_of, stated_licences
from . import report

LICENCES = ("any", "stated")
QUICK_PICTURES, QUICK_TIGHT = 100, 60
# Of each recipe, beside its inputs: what differs from its own defaults. The bundled models came
# about in several runs of other lengths, which weights/MODEL_CARD.md describes.
WHOLE: dict[str, dict[str, Any]] = {
    "generator": {"minutes": 180.0, "photographs": 2.0, "tight_share": 0.15},
    "teeth": {},
    "finer": {},
    "inverter": {"minutes": 120.0, "batch": 24, "generated": 4, "bank": 1024},
    "clip": {"minutes": 120.0, "steps": 200_000, "generated": 8000, "drawings": 120, "relit": 2},
    "texts": {},
    "judge": {"minutes": 60.0},
    "essence": {"minutes": 90.0, "steps": 100_000, "bank": 8192, "drawings": 120},
    "mapper": {"samples": 7200},
    "models": {},
    "examples": {},
    "report": {},
}
# Enough to see that everything fits together.
QUICK: dict[str, dict[str, Any]] = {
    "generator": {"steps": 3, "batch": 4, "sampled": 2, "critics_after": 1},
    "teeth": {"steps": 2, "batch": 2},
    "finer": {"pictures": 40, "sharpener_steps": 2, "steps": 2, "batch": 2},
    "inverter": {"steps": 3, "batch": 6, "generated": 2, "bank": 8},
    "clip": {"steps": 3, "batch": 16, "generated": 16, "every": 3},
    "texts": {"steps": 2, "batch": 16, "asked": 16},
    "judge": {"steps": 3, "batch": 16},
    "essence": {"steps": 3, "batch": 2, "bank": 8, "drawings": 1, "validated": 4},
    "mapper": {"samples": 64, "steps": 20, "batch": 16},
    "models": {},
    "examples": {},
    "report": {"samples": 40, "targets": 1, "sources": 2, "steps": 2},
}


@dataclass(frozen=True)
class AllOptions:
    data: str = field(metadata={"help": "folder of aligned pictures"})
    out: str = field(metadata={"help": "folder of the runs, the models and the report"})
    index: str = described("", "CSV about them: file, licence, gender, group, text")
    tight: str = described("", "folder of tight face crops (FairFace)")
    tight_labels: str = described("", "CSV about them: file, age, gender, race")
    licence: str = described("any", "stated: leave out pictures whose licence the index lacks")
    start: str = described("", "folder of a model set to go on from, in place of nothing")
    start_encoder: str = described("", "encoder.safetensors of that generator's own run")
    card: str = described("", "model card to write the figures into")
    quick: bool = described(False, "a few steps on a hundred pictures: does everything fit?")
    threads: int = described(1, "beside other work one is several times faster than two")
    device: str = "cuda" if torch.cuda.is_available() else "cpu"

    def __post_init__(self) -> None:
        if self.licence not in LICENCES:
            raise UserError(f"--licence is one of {', '.join(LICENCES)}, not '{self.licence}'.")
        if self.licence == "stated" and not self.index:
            raise UserError("--licence stated needs --index: a CSV with the column licence.")
        if bool(self.tight) != bool(self.tight_labels):
            raise UserError("--tight and --tight-labels go together.")


def train(options: AllOptions) -> list[str]:
    """Make whatever is not there yet; returns what was made. Raises UserError."""
    if options.threads:
        torch.set_num_threads(options.threads)
    how = {"threads": options.threads, "device": options.device}
    runs = Runs(Path(options.out), QUICK if options.quick else WHOLE, how)
    stated = stated_licences(Path(options.index)) if options.licence == "stated" else None
    data = chosen_pictures(runs, options.data, QUICK_PICTURES if options.quick else 0, stated)
    tight = options.tight
    if tight:
        tight = str(chosen_pictures(runs, tight, QUICK_TIGHT if options.quick else 0))
    labels = labels_of(runs, options.index, data)
    tight_labels = labels_of(runs, options.tight_labels, Path(tight)) if tight else ""
    faces = {"data": str(data)}

    generator_run = runs.recipe(
        "generator",
        generator.train,
        GeneratorOptions,
        **faces,
        tight=tight,
        start=part_of(options.start, "generator") if options.start_encoder else "",
        start_encoder=options.start_encoder,
    )
    latents = str(generator_run / "latents.safetensors")
    white = runs.recipe(
        "teeth",
        mouth_colour.train,
        mouth_colour.MouthColourOptions,
        generator=str(generator_run / "generator.safetensors"),
        latents=latents,
    )
    drawn_by = {"generator": str(white / "generator.safetensors"), "latents": latents}
    finer_run = runs.recipe(
        "finer",
        finer.train,
        FinerOptions,
        **faces,
        **drawn_by,
        teacher=str(generator_run / "encoder.safetensors"),
    )
    inverter_run = runs.recipe(
        "inverter",
        inverter.train,
        InverterOptions,
        **faces,
        **drawn_by,
        start=part_of(options.start, "inverter"),
    )
    clip_run = runs.recipe(
        "clip",
        clip.train,
        ClipOptions,
        **faces,
        **drawn_by,
        labels=labels,
        tight=tight,
        tight_labels=tight_labels,
        start=part_of(options.start, "clip"),
    )
    text_run = runs.recipe(
        "texts",
        texts.train,
        texts.TextOptions,
        faces=str(clip_run / "faces.pt"),
        start=str(clip_run / "clip.safetensors"),
    )
    networks = drawn_by | {"clip": str(text_run / "clip.safetensors")}
    essence_run = runs.recipe(
        "essence",
        essence.train,
        EssenceOptions,
        **faces,
        **networks,
        start=part_of(options.start, "essence") or str(inverter_run / "inverter.safetensors"),
    )
    mapper_run = runs.recipe(
        "mapper",
        mapper.train,
        mapper.MapperOptions,
        **networks,
        essence=str(essence_run / "essence.safetensors"),
    )
    files = networks | {
        "finer": str(finer_run / "finer.safetensors"),
        "inverter": str(inverter_run / "inverter.safetensors"),
        "essence": str(essence_run / "essence.safetensors"),
        "mapper": str(mapper_run / "mapper.safetensors"),
    }
    if tight and labels:
        judge_run = runs.recipe(
            "judge",
            judge.train,
            judge.JudgeOptions,
            **faces,
            labels=labels,
            tight=tight,
            tight_labels=tight_labels,
        )
        files["judge"] = str(judge_run / "judge.safetensors")
    known = {"data": str(data), "labels": labels, "tight": tight, "tight_labels": tight_labels}
    finish(runs, files, known, options)
    return runs.made


def part_of(folder: str, part: str) -> str:
    """The file of a model set's part; "" where it has none, or where there is no folder. Raises
    UserError.
    """
    if folder and not Path(folder).is_dir():
        raise UserError(f"There is no folder {folder}: give --start a folder of models.")
    path = Path(folder) / f"{part}.safetensors"
    return str(path) if folder and path.is_file() else ""


def finish(runs: Runs, files: dict[str, str], known: dict[str, str], options: AllOptions) -> None:
    """The model set of these files, its examples, and its figures on the `known` pictures: what
    of them are inputs of the report.
    """

    def gather(folder: Path) -> None:
        for part, path in files.items():
            shutil.copyfile(path, folder / f"{part}.safetensors")
        tables = [f'[{part}]\nfile = "{part}.safetensors"\n' for part in files]
        head = 'title = "Made by train all"\ndeltas = 0.0\n'
        write_bytes(folder / "model.toml", "\n".join([head, *tables]).encode())

    def measure(folder: Path) -> None:
        asked = {"model": str(models), "out": str(folder), "threads": options.threads}
        rows = report.report(studio, report.ReportOptions(**asked, **measured))
        write_bytes(folder / "report.md", report.table(rows, studio.models.id).encode())

    models = runs.once("models", files, gather)
    studio = Studio(str(models), options.device)
    named, measured = {"models": models.name}, known | runs.settings["report"]
    assets = runs.once("examples", named, lambda folder: make_examples(studio, folder))
    figures = runs.once("report", named | measured, measure)
    if options.card:
        report.write_card(Path(options.card), (figures / "report.md").read_text())
    for name, folder in (("models", models), ("assets", assets), ("report", figures)):
        latest = runs.out / name
        latest.unlink(missing_ok=True)
        latest.symlink_to(folder.name)


def main(argv: Sequence[str] | None = None) -> None:
    options = parse_options(AllOptions, argv, __doc__)
    made = train(options)
    print(f"made: {', '.join(made) or 'nothing, all was there'}; {Path(options.out) / 'models'}")


if __name__ == "__main__":
    main()
