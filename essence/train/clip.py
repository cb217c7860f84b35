"""Recipe for the small image-text encoder: `python -m essence train clip --data FOLDER --out RUN`.

The image side learns to give a weighted list of visible attributes (`data.attribute_teacher`) and,
with the text side, to agree with captions composed of them (`data.captions`). Several pictures may
suit one caption, so the contrastive loss (CLIP, arXiv 2103.00020) has many positives.
"""

from __future__ import annotations

import copy
import random
import time
from collections.abc import Sequence
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
from ..models.clip import CLIP_MEAN, CLIP_STD, TAUGHT, ImageText
from ..pictures.tensors import resample
from .augment import degrade
from .clip_data import ClipDataset, ClipOptions, load_dataset
from .common import (
    CsvLog,
    descend,
    load_checkpoint,
    parse_options,
    precision,
    save_atomic,
    to_float,
    update_average,
    warm_cosine,
)
from .data import captions
from .data.attribute_teacher import TeacherOptions
from .parallel import (
    data_parallel,
    first_process_first,
    from_first_process,
    process_group,
    rank,
)

COLUMNS = ("step", "loss", "cosine", "captions", "centroid", "held_cosine", "seconds")
CAPTION_PICTURES = 1024  # pictures among which a caption's mean target is taken
LAST_RATE = 0.02  # of `lr`
LIT_SHARE, FLIP_SHARE = 0.35, 0.5  # of a batch


def train(options: ClipOptions) -> Path:
    """Run or resume the recipe; returns the exported model's file. Raises UserError."""
    if options.threads:
        torch.set_num_threads(options.threads)
    with process_group(options.device) as device:
        torch.manual_seed(options.seed)
        with first_process_first():
            dataset = load_dataset(options)
        config, model = new_model(options, dataset.embed_dim)
        state = TrainingState(options, config, model.to(device))
        step = TrainingStep(dataset, options, device)
        towers = data_parallel(Towers(model), device)
        with tqdm(
            total=options.steps,
            initial=state.step,
            desc="image-text",
            mininterval=10,
            disable=rank() > 0,
        ) as bar:
            while state.progress < 1:
                terms = step.losses(towers, state.step)
                state.update(terms["loss"])
                bar.update()
                due = state.step % options.every == 0 or state.progress >= 1
                if due and rank() == 0:
                    held = held_cosine(state.average, dataset)
                    state.save({"held_cosine": held} | {k: v.item() for k, v in terms.items()})
                    bar.set_postfix(held=f"{held:.3f}", captions=f"{terms['captions']:.2f}")
    return state.exported


# ---- the model


def new_model(options: ClipOptions, embed_dim: int) -> tuple[dict, CLIP]:
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


class Towers(nn.Module):
    """Both towers in one forward, which gradient averaging hooks into."""

    def __init__(self, model: CLIP):
        super().__init__()
        self.model = model

    def forward(self, images: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Embeddings of pictures and of texts, and the scale of the logits."""
        model = self.model
        return model.encode_image(images), model.encode_text(tokens), model.logit_scale.exp()


def start_from(options: ClipOptions, model: CLIP) -> None:
    """Take the weights of a finished model, less its ground coordinate; the coordinates of
    attributes that it lacks start at zero. They stand before those of the layout. Raises UserError
    for another architecture.
    """
    state, layouts = dict(load_clip(options.start).model.state_dict()), TeacherOptions().layouts

    def fitted(rows: Tensor, count: int) -> Tensor:
        rows = rows[:-1]
        missing = rows.new_zeros(max(0, count - len(rows)), *rows.shape[1:])
        return torch.cat([rows[:-layouts], missing, rows[-layouts:]])

    for name in ("visual.attnpool.c_proj.weight", "visual.attnpool.c_proj.bias"):
        state[name] = fitted(state[name], len(model.state_dict()[name]))
    projection = fitted(state["text_projection"].T, model.text_projection.shape[1])
    state["text_projection"] = projection.T.contiguous()
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise UserError(
            f"{options.start} does not fit this run ({error}): give the same --size, --width and "
            "--layers."
        ) from error


def with_ground(
    config: dict, state: dict[str, Tensor], ground: float
) -> tuple[dict, dict[str, Tensor]]:
    """The same model with one coordinate more: `ground` for every picture, before the embedding is
    normalised, and zero for every text.

    Without it a cosine sees directions only, and an ordinary target, whose embedding is short, asks
    for a caricature of the little that sets it apart. The comparison of texts with one picture does
    not change.
    """
    state = dict(state)
    weight, bias = state["visual.attnpool.c_proj.weight"], state["visual.attnpool.c_proj.bias"]
    no_weight = weight.new_zeros(1, weight.shape[1])
    state["visual.attnpool.c_proj.weight"] = torch.cat([weight, no_weight])
    state["visual.attnpool.c_proj.bias"] = torch.cat([bias, bias.new_full((1,), ground)])
    state["text_projection"] = F.pad(state["text_projection"], (0, 1))
    return config | {"embed_dim": config["embed_dim"] + 1}, state


# ---- the run


class TrainingState:
    """Model, moving average, optimiser, step and log: what is kept between steps."""

    def __init__(self, options: ClipOptions, config: dict, model: CLIP):
        """`model`, with the weights of `options.start` or of the checkpoint in `options.out` where
        there are any. Raises UserError for another architecture.
        """
        self.options, self.config, self.model = options, config, model
        if options.start:
            start_from(options, model)
        self.average = copy.deepcopy(model).requires_grad_(False)
        groups = [
            {"params": [p for p in model.parameters() if p.ndim > 1]},
            {"params": [p for p in model.parameters() if p.ndim < 2], "weight_decay": 0.0},
        ]
        self.optimizer = torch.optim.AdamW(
            groups, lr=options.lr, weight_decay=options.weight_decay, betas=(0.9, 0.98)
        )
        self.folder, self.step, self.began = Path(options.out), 0, time.time()
        self.seconds_before = 0.0  # of earlier runs
        self.exported = self.folder / "clip.safetensors"
        if (saved := load_checkpoint(self.folder / "last.pt", config)) is not None:
            for name in ("model", "average", "optimizer"):
                getattr(self, name).load_state_dict(saved[name])
            self.step, self.seconds_before = saved["step"], saved["seconds"]
        self.log = CsvLog(self.folder / "log.csv", COLUMNS, self.step) if rank() == 0 else None

    @property
    def seconds(self) -> float:
        return self.seconds_before + time.time() - self.began

    @property
    def progress(self) -> float:
        """0 to 1, by steps or by time, whichever is further; the same in all processes."""
        minutes = self.options.minutes
        by_time = self.seconds / 60 / minutes if minutes else 0.0
        return from_first_process(max(self.step / self.options.steps, by_time))

    def update(self, loss: Tensor) -> None:
        options = self.options
        factor = warm_cosine(self.progress, self.step, options.warmup, LAST_RATE)
        for group in self.optimizer.param_groups:
            group["lr"] = options.lr * factor
        descend(self.optimizer, loss, max_norm=1.0)
        self.step += 1
        update_average(self.average, self.model, self.step, options.average)

    def save(self, figures: dict[str, float]) -> None:
        """Log the figures, write the checkpoint and export the averaged model."""
        self.log.write({"step": self.step, "seconds": self.seconds} | figures)
        names = ("model", "average", "optimizer")
        state = {name: getattr(self, name).state_dict() for name in names}
        state |= {"step": self.step, "seconds": self.seconds, "options": asdict(self.options)}
        save_atomic(state | {"architecture": self.config}, self.folder / "last.pt")
        config, weights = with_ground(self.config, state["average"], self.options.ground)
        save_clip(config, weights, self.exported, name=TAUGHT)


class TrainingStep:
    """Batches and their loss; a batch depends on the seed and the step alone, so that a resumed run
    sees what it would have seen.
    """

    def __init__(self, dataset: ClipDataset, options: ClipOptions, device: str = "cpu"):
        self.dataset, self.options, self.device = dataset, options, device
        self.tokenizer = SimpleTokenizer(context_length=options.context)
        # So that embeddings have about unit norm.
        self.scale = 1 / dataset.targets(torch.arange(len(dataset.kind))).norm(dim=1).mean()

    def losses(self, model: nn.Module, step: int) -> dict[str, Tensor]:
        """`loss` and its terms for the batch of this step."""
        seed = hash((self.options.seed, step, rank())) % 2**63
        rng = torch.Generator().manual_seed(seed)
        rows = self.dataset.draw_rows(rng, self.options.batch)
        shares = torch.tensor([[LIT_SHARE], [FLIP_SHARE]])
        lit, flip = torch.rand(2, len(rows), generator=rng) < shares
        images = to_float(self.dataset.pictures[lit.long(), rows])
        images = torch.where(flip[:, None, None, None], images.flip(3), images)
        images = add_clutter(degrade(images, rng), rng)
        target = self.dataset.targets(rows, lit, flip) * self.scale
        facts = self.dataset.facts[lit.long(), rows]
        choice = random.Random(f"{self.options.seed} {step} {rank()}")
        composed = [captions.compose(captions.true_facts(row), choice) for row in facts]
        texts, used = [text for text, _ in composed], [names for _, names in composed]

        model.train()
        images = preprocess(images.to(self.device), self.options.size)
        images = images.contiguous(memory_format=torch.channels_last)
        with precision(self.device):
            found, text, scale = model(images, self.tokenizer(texts).to(self.device))

        # The losses are small sums over tables that lie on the CPU.
        found, text = found.float().cpu(), F.normalize(text.float().cpu(), dim=1)
        # Half of a tight crop's target is a guess.
        trust = torch.where(self.dataset.kind[rows] == 1, 0.5, 1.0)
        unit = F.normalize(found, dim=1)
        cosine = ((1 - (unit * F.normalize(target, dim=1)).sum(1)) * trust).mean()
        square = ((found - target).square().sum(1) * trust).mean()
        logits = text @ unit.T * scale.float().cpu().clamp(max=30)
        contrast = contrastive_loss(logits, captions.agreement(used, facts))
        centroid = self.centroid_loss(text, used, rng)
        loss = cosine + 0.5 * square + self.options.caption_weight * (contrast + 2 * centroid)
        return {"loss": loss, "cosine": 1 - cosine, "captions": contrast, "centroid": centroid}

    def centroid_loss(
        self, text: Tensor, used: list[tuple[str, ...]], rng: torch.Generator
    ) -> Tensor:
        """1 - cosine between each caption and the mean target of the pictures that suit it;
        captions that suit fewer than four of the pictures are left out.
        """
        rows = self.dataset.draw_rows(rng, CAPTION_PICTURES)
        target = F.normalize(self.dataset.targets(rows), dim=1)
        suits = (captions.agreement(used, self.dataset.facts[0, rows]) > 0).float()
        enough = suits.sum(1) >= 4
        wanted = F.normalize(suits @ target, dim=1)
        return ((1 - (text * wanted).sum(1)) * enough).sum() / enough.sum().clamp(min=1)


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


def preprocess(images: Tensor, size: int) -> Tensor:
    """As `ImageText` preprocesses pictures."""
    mean, std = torch.tensor(CLIP_MEAN).view(3, 1, 1), torch.tensor(CLIP_STD).view(3, 1, 1)
    return ((resample(images, size, "antialias") + 1) / 2 - mean.to(images)) / std.to(images)


def add_clutter(images: Tensor, rng: torch.Generator, share: float = 0.3) -> Tensor:
    """On some pictures a patch of another one at the left or right edge: what is not the face
    should not matter much.
    """
    side = images.shape[-1]
    images = images.clone()
    for i in (torch.rand(len(images), generator=rng) < share).nonzero()[:, 0].tolist():
        height, width = torch.randint(side // 10, side // 4, (2,), generator=rng).tolist()
        left = 0 if torch.rand(1, generator=rng) < 0.5 else side - width
        top = int(torch.randint(0, side - height, (1,), generator=rng))
        other = images[int(torch.randint(len(images), (1,), generator=rng))]
        patch = (slice(None), slice(top, top + height), slice(left, left + width))
        images[i][patch] = other[patch]
    return images


@torch.no_grad()
def held_cosine(model: CLIP, dataset: ClipDataset) -> float:
    """Mean cosine between embedding and target on aligned pictures that were held out."""
    rows = (dataset.held & (dataset.kind == 0)).nonzero()[:, 0]
    encoder = ImageText(copy.deepcopy(model).cpu().eval(), None, "held")
    pictures = dataset.pictures[0, rows]
    found = torch.cat([encoder.embed_images(to_float(part)) for part in pictures.split(64)])
    return F.cosine_similarity(found, dataset.targets(rows)).mean().item()


def main(argv: Sequence[str] | None = None) -> None:
    print(train(parse_options(ClipOptions, argv, __doc__)))


if __name__ == "__main__":
    main()
