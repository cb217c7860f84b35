"""What the image-text recipe trains on: its options, its tables of pictures, their targets and
facts.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from ..errors import UserError
from ..library.checkpoints import load_generator, load_latents
from .common import held_out, save_atomic
from .data import attribute_teacher, captions
from .data.attributes import Probe

SHARES = (0.45, 0.2, 0.35)  # of aligned, tight and generated pictures in a batch


@dataclass(frozen=True)
class ClipOptions:
    data: str = field(metadata={"help": "folder of aligned pictures"})
    out: str = field(
        metadata={"help": "folder of the run: tables, checkpoint, log, clip.safetensors"}
    )
    labels: str | None = field(
        default=None, metadata={"help": "CSV about them: file, gender, group, text"}
    )
    more_labels: str | None = field(
        default=None, metadata={"help": "another CSV about them: file, glasses (yes, no)"}
    )
    hair_labels: str | None = field(
        default=None, metadata={"help": "another one: file, hair (black, brown, blond, red, grey)"}
    )
    tight: str | None = field(
        default=None, metadata={"help": "folder of tight face crops (FairFace)"}
    )
    tight_labels: str | None = field(
        default=None, metadata={"help": "CSV about them: file, age, gender, race"}
    )
    generator: str | None = field(
        default=None, metadata={"help": "a generator, for pictures at no cost"}
    )
    latents: str | None = field(default=None, metadata={"help": "mean and covariance of its w"})
    generated: int = 12000
    steps: int = 6000
    minutes: float = field(
        default=0,
        metadata={
            "help": "the schedule ends after so many minutes at the latest; 0: by steps alone"
        },
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
    start: str = field(
        default="", metadata={"help": "a finished model to begin with, of the same widths"}
    )
    device: str = "cuda" if torch.cuda.is_available() else "cpu"
    threads: int = 0  # 0: as torch chooses
    seed: int = 0

    def __post_init__(self) -> None:
        if self.size % 32:
            raise UserError(f"--size must be a multiple of 32, not {self.size}.")


# ---- data


@dataclass
class Lessons:
    """What training needs of the pictures: N rows, and a relit copy of each of them."""

    pictures: Tensor  # uint8 [2, N, 3, 128, 128]
    scores: Tensor  # [2, N, K]
    layout: Tensor  # [N, R]
    facts: Tensor  # int8 [2, N, F]
    kind: Tensor  # [N]
    held: Tensor  # bool [N]
    names: list[str]
    labels: list[dict[str, str]]
    teacher: attribute_teacher.Teacher

    def rows(self, rng: torch.Generator, count: int) -> Tensor:
        """Rows to train on: the kinds in fixed shares, never a held-out one."""
        free = ~self.held
        weights = torch.zeros(len(free))
        for kind, share in enumerate(SHARES):
            chosen = free & (self.kind == kind)
            weights[chosen] = share / chosen.sum().clamp(min=1)
        return torch.multinomial(weights, count, replacement=True, generator=rng)

    def target(self, rows: Tensor, lit: Tensor, flip: Tensor) -> Tensor:
        """[B, E] for rows [B], relit or not [B], flipped or not [B]; the layout of a changed
        picture is not known, and zero.
        """
        scores = self.scores[lit.long(), rows]
        scores = torch.where(flip[:, None], attribute_teacher.mirrored(scores), scores)
        return self.teacher.targets(scores, self.layout[rows] * (~(lit | flip))[:, None])


def prepare(options: ClipOptions) -> Lessons:
    """Tables of pictures, kept in the run's folder; probes; targets; facts."""
    run = Path(options.out)
    run.mkdir(parents=True, exist_ok=True)
    tables = _tables(options, run)
    table = attribute_teacher.Table.join(tables)
    labels = _labels(options, tables)
    held = held_out_rows(table)
    values, known = attribute_teacher.probe_labels(labels)
    probe = Probe(
        **_cached(
            run / "probe.pt",
            lambda: vars(Probe.fit(table.features, values, known & ~held[:, None])),
        )
    )
    probed = torch.cat(
        [probe(table.features), attribute_teacher.hair_probe(table, labels, ~held)], 1
    )
    relit = [_relit(run, part) for part in tables]
    whole = table.kind != attribute_teacher.KINDS.index("tight")
    raw = torch.cat([table.measured, probed], 1)
    relit_raw = torch.cat([torch.cat([part["measured"] for part in relit]), probed], 1)
    guide = attribute_teacher.Teacher.fit(
        raw[whole & ~held], table.pictures[whole & ~held], attribute_teacher.TeacherOptions()
    )
    scores = torch.stack([guide.scores(raw, table.kind), guide.scores(relit_raw, table.kind)])
    facts = torch.stack(
        [
            captions.hidden(captions.facts(part, of), ~whole)
            for part, of in zip(scores, (raw, relit_raw), strict=True)
        ]
    )
    layout = guide.layout(scores[0], table.pictures) * whole[:, None]
    pictures = torch.stack([table.pictures, torch.cat([part["pictures"] for part in relit])])
    return Lessons(pictures, scores, layout, facts, table.kind, held, table.names, labels, guide)


def _tables(options: ClipOptions, run: Path) -> list[attribute_teacher.Table]:
    found = [
        _table(run / "aligned.pt", lambda: attribute_teacher.aligned_table(Path(options.data)))
    ]
    if options.tight:
        found.append(
            _table(run / "tight.pt", lambda: attribute_teacher.tight_table(Path(options.tight)))
        )
    if options.generator and options.generated:
        if not options.latents:
            raise UserError("--generator needs --latents: the mean and covariance of its w.")
        found.append(_table(run / "generated.pt", lambda: _generate(options)))
    return found


def _labels(options: ClipOptions, tables: list[attribute_teacher.Table]) -> list[dict[str, str]]:
    """A row of labels for every picture."""
    found: list[dict[str, str]] = []
    for table in tables:
        kind = attribute_teacher.KINDS[int(table.kind[0])]
        rows: list[dict[str, str]] = [{} for _ in table.names]
        for path in {
            "aligned": (options.labels, options.more_labels, options.hair_labels),
            "tight": (options.tight_labels,),
        }.get(kind, ()):
            if path:
                rows = [
                    a | b
                    for a, b in zip(
                        rows, attribute_teacher.read_labels(Path(path), table.names), strict=True
                    )
                ]
        found += rows
    return found


def _relit(run: Path, table: attribute_teacher.Table) -> dict[str, Tensor]:
    """Relit copies of the aligned pictures; the others stand for themselves (of tight crops the
    outer part is not known).
    """
    if table.kind[0] != 0:
        return {"pictures": table.pictures, "measured": table.measured}
    return _cached(
        run / "relit-aligned.pt",
        lambda: attribute_teacher.relight(table, torch.Generator().manual_seed(0)),
    )


def _generate(options: ClipOptions) -> attribute_teacher.Table:
    generator, axes = load_generator(options.generator), load_latents(options.latents)
    rng = torch.Generator().manual_seed(options.seed)
    layers = generator.config.layers
    return attribute_teacher.generated_table(
        generator.synthesis,
        lambda count: attribute_teacher.wide_latents(axes, count, layers, rng),
        options.generated,
    )


def _table(path: Path, make) -> attribute_teacher.Table:
    return attribute_teacher.Table(**_cached(path, lambda: vars(make())))


def _cached(path: Path, make):
    """What `make` gives, computed once per run folder."""
    if path.exists():
        return torch.load(path, weights_only=True)
    value = make()
    save_atomic(value, path)
    return value


def held_out_rows(table: attribute_teacher.Table) -> Tensor:
    """Aligned pictures by the rule of all recipes; every twentieth tight crop; no generated
    picture.
    """
    aligned = [name for name, kind in zip(table.names, table.kind, strict=True) if kind == 0]
    held = held_out(aligned)
    tight = [i % 20 == 0 for i in range(int((table.kind == 1).sum()))]
    generated = [False] * int((table.kind == 2).sum())
    return torch.tensor([name in held for name in aligned] + tight + generated)
