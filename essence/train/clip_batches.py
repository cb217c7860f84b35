"""Batches for the image-text recipe, whole on one device: pictures and copies in another light,
what the image side should give for each, and captions composed in advance.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from open_clip.tokenizer import SimpleTokenizer
from torch import Tensor

from ..models.clip import CLIP_MEAN, CLIP_STD, ImageText
from ..pictures.tensors import resample
from .augment import degrade, misalign
from .clip_data import ClipOptions
from .common import to_float
from .data import captions, tables
from .data.attribute_teacher import AttributeTeacher, TeacherOptions, mirrored
from .data.attributes import LOOKED, measure_attributes
from .data.faces import Faces, marks_of
from .data.tables import KINDS

SHARES = {"aligned": 0.46, "tight": 0.28, "generated": 0.2, "drawn": 0.06}  # of a batch
LIT_SHARE = 0.35  # of the aligned pictures in a batch
CAPTIONS = 4  # composed for each picture
CHUNK = 256  # pictures that are relit at once


@dataclass
class ClipDataset:
    """M pictures: N faces, and relit copies of the aligned ones behind them."""

    pictures: Tensor  # uint8 [M, 3, 128, 128]
    scores: Tensor  # [M, K]
    layout: Tensor  # [M, R]; of a relit picture it is not known, and zero
    facts: Tensor  # int8 [M, F]
    hints: Tensor  # [M, H], those of the picture before it was relit
    tokens: Tensor  # int32 [M, CAPTIONS, context]
    used: Tensor  # int64 [M, CAPTIONS, U], `captions.indices`
    kind: Tensor  # [M], an index into KINDS
    held: Tensor  # bool [M], held out
    lit: Tensor  # bool [M], a relit copy
    teacher: AttributeTeacher

    @classmethod
    def build(cls, faces: Faces, relit: int, context: int, seed: int, device: str) -> ClipDataset:
        """Of prepared faces, with `relit` copies of every aligned one."""
        rng = torch.Generator(device).manual_seed(seed)
        pictures = faces.decode().to(device)
        measured, probed = faces.measured.to(device), faces.probed.to(device)
        kind, held = faces.kind.long().to(device), faces.held.to(device)
        rows = (kind == KINDS.index("aligned")).nonzero()[:, 0].repeat(relit)
        copies = relit_copies(faces, pictures, rows, rng)
        order = torch.cat([torch.arange(len(faces), device=device), rows])
        lit = torch.arange(len(order), device=device) >= len(faces)
        kind, held = kind[order], held[order]
        pictures = torch.cat([pictures, copies[0]])
        raw = torch.cat([torch.cat([measured, copies[1]]), torch.cat([probed, copies[2]])], 1)

        whole = kind != KINDS.index("tight")
        fitted = (kind == KINDS.index("aligned")) | (kind == KINDS.index("generated"))
        fitted &= ~(held | lit)
        teacher = AttributeTeacher.fit(
            raw[fitted].cpu(), pictures[fitted].cpu(), TeacherOptions()
        ).to(device)
        scores = teacher.scores(raw, kind)
        facts = captions.without_outer_facts(captions.facts(scores, raw), ~whole)
        tokens, used = caption_bank(facts.cpu(), context, seed)
        return cls(
            pictures,
            scores,
            teacher.layout(scores, pictures) * (whole & ~lit)[:, None],
            facts,
            faces.hints.to(device)[order],
            tokens.to(device),
            used.to(device),
            kind,
            held,
            lit,
            teacher,
        )

    @property
    def embed_dim(self) -> int:
        return self.teacher.mix.shape[1] + self.layout.shape[1]

    def weights(self, tight: float = SHARES["tight"]) -> Tensor:
        """Chances [M] of being drawn: the kinds and relit copies in fixed shares, that of tight
        crops as given; never a held-out picture.
        """
        weights = torch.zeros(len(self.kind), device=self.kind.device)
        others = (1 - tight) / (1 - SHARES["tight"])
        for kind, share in SHARES.items():
            share = tight if kind == "tight" else share * others
            there = ~self.held & (self.kind == KINDS.index(kind))
            copies = (there & self.lit).any()
            for lit in (False, True):
                part = there & (self.lit == lit)
                of_kind = (LIT_SHARE if lit else 1 - LIT_SHARE) if copies else 1.0
                weights[part] = share * of_kind / part.sum().clamp(min=1)
        return weights

    def targets(self, rows: Tensor, flip: Tensor | None = None) -> Tensor:
        """Target embeddings [B, E] of rows [B], mirrored where `flip` [B] says so; the layout of a
        mirrored picture is not known, and zero.
        """
        scores, layout = self.scores[rows], self.layout[rows]
        if flip is not None:
            scores = torch.where(flip[:, None], mirrored(scores), scores)
            layout = layout * ~flip[:, None]
        return self.teacher.targets(scores, layout)


def relit_copies(
    faces: Faces, pictures: Tensor, rows: Tensor, rng: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Pictures, measures and probes of the given rows in another light. What the light changes is
    measured on both pictures as they are kept, which may be smaller than those first measured.
    """
    drawn_column = faces.probed.shape[1] - len(LOOKED) + list(LOOKED).index("drawn")
    found = []
    for part in rows.split(CHUNK):
        before, here = pictures[part], part.to(faces.marks.device)
        after, drawn = tables.relight(before, rng)
        marks = marks_of(faces.marks[here]).to(before.device)
        change = measure_attributes(to_float(after), marks) - measure_attributes(
            to_float(before), marks
        )
        probed = faces.probed[here].to(before.device)
        probed[:, drawn_column] = torch.where(drawn, 1.0, probed[:, drawn_column])
        found.append((after, faces.measured[here].to(before.device) + change, probed))
    if not found:
        return pictures[:0], faces.measured[:0].to(rng.device), faces.probed[:0].to(rng.device)
    after, measured, probed = (torch.cat(column) for column in zip(*found, strict=True))
    return after, measured, probed


def caption_bank(facts: Tensor, context: int, seed: int) -> tuple[Tensor, Tensor]:
    """Captions of every row of `facts`: tokens [M, CAPTIONS, context], and the facts that each uses
    [M, CAPTIONS, U].
    """
    tokenize = WordTokenizer(context)
    choice = random.Random(seed)
    tokens, used = [], []
    for row in facts:
        true = captions.true_facts(row)
        for _ in range(CAPTIONS):
            text, names = captions.compose(true, choice)
            tokens.append(tokenize(text))
            used.append(captions.indices(names, captions.MOST_USED))
    shape = (len(facts), CAPTIONS, -1)
    return torch.tensor(tokens, dtype=torch.int32).view(shape), torch.tensor(used).view(shape)


@torch.no_grad()
def embed_pictures(model: ImageText, pictures: Tensor) -> Tensor:
    """uint8 [N, 3, H, W] to unit embeddings [N, E]."""
    return torch.cat([model.embed_images(to_float(part)) for part in pictures.split(64)])


class WordTokenizer:
    """open_clip's tokenizer for plain captions; it splits at spaces, so that what it gives for a
    word can be kept.
    """

    def __init__(self, context: int):
        self.tokenizer, self.context = SimpleTokenizer(context_length=context), context
        self.words: dict[str, list[int]] = {}

    def __call__(self, text: str) -> list[int]:
        """`context` tokens, the last one the end's where the text is too long."""
        found = [self.tokenizer.sot_token_id]
        for word in text.lower().split():
            if word not in self.words:
                self.words[word] = self.tokenizer.encode(word)
            found += self.words[word]
        end = self.tokenizer.eot_token_id
        found = [*found[: self.context - 1], end]
        return found + [0] * (self.context - len(found))


class Batches:
    """Draws batches; each depends on its seed alone, so that a resumed run sees what it would have
    seen.
    """

    def __init__(self, dataset: ClipDataset, options: ClipOptions):
        self.dataset, self.size, self.augment = dataset, options.size, options.augment
        self.weights = dataset.weights(options.tight_share)
        self.drawable = self.weights.nonzero()[:, 0]
        self.weights = self.weights[self.drawable]
        device = self.weights.device
        self.mean = torch.tensor(CLIP_MEAN, device=device).view(3, 1, 1)
        self.std = torch.tensor(CLIP_STD, device=device).view(3, 1, 1)

    def rows(self, count: int, rng: torch.Generator) -> Tensor:
        drawn = torch.multinomial(self.weights, count, replacement=True, generator=rng)
        return self.drawable[drawn]

    def pictures(self, rows: Tensor, flip: Tensor, rng: torch.Generator) -> Tensor:
        """[B, 3, size, size], degraded and preprocessed as `ImageText` does."""
        images = to_float(self.dataset.pictures[rows])
        images = torch.where(flip[:, None, None, None], images.flip(3), images)
        images = add_clutter(degrade(images, rng), rng)
        if self.augment:
            images = vary(images, rng, self.augment)
        images = resample(images, self.size, "antialias")
        images = ((images + 1) / 2 - self.mean) / self.std
        return images.contiguous(memory_format=torch.channels_last)


def add_clutter(images: Tensor, rng: torch.Generator, share: float = 0.3) -> Tensor:
    """On some pictures a patch of another one at the left or right edge: what is not the face
    should not matter much.
    """
    count, side = len(images), images.shape[-1]
    chance, left, top, width, height = torch.rand(5, count, 1, 1, generator=rng, device=rng.device)
    width, height = (side * (0.1 + 0.15 * part) for part in (width, height))
    top = top * (side - height)
    place = torch.arange(side, device=images.device)
    across = torch.where(left < 0.5, place < width, place >= side - width)
    inside = across & ((place >= top) & (place < top + height)).transpose(1, 2)
    others = images[torch.randperm(count, generator=rng, device=rng.device)]
    return torch.where((inside & (chance < share))[:, None], others, images)


def vary(images: Tensor, rng: torch.Generator, strength: float) -> Tensor:
    """Turned, zoomed and moved much further than a camera's fault, and some with a rectangle of one
    colour. Colours and light stay: they are among what is asked.
    """
    turn, zoom, shift = (strength * part for part in (0.12, 0.1, 0.08))
    return hide(misalign(images, rng, turn, zoom, shift), rng, 0.4 * strength)


def hide(images: Tensor, rng: torch.Generator, share: float) -> Tensor:
    """On some pictures a rectangle, a tenth to four tenths of each side, of one random colour."""
    count, side = len(images), images.shape[-1]
    dice = torch.rand(8, count, 1, 1, generator=rng, device=rng.device)
    chance, left, top, width, height = dice[:5]
    width, height = 0.1 + 0.3 * width, 0.1 + 0.3 * height
    place = (torch.arange(side, device=images.device) + 0.5) / side

    def within(start: Tensor, length: Tensor) -> Tensor:
        start = start * (1 - length)
        return (place >= start) & (place < start + length)

    inside = within(left, width) & within(top, height).transpose(1, 2) & (chance < share)
    colour = dice[5:].transpose(0, 1) * 2 - 1
    return torch.where(inside[:, None], colour, images)


def contrastive_loss(logits: Tensor, agree: Tensor) -> Tensor:
    """CLIP's loss with many positives: logits [texts, pictures]; agree 1 positive, -1 negative, 0
    left out.
    """
    logits = logits.masked_fill(agree == 0, -1e4)
    positive = (agree > 0).float()
    both = []
    for scores, right in ((logits, positive), (logits.T, positive.T)):
        count = right.sum(1)
        each = -(scores.log_softmax(1) * right).sum(1) / count.clamp(min=1)
        both.append((each * (count > 0)).sum() / (count > 0).sum().clamp(min=1))
    return sum(both) / 2


def centroid_loss(text: Tensor, suits: Tensor, target: Tensor) -> Tensor:
    """1 - cosine between each caption [C, E] and the mean target of the pictures, unit [N, E], that
    it suits (bool [C, N]); captions that suit fewer than four are left out.
    """
    suits = suits.float()
    enough = suits.sum(1) >= 4
    wanted = F.normalize(suits @ target, dim=1)
    return ((1 - (text * wanted).sum(1)) * enough).sum() / enough.sum().clamp(min=1)
