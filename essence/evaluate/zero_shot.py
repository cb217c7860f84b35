"""How well the image-text encoder tells what pictures show, by text prompts alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..models.clip import ImageText
from ..train.clip_batches import embed_pictures
from ..train.common import to_float
from ..train.data.attributes import MEASURED, measure_attributes
from ..train.data.captions import prompts
from ..train.face_landmarks import landmarks

# Question -> answer -> the facts whose prompts stand for it.
QUESTIONS = {
    "sex": {"female": ("woman",), "male": ("man",)},
    "age": {
        "0-19": ("baby", "child", "teenage"),
        "20-49": ("young", "middle-aged"),
        "50+": ("old",),
    },
    "glasses": {"yes": ("glasses",), "no": ("no glasses",)},
    "hair": {name: (f"{name} hair",) for name in ("black", "brown", "blond", "red", "grey")},
    "smile": {"yes": ("smiling",), "no": ("serious",)},
    "mouth open": {"yes": ("mouth open",), "no": ("mouth closed",)},
    "hair length": {"long": ("long hair",), "short": ("short hair",)},
    "beard": {"yes": ("beard",), "no": ("shaved",)},
    "hat": {"yes": ("hat", "headscarf"), "no": ("no hat",)},
}
# Questions whose truth is measured where nobody has labelled it: the attribute, and the answers of
# its upper and lower third.
MEASURED_QUESTIONS = {
    "smile": ("smile", "yes", "no"),
    "mouth open": ("mouth open", "yes", "no"),
    "hair length": ("hair long", "long", "short"),
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


@torch.no_grad()
def zero_shot_answers(model: ImageText, embeddings: Tensor, question: str) -> list[str]:
    """The answer to one of QUESTIONS whose prompts, averaged, are nearest to each embedding
    [N, E].
    """
    choices = known_choices(model, question)
    means = [
        torch.cat([model.embed_texts(prompts(fact)) for fact in facts]).mean(0)
        for facts in choices.values()
    ]
    nearest = (embeddings @ F.normalize(torch.stack(means), dim=1).T).argmax(1)
    return [list(choices)[i] for i in nearest.tolist()]


def known_choices(model: ImageText, question: str) -> dict[str, list[str]]:
    """The answers to one of QUESTIONS, each with those facts that the encoder was taught."""
    return {
        answer: [fact for fact in facts if not model.unknown_words(prompts(fact)[0])]
        for answer, facts in QUESTIONS[question].items()
    }


@dataclass(frozen=True)
class ZeroShotResult:
    question: str
    truth: str  # where it is from: "measures" or "labels"
    count: int  # pictures with a known truth
    share: float  # of right answers
    balanced: float  # mean over the answers of the share right within each


def zero_shot_results(
    model: ImageText, pictures: Tensor, labels: Sequence[Mapping[str, str]]
) -> Iterator[ZeroShotResult]:
    """A result for each question whose truth is known for some of the aligned pictures, uint8
    [N, 3, 128, 128]: from a row of labels for each, or from what is measured.
    """
    embeddings = embed_pictures(model, pictures)
    marks = torch.from_numpy(landmarks(pictures.permute(0, 2, 3, 1).contiguous().numpy()))
    measured = measure_attributes(to_float(pictures), marks)
    for question in QUESTIONS:
        if not all(known_choices(model, question).values()):
            continue
        truth, source = [truth_from_labels(question, row) for row in labels], "labels"
        if question in MEASURED_QUESTIONS and not any(truth):
            truth, source = truth_from_thirds(measured, *MEASURED_QUESTIONS[question]), "measures"
        right: dict[str, list[bool]] = {}
        for answer, wanted in zip(
            zero_shot_answers(model, embeddings, question), truth, strict=True
        ):
            if wanted:
                right.setdefault(wanted, []).append(answer == wanted)
        if right:
            count = sum(len(hits) for hits in right.values())
            share = sum(sum(hits) for hits in right.values()) / count
            balanced = sum(sum(hits) / len(hits) for hits in right.values()) / len(right)
            yield ZeroShotResult(question, source, count, share, balanced)


def truth_from_thirds(measured: Tensor, name: str, high: str, low: str) -> list[str | None]:
    """An answer for the upper and the lower third of a measured attribute, None between."""
    values = measured[:, list(MEASURED).index(name)]
    lower, upper = values.quantile(torch.tensor([1 / 3, 2 / 3])).tolist()
    return [high if value > upper else low if value < lower else None for value in values.tolist()]


def truth_from_labels(question: str, row: Mapping[str, str]) -> str | None:
    """What a row of labels answers, or None."""
    if question == "sex":
        return row["gender"].lower() if row.get("gender") else None
    if question == "age":
        return AGE_GROUPS.get(row.get("age", ""))
    if question == "hat" and row.get("headscarf") == "yes":
        return "yes"
    return row.get(question) or None
