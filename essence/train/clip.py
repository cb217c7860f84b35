"""Recipe for the small image-text encoder: `python -m essence train clip --data FOLDER --out RUN`.

The image side learns to give a weighted list of visible attributes (`teacher.py`) and, with the
text side, to agree with captions composed of them (`captions.py`). Several pictures may suit one
caption, so the contrastive loss (CLIP, arXiv 2103.00020) has many positives.
"""

from __future__ import annotations

import copy
import random
import time
from dataclasses import asdict
from pathlib import Path

import torch
import torch.nn.functional as F
from open_clip.model import CLIP
from open_clip.tokenizer import SimpleTokenizer
from torch import Tensor, nn
from tqdm import tqdm

from ..errors import UserError
from ..library.checkpoints import load_clip, save_clip
from ..models.clip import CLIP_MEAN, CLIP_STD, ImageText
from ..pictures.tensors import resample
from . import parallel
from .augment import degrade
from .clip_data import ClipOptions, Lessons, prepare
from .common import (
    CsvLog,
    average_into,
    load_resume,
    parse_options,
    precision,
    save_atomic,
    to_float,
    warm_cosine,
)
from .data import captions
from .data.attribute_teacher import TeacherOptions

CROWD = 1024  # pictures among which a caption's mean target is taken


def build(options: ClipOptions, embed_dim: int) -> tuple[dict, CLIP]:
    """open_clip's constructor arguments, and the model."""
    vision = {
        "image_size": options.size,
        "layers": list(options.layers),
        "width": options.width,
        "head_width": 32,
    }
    text = {
        "context_length": options.context,
        "vocab_size": 49408,
        "width": options.text_width,
        "heads": max(1, options.text_width // 32),
        "layers": options.text_layers,
    }
    config = {"embed_dim": embed_dim, "vision_cfg": vision, "text_cfg": text}
    return config, CLIP(**config).to(memory_format=torch.channels_last)


def train(options: ClipOptions) -> Path:
    """Runs the recipe, or goes on with it; returns the exported model's file."""
    if options.threads:
        torch.set_num_threads(options.threads)
    with parallel.processes(options.device) as device:
        torch.manual_seed(options.seed)
        with parallel.first_one_first():
            lessons = prepare(options)
        config, model = build(options, lessons.teacher.mix.shape[1] + lessons.layout.shape[1])
        run = Run(options, config, model.to(device))
        lesson = Lesson(lessons, options, device)
        both = parallel.spread(Both(model), device)
        bar = tqdm(
            total=options.steps,
            initial=run.step,
            desc="image-text",
            mininterval=10,
            disable=parallel.rank() > 0,
        )
        while run.progress() < 1:
            losses = lesson.step(both, run.step)
            run.update(losses["loss"])
            bar.update()
            if parallel.rank() == 0 and (run.step % options.every == 0 or run.progress() >= 1):
                held = held_cosine(run.average, lessons)
                run.save(
                    {"held_cosine": held} | {name: value.item() for name, value in losses.items()}
                )
                bar.set_postfix(held=f"{held:.3f}", captions=f"{losses['captions'].item():.2f}")
        bar.close()
    return run.exported


class Both(nn.Module):
    """Both towers in one forward, which gradient averaging hooks into."""

    def __init__(self, model: CLIP):
        super().__init__()
        self.model = model

    def forward(self, images: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return (
            self.model.encode_image(images),
            self.model.encode_text(tokens),
            self.model.logit_scale.exp(),
        )


class Run:
    """What is kept between steps and in the checkpoint: optimiser, moving average, step, log."""

    def __init__(self, options: ClipOptions, config: dict, model: CLIP):
        self.options, self.config, self.model = options, config, model
        if options.start:
            start_from(options, model)
        self.average = copy.deepcopy(model).requires_grad_(False)
        plain = [p for p in model.parameters() if p.ndim < 2]
        groups = [
            {"params": [p for p in model.parameters() if p.ndim > 1]},
            {"params": plain, "weight_decay": 0.0},
        ]
        self.optimizer = torch.optim.AdamW(
            groups, lr=options.lr, weight_decay=options.weight_decay, betas=(0.9, 0.98)
        )
        self.folder, self.step, self.began = Path(options.out), 0, time.time()
        self.before = 0.0  # seconds of earlier runs
        self.exported = self.folder / "clip.safetensors"
        if saved := load_resume(self.folder / "last.pt", config):
            self.model.load_state_dict(saved["model"])
            self.average.load_state_dict(saved["average"])
            self.optimizer.load_state_dict(saved["optimizer"])
            self.step, self.before = saved["step"], saved["seconds"]
        columns = ["step", "loss", "cosine", "captions", "centroid", "held_cosine", "seconds"]
        self.log = (
            CsvLog(self.folder / "log.csv", columns, self.step) if parallel.rank() == 0 else None
        )

    def progress(self) -> float:
        """0 ... 1, by steps or by time, whichever is further."""
        elapsed = self.seconds() / 60 / self.options.minutes if self.options.minutes else 0.0
        return parallel.agreed(max(self.step / self.options.steps, elapsed))

    def seconds(self) -> float:
        return self.before + time.time() - self.began

    def update(self, loss: Tensor) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = self.options.lr * warm_cosine(
                self.progress(), self.step, self.options.warmup, 0.02
            )
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.step += 1
        average_into(self.average, self.model, self.step, self.options.average)

    def save(self, figures: dict[str, float]) -> None:
        self.log.write({"step": self.step, "seconds": self.seconds()} | figures)
        save_atomic(
            {
                "architecture": self.config,
                "model": self.model.state_dict(),
                "average": self.average.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "step": self.step,
                "seconds": self.seconds(),
                "options": asdict(self.options),
            },
            self.folder / "last.pt",
        )
        save_clip(
            *grounded(self.config, self.average.state_dict(), self.options.ground),
            self.exported,
            name="essence-mini",
        )


def start_from(options: ClipOptions, model: CLIP) -> None:
    """The weights of a finished model, less its ground coordinate; coordinates of attributes that
    it lacks start at zero. They stand before the layout's. Raises UserError for another
    architecture."""
    state, layouts = dict(load_clip(options.start).model.state_dict()), TeacherOptions().layouts

    def fitted(rows: Tensor, count: int) -> Tensor:
        rows = rows[:-1]
        return torch.cat(
            [
                rows[:-layouts],
                rows.new_zeros(max(0, count - len(rows)), *rows.shape[1:]),
                rows[-layouts:],
            ]
        )

    for name in ("visual.attnpool.c_proj.weight", "visual.attnpool.c_proj.bias"):
        state[name] = fitted(state[name], len(model.state_dict()[name]))
    state["text_projection"] = fitted(
        state["text_projection"].T, model.text_projection.shape[1]
    ).T.contiguous()
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise UserError(
            f"{options.start} does not fit this run ({error}): give the same --size, --width and --layers."
        ) from error


def grounded(
    config: dict, state: dict[str, Tensor], ground: float
) -> tuple[dict, dict[str, Tensor]]:
    """The same model with one coordinate more: `ground` for every picture before the norm is made
    one, zero for every text.

    Without it a cosine sees directions only, and an ordinary target, whose embedding is short, asks
    for a caricature of the little that sets it apart. The comparison of texts with one picture does
    not change.
    """
    state = dict(state)
    weight, bias = state["visual.attnpool.c_proj.weight"], state["visual.attnpool.c_proj.bias"]
    state["visual.attnpool.c_proj.weight"] = torch.cat(
        [weight, weight.new_zeros(1, weight.shape[1])]
    )
    state["visual.attnpool.c_proj.bias"] = torch.cat([bias, bias.new_full((1,), ground)])
    state["text_projection"] = F.pad(state["text_projection"], (0, 1))
    return config | {"embed_dim": config["embed_dim"] + 1}, state


class Lesson:
    """Batches and losses; a batch depends on the seed and the step alone, so that a resumed run
    sees what it would have seen.
    """

    def __init__(self, lessons: Lessons, options: ClipOptions, device: str = "cpu"):
        self.lessons, self.options, self.device = lessons, options, device
        self.tokenizer = SimpleTokenizer(context_length=options.context)
        everyone = torch.arange(len(lessons.kind))
        no = torch.zeros(len(everyone), dtype=torch.bool)
        self.scale = (
            1 / lessons.target(everyone, no, no).norm(dim=1).mean()
        )  # so that embeddings have about unit norm

    def step(self, model: nn.Module, step: int) -> dict[str, Tensor]:
        rng = torch.Generator().manual_seed(
            hash((self.options.seed, step, parallel.rank())) % 2**63
        )
        rows = self.lessons.rows(rng, self.options.batch)
        lit, flip = torch.rand(2, len(rows), generator=rng) < torch.tensor([[0.35], [0.5]])
        images = to_float(self.lessons.pictures[lit.long(), rows])
        images = torch.where(flip[:, None, None, None], images.flip(3), images)
        images = clutter(degrade(images, rng), rng)
        target = self.lessons.target(rows, lit, flip) * self.scale
        facts = self.lessons.facts[lit.long(), rows]
        texts, used = self._captions(facts, step)
        model.train()
        images = standard(images.to(self.device), self.options.size).contiguous(
            memory_format=torch.channels_last
        )
        with precision(self.device):
            found, text, scale = model(images, self.tokenizer(texts).to(self.device))
        # The losses are small sums over tables that lie on the CPU.
        found, text = found.float().cpu(), F.normalize(text.float().cpu(), dim=1)
        trust = torch.where(
            self.lessons.kind[rows] == 1, 0.5, 1.0
        )  # half of a tight crop's target is a guess
        unit = F.normalize(found, dim=1)
        cosine = ((1 - (unit * F.normalize(target, dim=1)).sum(1)) * trust).mean()
        square = ((found - target).square().sum(1) * trust).mean()
        agree = captions.agreement(used, facts)
        contrast = contrastive(text @ unit.T * scale.float().cpu().clamp(max=30), agree)
        centroid = self._centroid(text, used, rng)
        loss = cosine + 0.5 * square + self.options.caption_weight * (contrast + 2 * centroid)
        return {"loss": loss, "cosine": 1 - cosine, "captions": contrast, "centroid": centroid}

    def _captions(self, facts: Tensor, step: int) -> tuple[list[str], list[tuple[str, ...]]]:
        rng = random.Random(f"{self.options.seed} {step} {parallel.rank()}")
        pairs = [captions.compose(captions.true_facts(row), rng) for row in facts]
        return [text for text, _ in pairs], [used for _, used in pairs]

    def _centroid(self, text: Tensor, used: list[tuple[str, ...]], rng: torch.Generator) -> Tensor:
        """1 - cosine between each caption and the mean target of the pictures that suit it."""
        rows = self.lessons.rows(rng, CROWD)
        no = torch.zeros(len(rows), dtype=torch.bool)
        target = F.normalize(self.lessons.target(rows, no, no), dim=1)
        suits = (captions.agreement(used, self.lessons.facts[0, rows]) > 0).float()
        enough = suits.sum(1) >= 4
        wanted = F.normalize(suits @ target, dim=1)
        return ((1 - (text * wanted).sum(1)) * enough).sum() / enough.sum().clamp(min=1)


def contrastive(logits: Tensor, agree: Tensor) -> Tensor:
    """CLIP's loss with many positives: logits [texts, pictures], agree 1 positive, -1 negative, 0
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


def standard(images: Tensor, size: int) -> Tensor:
    """As ImageText prepares pictures."""
    mean, std = torch.tensor(CLIP_MEAN).view(3, 1, 1), torch.tensor(CLIP_STD).view(3, 1, 1)
    return ((resample(images, size, "antialias") + 1) / 2 - mean) / std


def clutter(images: Tensor, rng: torch.Generator, share: float = 0.3) -> Tensor:
    """On some pictures a patch of another one near an upper corner or the lower edge: what is not
    the face should not matter much.
    """
    side = images.shape[-1]
    images = images.clone()
    for i in (torch.rand(len(images), generator=rng) < share).nonzero()[:, 0].tolist():
        height, width = torch.randint(side // 10, side // 4, (2,), generator=rng).tolist()
        left = 0 if torch.rand(1, generator=rng) < 0.5 else side - width
        top = int(torch.randint(0, side - height, (1,), generator=rng))
        other = images[int(torch.randint(len(images), (1,), generator=rng))]
        images[i, :, top : top + height, left : left + width] = other[
            :, top : top + height, left : left + width
        ]
    return images


@torch.no_grad()
def held_cosine(model: CLIP, lessons: Lessons) -> float:
    """Mean cosine between embedding and target on aligned pictures that were held out."""
    rows = (lessons.held & (lessons.kind == 0)).nonzero()[:, 0]
    no = torch.zeros(len(rows), dtype=torch.bool)
    wrapped = ImageText(copy.deepcopy(model).cpu().eval(), None, "held")
    found = torch.cat(
        [wrapped.embed_images(to_float(part)) for part in lessons.pictures[0, rows].split(64)]
    )
    return F.cosine_similarity(found, lessons.target(rows, no, no)).mean().item()


def main(argv: list[str] | None = None) -> None:
    print(train(parse_options(ClipOptions, argv, __doc__)))


if __name__ == "__main__":
    main()
