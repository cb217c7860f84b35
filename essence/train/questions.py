"""Questions about people whose answers exclude each other, asked so that every answer that there is
comes equally often: what is rare is said of too few pictures otherwise, and an old man is taken for
a middle-aged one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, pairwise

import torch
import torch.nn.functional as F
from torch import Tensor

from .clip_batches import ClipDataset
from .data import captions
from .data.captions import FACTS

# Of the facts in one row a picture shows one; of ages two may hold.
QUESTIONS = (
    ("woman", "man"),
    ("baby", "child", "teenage", "young", "middle-aged", "old"),
    captions.HAIR,
    ("glasses", "no glasses"),
    ("beard", "shaved"),
    ("moustache", "shaved"),
    ("hat", "headscarf", "no hat"),
    ("smiling", "serious"),
    ("mouth open", "mouth closed"),
    ("long hair", "short hair"),
    ("white", "black", "asian", "indian"),
)
SAID = 2  # prompts for each answer in a step


@dataclass(frozen=True)
class Question:
    """Answers that exclude each other, and the pictures of which one is known to be right."""

    tokens: list[Tensor]  # int [P, context], prompts of each answer
    rows: Tensor  # int [N], pictures
    right: Tensor  # bool [N, answers]
    weights: Tensor  # [N], how often a picture is drawn
    columns: tuple[int, ...] = ()  # of FACTS, the answers

    @cached_property
    def chances(self) -> Tensor:
        """How often a picture is drawn for each answer that there is, [answers, N]."""
        return (self.right[:, self.right.any(0)] * self.weights[:, None]).T

    def draw(self, count: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """Pictures [count], every answer that there is equally often, and what is right of them,
        bool [count, answers].
        """
        each = -(-count // len(self.chances))
        drawn = torch.multinomial(self.chances, each, True, generator=rng).T.flatten()[:count]
        return self.rows[drawn], self.right[drawn]


def questions(
    tokenizer: Callable[[Sequence[str]], Tensor], dataset: ClipDataset, weights: Tensor
) -> list[Question]:
    """Those of QUESTIONS to which two answers occur among the pictures that may be learned from,
    which are drawn as often as `weights` [M] say.
    """
    found = []
    for answers in QUESTIONS:
        columns = tuple(FACTS.index(answer) for answer in answers)
        right = dataset.facts[:, columns] > 0
        rows = (right.any(1) & (weights > 0)).nonzero()[:, 0]
        if right[rows].any(0).sum() > 1:
            tokens = [tokenizer(captions.prompts(answer)) for answer in answers]
            tokens = [each.to(rows.device) for each in tokens]
            found.append(Question(tokens, rows, right[rows], weights[rows], columns))
    return found


class Exam:
    """All questions together, with A answers: no step of it waits for the device."""

    def __init__(self, asked: Sequence[Question]):
        self.asked = asked
        prompts = [tokens for question in asked for tokens in question.tokens]
        most = max(len(tokens) for tokens in prompts)
        # int [A, P, context], each answer's prompts over and over
        self.prompts = torch.stack(
            [tokens[torch.arange(most, device=tokens.device) % len(tokens)] for tokens in prompts]
        )
        columns = [column for question in asked for column in question.columns]
        self.columns = torch.tensor(columns, device=self.prompts.device)
        ends = accumulate((len(question.columns) for question in asked), initial=0)
        self.parts = [slice(a, b) for a, b in pairwise(ends)]

    def rows(self, count: int, rng: torch.Generator) -> Tensor:
        """Pictures for every question, `count` each."""
        return torch.cat([question.draw(count, rng)[0] for question in self.asked])

    def tokens(self, rng: torch.Generator) -> Tensor:
        """SAID prompts of every answer, [A * SAID, context]."""
        answers, prompts, context = self.prompts.shape
        shape = (answers, SAID, 1)
        which = torch.randint(prompts, shape, generator=rng, device=self.prompts.device)
        return self.prompts.gather(1, which.expand(-1, -1, context)).flatten(0, 1)

    def loss(self, pictures: Tensor, texts: Tensor, facts: Tensor, scale: Tensor) -> Tensor:
        """Mean over the questions of `balanced_loss`: unit embeddings of pictures [B, E] and of
        prompts [A * SAID, E], what is known of the pictures, int8 [B, F].
        """
        said = F.normalize(texts.unflatten(0, (-1, SAID)).mean(1), dim=1)
        logits, right = pictures @ said.T * scale, facts[:, self.columns] > 0
        return torch.stack(
            [balanced_loss(logits[:, part], right[:, part]) for part in self.parts]
        ).mean()


def balanced_loss(logits: Tensor, right: Tensor) -> Tensor:
    """Cross-entropy of the right answers [B, A], where any is known; every answer that occurs has
    the same weight, however many pictures have it.
    """
    chances = logits.log_softmax(1).masked_fill(~right, -1e4)
    share = right / right.sum(1, keepdim=True).clamp(min=1)  # of a picture between two ages half
    weight = (share / share.sum(0).clamp(min=1)).sum(1)
    return -(chances.logsumexp(1) * weight).sum() / weight.sum().clamp(min=1e-6)
