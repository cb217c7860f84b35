"""The image-text recipe's options, and what it prepares from folders of pictures: landmarks,
measures and probes of every picture, which `clip_batches` makes targets and captions of.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from ..errors import UserError
from ..library.checkpoints import load_generator, load_latents
from .common import cached_on_disk, described, held_out
from .data import faces, labels, tables
from .data.faces import Faces
from .data.labels import SEEN_HELD_OUT
from .data.probes import Probe, hints
from .data.tables import KINDS, PAINTED, Table


@dataclass(frozen=True)
class ClipOptions:
    data: str = described("", "folder of aligned pictures")
    out: str = field(
        metadata={"help": "folder of the run: tables, checkpoint, log, clip.safetensors"},
        kw_only=True,
    )
    faces: str = described("", "the faces.pt of an earlier run, in place of all folders and labels")
    labels: str | None = described(
        None, "CSV about them: file, gender, group, text, or any column of train/data/looks.csv"
    )
    tight: str | None = described(None, "folder of tight face crops (FairFace)")
    tight_labels: str | None = described(None, "CSV about them: file, age, gender, race")
    generator: str | None = described(None, "a generator, for pictures at no cost")
    latents: str | None = described(None, "mean and covariance of its w")
    generated: int = 12000
    drawings: int = described(0, "of the pictures painted over, and half as many faces drawn")
    relit: int = described(1, "copies of every aligned picture in another light")
    steps: int = 6000
    minutes: float = described(
        0, "the schedule ends after so many minutes at the latest; 0: by steps alone"
    )
    batch: int = 96
    lr: float = 1e-3
    weight_decay: float = 0.02
    warmup: int = 100
    average: float = 0.997  # decay of the moving average
    caption_weight: float = 0.25
    # Of what else the face network sees of a picture: labels alone are few.
    hint_weight: float = 0.5
    tight_share: float = described(0.28, "of a batch, tight crops")
    augment: float = described(
        0.0, "pictures are turned, moved, zoomed and hidden in part: 1 is a lot"
    )
    dropout: float = described(0.0, "of the channels of the last maps")
    asked: int = described(0, "pictures more in a batch for each question with exclusive answers")
    question_weight: float = described(0.5, "of the answers to them, in the second half")
    ground: float = 0.4  # of the mean length of an embedding: how much all pictures have in common
    size: int = 64  # side of the pictures that the encoder reads
    width: int = 24
    layers: tuple[int, ...] = (1, 2, 2, 1)
    text_width: int = 64
    text_layers: int = 2
    context: int = 32
    every: int = 200  # steps between checkpoints
    start: str = described("", "a finished model to begin with, of the same width")
    device: str = "cuda" if torch.cuda.is_available() else "cpu"
    threads: int = 0  # 0: as torch chooses
    seed: int = 0

    def __post_init__(self) -> None:
        if self.size % 32:
            raise UserError(f"--size must be a multiple of 32, not {self.size}.")
        if not (self.data or self.faces):
            raise UserError("Give --data FOLDER, or --faces FILE of an earlier run.")


def load_faces(options: ClipOptions) -> Faces:
    """What `--faces` holds, or what is found out about the folders' pictures, kept in the run's
    folder. Raises UserError.
    """
    run = Path(options.out)
    run.mkdir(parents=True, exist_ok=True)
    path = Path(options.faces) if options.faces else run / "faces.pt"
    if not path.exists():
        if options.faces:
            raise UserError(f"There is no file {path}: give the faces.pt of an earlier run.")
        parts = load_tables(options, run)
        prepare(parts, label_rows(options, parts), held_out_rows(Table.join(parts))).save(path)
    return Faces.load(path)


def prepare(
    parts: list[Table], rows: list[dict[str, str]], held: Tensor, side: int = 128, quality: int = 85
) -> Faces:
    """Tables, their rows of labels, and which are held out, to what the training needs; the
    pictures are kept at `side` in WebP's `quality`.
    """
    table = Table.join(parts)
    values, known = labels.probe_targets(rows)
    probe = Probe.fit(table.features, values, known & ~held[:, None])
    probed = torch.cat(
        [
            probe(table.features),
            labels.hair_scores(table, rows, ~held),
            labels.look_scores(table, rows, ~held),
        ],
        1,
    )
    # The face network is no judge of paintings: what it said of the photograph holds.
    place = {name: i for i, name in enumerate(table.names)}
    originals = [place.get(name.removeprefix(PAINTED), i) for i, name in enumerate(table.names)]
    probed = labels.with_known(probed[originals], rows, ~held)
    return Faces(
        pictures=faces.encode(table.pictures, side, quality),
        kind=table.kind.to(torch.int8),
        held=held,
        marks=faces.whole_marks(table.marks),
        measured=table.measured,
        probed=probed,
        hints=hints(table.features)[originals],
    )


def load_tables(options: ClipOptions, run: Path) -> list[Table]:
    """A table for each kind of pictures that the options name."""

    def generated() -> dict:
        generator, axes = load_generator(options.generator), load_latents(options.latents)
        rng = torch.Generator().manual_seed(options.seed)
        layers = generator.config.layers
        return vars(
            tables.generated_table(
                generator.synthesis,
                lambda count: tables.wide_latents(axes, count, layers, rng),
                options.generated,
            )
        )

    makers = {"aligned": lambda: vars(tables.aligned_table(Path(options.data)))}
    if options.tight:
        makers["tight"] = lambda: vars(tables.tight_table(Path(options.tight)))
    if options.generator and options.generated:
        if not options.latents:
            raise UserError("--generator needs --latents: the mean and covariance of its w.")
        makers["generated"] = generated
    found = [Table(**cached_on_disk(run / f"{name}.pt", maker)) for name, maker in makers.items()]
    if options.drawings:

        def drawn() -> dict:
            free = (~held_out_rows(found[0])).nonzero()[:, 0].tolist()
            return vars(tables.drawn_table(found[0].take(free), options.drawings))

        found.append(Table(**cached_on_disk(run / "drawn.pt", drawn)))
    return found


def label_rows(options: ClipOptions, parts: list[Table]) -> list[dict[str, str]]:
    """What label files say of every picture of the tables, in order: the options' own, and what
    was seen by eye. Raises UserError.
    """
    files = {"aligned": options.labels, "tight": options.tight_labels}
    found: list[dict[str, str]] = []
    for table in parts:
        rows = labels.seen_by_eye(table.names)
        if path := files.get(KINDS[int(table.kind[0])]):
            read = labels.read_labels(Path(path), table.names)
            rows = [a | b for a, b in zip(rows, read, strict=True)]
        found += rows
    return found


def held_out_rows(table: Table) -> Tensor:
    """bool [N]: aligned pictures by the rule of all recipes and those whose looks were seen for
    measuring, every twentieth tight crop, no generated or drawn picture.
    """
    kinds = [KINDS[kind] for kind in table.kind.tolist()]
    aligned = [name for name, kind in zip(table.names, kinds, strict=True) if kind == "aligned"]
    measured = labels.seen_by_eye(aligned, SEEN_HELD_OUT)
    held = held_out(aligned) | {name for name, row in zip(aligned, measured, strict=True) if row}
    tight = [name for name, kind in zip(table.names, kinds, strict=True) if kind == "tight"]
    held |= set(tight[::20])
    return torch.tensor([name in held for name in table.names])
