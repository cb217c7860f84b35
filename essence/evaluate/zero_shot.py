"""How well the image-text encoder tells, by text prompts alone, what held-out pictures show."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from ..library.checkpoints import load_clip
from ..models.clip import ImageText
from ..train.clip_data import ClipOptions, prepare
from ..train.common import parse_options, to_float
from ..train.data.attribute_teacher import KINDS, read_labels
from ..train.data.captions import FACTS, prompts

# Question -> answer -> the facts whose prompts stand for it.
QUESTIONS = {
    "sex": {"female": ("woman",), "male": ("man",)},
    "age": {"0-19": ("baby", "child"), "20-49": ("young", "middle-aged"), "50+": ("old",)},
    "glasses": {"yes": ("glasses",), "no": ("no glasses",)},
    "hair": {name: (f"{name} hair",) for name in ("black", "brown", "blond", "red", "grey")},
    "smile": {"yes": ("smiling",), "no": ("serious",)},
    "mouth open": {"yes": ("mouth open",), "no": ("mouth closed",)},
    "hair length": {"long": ("long hair",), "short": ("short hair",)},
    "beard": {"yes": ("beard",), "no": ("shaved",)},
}
AGE_GROUPS = {
    "0-2": "0-19",
    "3-9": "0-19",
    "10-19": "0-19",
    "20-29": "20-49",
    "30-39": "20-49",
    "40-49": "20-49",
    "50-59": "50+",
    "60-69": "50+",
    "more than 70": "50+",
}


def embed_pictures(model: ImageText, pictures: Tensor) -> Tensor:
    """uint8 [N, 3, H, W] to [N, E]."""
    with torch.no_grad():
        return torch.cat([model.embed_images(to_float(part)) for part in pictures.split(64)])


def answers(model: ImageText, embeddings: Tensor, question: str) -> list[str]:
    """The answer whose prompts are nearest to each embedding."""
    choices = QUESTIONS[question]
    with torch.no_grad():
        ideas = torch.stack([_idea(model, facts) for facts in choices.values()])
    return [list(choices)[i] for i in (embeddings @ ideas.T).argmax(1).tolist()]


def _idea(model: ImageText, facts: Sequence[str]) -> Tensor:
    """Mean embedding of the prompts of some facts."""
    return F.normalize(
        torch.cat([model.embed_texts(prompts(fact)) for fact in facts]).mean(0), dim=0
    )


def accuracy(
    model: ImageText, embeddings: Tensor, question: str, truth: Sequence[str | None]
) -> tuple[float, float, int]:
    """Share of right answers, mean over the answers of the share right within each, and the number
    of pictures with a known truth.
    """
    right: dict[str, list[bool]] = {}
    for given, wanted in zip(answers(model, embeddings, question), truth, strict=True):
        if wanted:
            right.setdefault(wanted, []).append(given == wanted)
    count = sum(len(hits) for hits in right.values())
    share = sum(sum(hits) for hits in right.values()) / max(count, 1)
    balanced = sum(sum(hits) / len(hits) for hits in right.values()) / max(len(right), 1)
    return share, balanced, count


def truth_from_labels(question: str, row: Mapping[str, str]) -> str | None:
    """What a row of labels answers, or None."""
    if question == "sex":
        return row["gender"].lower() if row.get("gender") else None
    if question == "age":
        return AGE_GROUPS.get(row.get("age", ""))
    return row.get(question) or None


def truth_from_facts(question: str, facts: Tensor) -> list[str | None]:
    """What measured facts [N, F] answer, None where it is unclear."""
    truth: list[str | None] = [None] * len(facts)
    for answer, names in QUESTIONS[question].items():
        for i in (
            (facts[:, [FACTS.index(name) for name in names]].amax(1) > 0).nonzero()[:, 0].tolist()
        ):
            truth[i] = answer
    return truth


def report(
    model: ImageText, pictures: Tensor, labels: Sequence[Mapping[str, str]], facts: Tensor
) -> list[dict]:
    """A row for each question: against labels where there are any, else against the measured
    facts.
    """
    embeddings = embed_pictures(model, pictures)
    rows = []
    for question in QUESTIONS:
        truth = [truth_from_labels(question, row) for row in labels]
        source = "labels"
        if not any(truth):
            truth, source = truth_from_facts(question, facts), "measures"
        share, balanced, count = accuracy(model, embeddings, question, truth)
        if count:
            rows.append(
                {
                    "question": question,
                    "truth": source,
                    "pictures": count,
                    "accuracy": share,
                    "balanced": balanced,
                }
            )
    return rows


def explained(found: Tensor, wanted: Tensor) -> float:
    """R2 over all coordinates together of embeddings [N, E or more] against targets [N, E]; the
    ground coordinate is left out.
    """
    found, wanted = F.normalize(found[:, : wanted.shape[1]], dim=1), F.normalize(wanted, dim=1)
    return (1 - (found - wanted).square().sum() / (wanted - wanted.mean(0)).square().sum()).item()


@dataclass(frozen=True)
class ReportOptions(ClipOptions):
    model: str = field(
        default="", metadata={"help": "the image-text model; the run's own if empty"}
    )
    held_labels: str | None = field(
        default=None,
        metadata={"help": "CSV about the held-out aligned pictures: file, glasses, hair"},
    )


def evaluate(options: ReportOptions) -> list[dict]:
    """Figures on the held-out pictures of a run's tables, aligned ones and tight crops apart."""
    if options.threads:
        torch.set_num_threads(options.threads)
    lessons = prepare(options)
    model = load_clip(options.model or Path(options.out) / "clip.safetensors")
    rows = []
    for kind in ("aligned", "tight"):
        chosen = (lessons.held & (lessons.kind == KINDS.index(kind))).nonzero()[:, 0]
        if not len(chosen):
            continue
        labels = [lessons.labels[i] for i in chosen.tolist()]
        if kind == "aligned" and options.held_labels:
            names = [lessons.names[i] for i in chosen.tolist()]
            labels = [
                a | b
                for a, b in zip(labels, read_labels(Path(options.held_labels), names), strict=True)
            ]
        no = torch.zeros(len(chosen), dtype=torch.bool)
        wanted = lessons.target(chosen, no, no)
        rows.append(
            {
                "kind": kind,
                "question": "R2",
                "accuracy": explained(embed_pictures(model, lessons.pictures[0, chosen]), wanted),
            }
        )
        rows += [
            {"kind": kind} | row
            for row in report(model, lessons.pictures[0, chosen], labels, lessons.facts[0, chosen])
        ]
    return rows


def main(argv: list[str] | None = None) -> None:
    for row in evaluate(parse_options(ReportOptions, argv, __doc__)):
        print(
            *(f"{value:.3f}" if isinstance(value, float) else value for value in row.values()),
            sep="\t",
        )


if __name__ == "__main__":
    main()
