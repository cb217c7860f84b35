"""The image-text recipe's options, and its training data: pictures, what the image side should give
for each, and the facts that captions are composed of.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import UserError
from ..library.checkpoints import load_generator, load_latents
from .common import cached_on_disk, held_out
from .data import captions, labels, tables
from .data.attribute_teacher import AttributeTeacher, TeacherOptions, mirrored
from .data.probes import Probe
from .data.tables import KINDS, Table

SHARES = (0.45, 0.2, 0.35)  # of aligned, tight and generated pictures in a batch


def described(default: object, text: str) -> Any:
    return field(default=default, metadata={"help": text})


@dataclass(frozen=True)
class ClipOptions:
    data: str = field(metadata={"help": "folder of aligned pictures"})
    out: str = field(
        metadata={"help": "folder of the run: tables, checkpoint, log, clip.safetensors"}
    )
    labels: str | None = described(None, "CSV about them: file, gender, group, text")
    more_labels: str | None = described(None, "another CSV about them: file, glasses (yes, no)")
    hair_labels: str | None = described(
        None, "another one: file, hair (black, brown, blond, red, grey)"
    )
    tight: str | None = described(None, "folder of tight face crops (FairFace)")
    tight_labels: str | None = described(None, "CSV about them: file, age, gender, race")
    generator: str | None = described(None, "a generator, for pictures at no cost")
    latents: str | None = described(None, "mean and covariance of its w")
    generated: int = 12000
    steps: int = 6000
    minutes: float = described(
        0, "the schedule ends after so many minutes at the latest; 0: by steps alone"
    )
    batch: int = 96
    lr: float = 1e-3
    weight_decay: float = 0.02
    warmup: int = 100
    average: float = 0.997  # decay of the moving average
    caption_weight: float = 0.15
    ground: float = 0.4  # of the mean length of an embedding: how much all pictures have in common
    size: int = 64  # side of the pictures that the encoder reads
    width: int = 24
    layers: tuple[int, ...] = (1, 2, 2, 1)
    text_width: int = 64
    text_layers: int = 2
    context: int = 32
    every: int = 200  # steps between checkpoints
    start: str = described("", "a finished model to begin with, of the same widths")
    device: str = "cuda" if torch.cuda.is_available() else "cpu"
    threads: int = 0  # 0: as torch chooses
    seed: int = 0

    def __post_init__(self) -> None:
        if self.size % 32:
            raise UserError(f"--size must be a multiple of 32, not {self.size}.")


@dataclass
class ClipDataset:
    """N pictures, and a relit copy of each."""

    pictures: Tensor  # uint8 [2, N, 3, 128, 128]
    scores: Tensor  # [2, N, K]
    layout: Tensor  # [N, R]
    facts: Tensor  # int8 [2, N, F]
    kind: Tensor  # [N], an index into KINDS
    held: Tensor  # bool [N], held out
    teacher: AttributeTeacher

    @property
    def embed_dim(self) -> int:
        return self.teacher.mix.shape[1] + self.layout.shape[1]

    def draw_rows(self, rng: torch.Generator, count: int) -> Tensor:
        """Rows to train on: the kinds in fixed shares, never a held-out one."""
        free = ~self.held
        weights = torch.zeros(len(free))
        for kind, share in enumerate(SHARES):
            chosen = free & (self.kind == kind)
            weights[chosen] = share / chosen.sum().clamp(min=1)
        return torch.multinomial(weights, count, replacement=True, generator=rng)

    def targets(
        self, rows: Tensor, lit: Tensor | None = None, flip: Tensor | None = None
    ) -> Tensor:
        """Target embeddings [B, E] of rows [B], relit or flipped where `lit` and `flip` [B] say so;
        the layout of a changed picture is not known, and zero.
        """
        unchanged = torch.zeros(len(rows), dtype=torch.bool)
        lit, flip = unchanged if lit is None else lit, unchanged if flip is None else flip
        scores = self.scores[lit.long(), rows]
        scores = torch.where(flip[:, None], mirrored(scores), scores)
        return self.teacher.targets(scores, self.layout[rows] * (~(lit | flip))[:, None])


def load_dataset(options: ClipOptions) -> ClipDataset:
    """Tables of pictures, kept in the run's folder; probes, targets and facts. Raises UserError."""
    run = Path(options.out)
    run.mkdir(parents=True, exist_ok=True)
    parts = load_tables(options, run)
    relit = [relit_copies(part, run) for part in parts]
    table, rows = Table.join(parts), label_rows(options, parts)
    held = held_out_rows(table)
    values, known = labels.probe_targets(rows)
    probe = Probe(
        **cached_on_disk(
            run / "probe.pt",
            lambda: vars(Probe.fit(table.features, values, known & ~held[:, None])),
        )
    )
    probed = torch.cat([probe(table.features), labels.hair_scores(table, rows, ~held)], 1)
    whole = table.kind != KINDS.index("tight")
    raw = torch.cat([table.measured, probed], 1)
    relit_raw = torch.cat([torch.cat([part["measured"] for part in relit]), probed], 1)
    fitted = whole & ~held
    teacher = AttributeTeacher.fit(raw[fitted], table.pictures[fitted], TeacherOptions())
    scores = torch.stack([teacher.scores(values, table.kind) for values in (raw, relit_raw)])
    facts = [
        captions.without_outer_facts(captions.facts(*pair), ~whole)
        for pair in zip(scores, (raw, relit_raw), strict=True)
    ]
    return ClipDataset(
        pictures=torch.stack([table.pictures, torch.cat([part["pictures"] for part in relit])]),
        scores=scores,
        layout=teacher.layout(scores[0], table.pictures) * whole[:, None],
        facts=torch.stack(facts),
        kind=table.kind,
        held=held,
        teacher=teacher,
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
    return [Table(**cached_on_disk(run / f"{name}.pt", maker)) for name, maker in makers.items()]


def label_rows(options: ClipOptions, parts: list[Table]) -> list[dict[str, str]]:
    """What the CSVs say of every picture of the tables, in order. Raises UserError."""
    files = {
        "aligned": (options.labels, options.more_labels, options.hair_labels),
        "tight": (options.tight_labels,),
    }
    found: list[dict[str, str]] = []
    for table in parts:
        rows: list[dict[str, str]] = [{} for _ in table.names]
        for path in filter(None, files.get(KINDS[int(table.kind[0])], ())):
            read = labels.read_labels(Path(path), table.names)
            rows = [a | b for a, b in zip(rows, read, strict=True)]
        found += rows
    return found


def relit_copies(table: Table, run: Path) -> dict[str, Tensor]:
    """Pictures and measures of relit copies of aligned pictures; the others stand for themselves
    (of tight crops the outer part is not known).
    """
    if table.kind[0] != KINDS.index("aligned"):
        return {"pictures": table.pictures, "measured": table.measured}
    rng = torch.Generator().manual_seed(0)
    return cached_on_disk(run / "relit-aligned.pt", lambda: tables.relight(table, rng))


def held_out_rows(table: Table) -> Tensor:
    """bool [N]: aligned pictures by the rule of all recipes, every twentieth tight crop, no
    generated picture.
    """
    aligned = [name for name, kind in zip(table.names, table.kind, strict=True) if kind == 0]
    held = held_out(aligned)
    tight = [i % 20 == 0 for i in range(int((table.kind == 1).sum()))]
    generated = [False] * int((table.kind == 2).sum())
    return torch.tensor([name in held for name in aligned] + tight + generated)
