"""A step of the image-text recipe: its batch, drawn on the device, and the losses on it. Nothing in
the losses waits for the device or depends on what is drawn, so that a GPU records them.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from open_clip.tokenizer import SimpleTokenizer
from torch import Tensor, nn

from .clip_batches import CAPTIONS, Batches, ClipDataset, centroid_loss, contrastive_loss
from .clip_data import ClipOptions
from .common import precision
from .data import captions
from .data.tables import KINDS
from .parallel import rank
from .questions import Exam, questions

CAPTION_PICTURES = 1024  # pictures among which a caption's mean target is taken
MOST_SCALE = 30.0  # of the cosines in the contrastive loss
FLIP_SHARE = 0.5  # of a batch
TIGHT_TRUST = 0.5  # half of a tight crop's target is a guess
ASKED_FROM, ASKED_IN_FULL = 0.3, 0.6  # of the training: there are no answers before there are words
TERMS = ("loss", "cosine", "captions", "centroid", "hints", "answers")


class Batch(NamedTuple):
    """What one step learns from: R pictures, C captions of the first C of them, and N others, with
    whose targets captions are compared; prompts of A answers stand behind the captions.
    """

    images: Tensor  # [R, 3, S, S], preprocessed
    tokens: Tensor  # int [C + A * SAID, context]
    target: Tensor  # [R, E], embeddings
    trust: Tensor  # [R], in the target
    hints: Tensor  # [R, H]
    plain: Tensor  # bool [R], not mirrored
    facts: Tensor  # int8 [R, F]
    used: Tensor  # [C, U], the facts of each caption
    suits: Tensor  # bool [C, N], captions and others
    others: Tensor  # [N, E], unit targets
    question_weight: Tensor  # [], of the answers' loss


class TrainingStep:
    """Batches and their loss."""

    def __init__(self, dataset: ClipDataset, options: ClipOptions):
        self.dataset, self.options = dataset, options
        self.batches = Batches(dataset, options)
        self.device = dataset.kind.device
        # So that embeddings have about unit norm.
        self.scale = 1 / dataset.targets(self.batches.drawable).norm(dim=1).mean()
        self.mirrored = torch.tensor(captions.MIRRORED, device=self.device)
        tight = torch.tensor([kind == "tight" for kind in KINDS], device=self.device)
        self.trust = torch.where(tight, TIGHT_TRUST, 1.0)
        self.exam = self.questions_to_ask() if options.asked else None

    def questions_to_ask(self) -> Exam | None:
        tokenizer = SimpleTokenizer(context_length=self.options.context)
        found = questions(tokenizer, self.dataset, self.dataset.weights(self.options.tight_share))
        return Exam(found) if found else None

    def draw(self, step: int, progress: float) -> Batch:
        """The batch of this step, at 0 to 1 of the training."""
        dataset, batches, options = self.dataset, self.batches, self.options
        seed = hash((options.seed, step, rank())) % 2**63
        rng = torch.Generator(self.device).manual_seed(seed)
        rows = batches.rows(options.batch, rng)
        flip, which = torch.rand(2, len(rows), generator=rng, device=self.device)
        flip, which = flip < FLIP_SHARE, (which * CAPTIONS).long()
        tokens, used = dataset.tokens[rows, which], dataset.used[rows, which]
        if self.exam:
            asked = self.exam.rows(options.asked, rng)
            turned = torch.rand(len(asked), generator=rng, device=self.device) < FLIP_SHARE
            rows, flip = torch.cat([rows, asked]), torch.cat([flip, turned])
            tokens = torch.cat([tokens, self.exam.tokens(rng).to(tokens.dtype)])
        facts = dataset.facts[rows]
        images, others = batches.pictures(rows, flip, rng), batches.rows(CAPTION_PICTURES, rng)
        return Batch(
            images=images,
            tokens=tokens,
            target=dataset.targets(rows, flip) * self.scale,
            trust=self.trust[dataset.kind[rows]],
            hints=dataset.hints[rows],
            plain=~flip,
            facts=torch.where(flip[:, None], facts[:, self.mirrored], facts),
            used=used,
            suits=captions.agreement(used, dataset.facts[others]) > 0,
            others=F.normalize(dataset.targets(others), dim=1),
            question_weight=torch.full((), self.question_weight(progress), device=self.device),
        )

    def question_weight(self, progress: float) -> float:
        """0 at first, and whole in the second half."""
        risen = (progress - ASKED_FROM) / (ASKED_IN_FULL - ASKED_FROM)
        return self.options.question_weight * min(1.0, max(0.0, risen))

    def losses(self, towers: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """TERMS of a batch."""
        options, said = self.options, len(batch.used)
        with precision(self.device):
            found, hints, text, scale = towers(batch.images, batch.tokens)
        found, text = found.float(), F.normalize(text.float(), dim=1)
        text, prompts = text[:said], text[said:]
        unit, scale = F.normalize(found, dim=1), scale.float().clamp(max=MOST_SCALE)
        cosine = ((1 - (unit * F.normalize(batch.target, dim=1)).sum(1)) * batch.trust).mean()
        square = ((found - batch.target).square().sum(1) * batch.trust).mean()
        agree = captions.agreement(batch.used, batch.facts)
        contrast = contrastive_loss(text @ unit.T * scale, agree)
        centroid = centroid_loss(text, batch.suits, batch.others)
        # What is left and right in a hint is not known of a mirrored picture.
        hint = ((hints.float() - batch.hints).square().mean(1) * batch.plain).mean()
        loss = cosine + 0.5 * square + options.caption_weight * (contrast + 2 * centroid)
        loss = loss + options.hint_weight * hint
        answers = torch.zeros_like(loss)
        if self.exam:
            answers = self.exam.loss(unit, prompts, batch.facts, scale)
            loss = loss + batch.question_weight * answers
        return dict(zip(TERMS, (loss, 1 - cosine, contrast, centroid, hint, answers), strict=True))
