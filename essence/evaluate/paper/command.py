"""The paper's experiments, with its rivals, by one command: `python -m essence evaluate paper --out
DIR [--quick]`.

Figures (sources on top, targets left), tables as CSV and Markdown, and index.html, which shows all
and needs nothing else. People and targets are made by the generator and drawn by code. A run that
was stopped goes on where it was; another model set, other weights or more people begin anew.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from ...errors import UserError
from ...library.checkpoints import load_arcface
from ...studio import Studio
from ...train.common import described, parse_options
from ..judging import juror_for
from .ablation import ablation_section
from .comparison import comparison_sections
from .contenders import QUICK, WHOLE, Scale, contenders
from .contents import Section, write_report
from .figures import church_section, drawn_section, persons_section
from .study import Study

FORMATS = ("jpg", "png")


@dataclass(frozen=True)
class PaperOptions:
    out: str = field(metadata={"help": "folder of the report"})
    quick: bool = described(False, "few targets, people and steps: minutes instead of half an hour")
    model: str = described("mini", "model set")
    church: str = described("church", "model set of churches; skipped where it is not here")
    judge: str = described(
        "", "an open_clip model as the judge, such as ViT-B-16-SigLIP/webli (default: the bundled)"
    )
    arcface: str = described("", "ArcFace's model_ir_se50.pth, for identity as papers measure it")
    format: str = described("jpg", "of the figures, jpg or png")
    threads: int = described(0, "0: torch's choice")

    def __post_init__(self) -> None:
        if self.format not in FORMATS:
            raise UserError(f"--format is jpg or png, not '{self.format}'.")


def report(options: PaperOptions, studio: Studio, scale: Scale) -> list[Section]:
    """Every section, in the paper's order. Raises UserError."""
    out = Path(options.out)
    out.mkdir(parents=True, exist_ok=True)
    arcface = load_arcface(options.arcface) if options.arcface else None
    study = Study(studio, juror_for(studio.models, options.judge), scale, out, arcface)
    compared = contenders(studio, scale)
    directions = [c for c in compared if not study.gives_pictures(c) and c.name != "released"]
    sections = comparison_sections(study, compared)
    sections.append(church_section(options.church, scale, compared[0], out))
    sections.append(drawn_section(study, compared[0]))
    sections.append(persons_section(study, directions))
    sections.append(ablation_section(study))
    return sections


def head(options: PaperOptions, studio: Studio, scale: Scale, seconds: float) -> list[str]:
    """What belongs on top of every report."""
    flags = " --quick" if scale is QUICK else ""
    command = f"python -m essence evaluate paper --out DIR --model {options.model}{flags}"
    return [
        f"Made by `{command}` with the generator {studio.models.id} on {studio.device}, "
        f"in {seconds / 60:.0f} minutes of this run. All faces are generated or drawn by code.",
        "It reports what was measured, whoever it favours.",
    ]


def main(argv: Sequence[str] | None = None) -> None:
    options = parse_options(PaperOptions, argv, __doc__)
    if options.threads:
        torch.set_num_threads(options.threads)
    scale, began = QUICK if options.quick else WHOLE, time.monotonic()
    studio = Studio(options.model)
    sections = report(options, studio, scale)
    texts = head(options, studio, scale, time.monotonic() - began)
    write_report(sections, "Essence: the evidence", texts, Path(options.out), f".{options.format}")
    print(f"{Path(options.out) / 'index.html'}")


if __name__ == "__main__":
    main()
