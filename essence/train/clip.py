"""Recipe for the small image-text encoder: `python -m essence train clip --data FOLDER --out RUN`.

The image side learns to give a weighted list of visible attributes (`data.attribute_teacher`) and,
with the text side, to agree with captions composed of them (`data.captions`). Several pictures may
suit one caption, so the contrastive loss (CLIP, arXiv 2103.00020) has many positives.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import torch
import torch.nn.functional as F
from open_clip.model import CLIP
from torch import Tensor, nn
from tqdm import tqdm

from ..errors import UserError
from ..library.clip_files import load_clip, save_clip
from ..models.clip import TAUGHT, ImageText
from ..models.vocabulary import every_phrase
from .clip_batches import ClipDataset
from .clip_data import ClipOptions, load_faces
from .clip_step import TERMS, Batch, TrainingStep
from .common import (
    CsvLog,
    descend,
    load_checkpoint,
    parse_options,
    save_atomic,
    to_float,
    update_average,
    warm_cosine,
)
from .data.attribute_teacher import TeacherOptions
from .data.probes import HINTS
from .data.tables import KINDS
from .parallel import (
    data_parallel,
    first_process_first,
    from_first_process,
    process_group,
    rank,
)
from .recording import RecordedTraining, adam, set_rates, state_of

COLUMNS = ("step", *TERMS, "held_aligned", "held_tight", "seconds")
LAST_RATE = 0.02  # of `lr`
# Steps between two updates of the average, on a CPU and on a GPU, which is asked in few words.
AVERAGED = (1, 10)


def train(options: ClipOptions) -> Path:
    """Run or resume the recipe; returns the exported model's file. Raises UserError."""
    if options.threads:
        torch.set_num_threads(options.threads)
    with process_group(options.device) as device:
        torch.manual_seed(options.seed)
        with first_process_first():
            faces = load_faces(options)
        began = time.time()
        dataset = ClipDataset.build(faces, options.relit, options.context, options.seed, device)
        config, model = new_model(options, dataset.embed_dim)
        state = TrainingState(options, config, model.to(device), began)
        step = TrainingStep(dataset, options)
        towers = data_parallel(Towers(model), device)

        def descend_on(_: object, *given: Tensor) -> dict[str, Tensor]:
            terms = step.losses(towers, Batch(*given))
            descend(state.optimizer, terms["loss"], max_norm=1.0)
            return {name: value.detach() for name, value in terms.items()}

        recorded = RecordedTraining(descend_on, state.moved, device)
        with tqdm(
            total=options.steps,
            initial=state.step,
            desc="image-text",
            mininterval=10,
            disable=rank() > 0,
        ) as bar:
            while state.progress < 1:
                model.train()
                state.set_rate()
                terms = recorded(None, *step.draw(state.step, state.progress))
                state.count_step()
                bar.update()
                due = state.step % options.every == 0 or state.progress >= 1
                if due and rank() == 0:
                    held = held_cosines(state.average, state.config, dataset)
                    state.save(held | {k: v.item() for k, v in terms.items()})
                    bar.set_postfix({k: f"{v:.3f}" for k, v in held.items()})
    return state.exported


# ---- the model


def new_model(options: ClipOptions, embed_dim: int) -> tuple[dict, CLIP]:
    """open_clip's constructor arguments, and the model, which gives hints behind the embedding."""
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
    config = {"embed_dim": embed_dim + HINTS, "vision_cfg": vision, "text_cfg": text}
    model = CLIP(**config).to(memory_format=torch.channels_last)
    model.token_embedding = TokenTable.from_pretrained(model.token_embedding.weight, freeze=False)
    if options.dropout:
        model.visual.layer4.register_forward_hook(ChannelDropout(options.dropout))
    return config, model


class TokenTable(nn.Embedding):
    """Its gradients are added up in place: torch's own way sorts them, and may wait for the device
    while a step is recorded.
    """

    def forward(self, tokens: Tensor) -> Tensor:
        return self.weight.index_select(0, tokens.flatten()).view(*tokens.shape, -1)


class ChannelDropout:
    """Forward hook: drops channels of a module's maps in training. A layer of its own would be
    named in every file.
    """

    def __init__(self, share: float):
        self.share = share

    def __call__(self, module: nn.Module, _: tuple[Tensor, ...], maps: Tensor) -> Tensor:
        return F.dropout2d(maps, self.share, module.training)


class Towers(nn.Module):
    """Both towers in one forward, which gradient averaging hooks into."""

    def __init__(self, model: CLIP):
        super().__init__()
        self.model = model

    def forward(self, images: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Embeddings of pictures, hints of them, embeddings of texts, and the scale of the
        logits.
        """
        model = self.model
        found, text = model.encode_image(images), model.encode_text(tokens)
        embedding, hints = found[:, :-HINTS], found[:, -HINTS:]
        return embedding, hints, text[:, :-HINTS], model.logit_scale.exp()


def start_from(options: ClipOptions, model: CLIP) -> None:
    """Take the weights of a finished model, less its ground coordinate; the coordinates of
    attributes that it lacks start at zero, and so do hints. They stand before those of the layout.
    Its places are spread over another number of them, and blocks that this model does not have are
    left out. Raises UserError for another architecture.
    """
    state, layouts = dict(load_clip(options.start).model.state_dict()), TeacherOptions().layouts
    wanted = model.state_dict()
    if set(wanted) <= set(state):
        state = {name: state[name] for name in wanted}

    def fitted(rows: Tensor, count: int) -> Tensor:
        rows = rows[:-1]
        missing = rows.new_zeros(max(0, count - HINTS - len(rows)), *rows.shape[1:])
        no_hints = rows.new_zeros(HINTS, *rows.shape[1:])
        return torch.cat([rows[:-layouts], missing, rows[-layouts:], no_hints])

    for name in ("visual.attnpool.c_proj.weight", "visual.attnpool.c_proj.bias"):
        state[name] = fitted(state[name], len(model.state_dict()[name]))
    projection = fitted(state["text_projection"].T, model.text_projection.shape[1])
    state["text_projection"] = projection.T.contiguous()
    places = "visual.attnpool.positional_embedding"
    state[places] = spread_places(state[places], len(wanted[places]))
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise UserError(
            f"{options.start} does not fit this run ({error}): give the same --size, --width and "
            "--layers."
        ) from error


def spread_places(places: Tensor, count: int) -> Tensor:
    """Positional embeddings [1 + n * n, D], the first the mean's, for another number of places."""
    side, there = round((count - 1) ** 0.5), round((len(places) - 1) ** 0.5)
    grid = places[1:].T.reshape(1, -1, there, there)
    grid = F.interpolate(grid, (side, side), mode="bilinear", align_corners=False)
    return torch.cat([places[:1], grid[0].flatten(1).T])


def without_hints(config: dict, state: dict[str, Tensor]) -> tuple[dict, dict[str, Tensor]]:
    """The model whose embeddings are those of the pictures alone: hints serve training."""
    state = dict(state)
    for name in ("visual.attnpool.c_proj.weight", "visual.attnpool.c_proj.bias"):
        state[name] = state[name][:-HINTS]
    state["text_projection"] = state["text_projection"][:, :-HINTS]
    return config | {"embed_dim": config["embed_dim"] - HINTS}, state


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

    def __init__(self, options: ClipOptions, config: dict, model: CLIP, began: float):
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
        groups = [{"lr": options.lr, "weight_decay": options.weight_decay} | g for g in groups]
        self.optimizer = adam(groups, (0.9, 0.98), options.device, torch.optim.AdamW)
        self.folder, self.step, self.began = Path(options.out), 0, began
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

    def moved(self) -> list[Tensor]:
        """Whatever a step changes in place."""
        return [*self.model.state_dict().values(), *state_of(self.optimizer)]

    def set_rate(self) -> None:
        factor = warm_cosine(self.progress, self.step, self.options.warmup, LAST_RATE)
        set_rates(self.optimizer, [self.options.lr * factor] * len(self.optimizer.param_groups))

    def count_step(self) -> None:
        """The step is done: the average follows."""
        self.step += 1
        every = AVERAGED[self.options.device.startswith("cuda")]
        if self.step % every == 0:
            decay = self.options.average**every
            update_average(self.average, self.model, self.step // every, decay)

    def save(self, figures: dict[str, float]) -> None:
        """Log the figures, write the checkpoint and export the averaged model."""
        self.log.write({"step": self.step, "seconds": self.seconds} | figures)
        names = ("model", "average", "optimizer")
        state = {name: getattr(self, name).state_dict() for name in names}
        state |= {"step": self.step, "seconds": self.seconds, "options": asdict(self.options)}
        save_atomic(state | {"architecture": self.config}, self.folder / "last.pt")
        embedding = without_hints(self.config, state["average"])
        config, weights = with_ground(*embedding, self.options.ground)
        save_clip(config, weights, self.exported, name=TAUGHT, words=every_phrase())


@torch.no_grad()
def held_cosines(model: CLIP, config: dict, dataset: ClipDataset) -> dict[str, float]:
    """Mean cosine between embedding and target on what was held out, of aligned pictures and of
    tight crops.
    """
    encoder = ImageText.from_config(*without_hints(config, model.state_dict()))
    encoder = encoder.to(dataset.kind.device)
    found = {}
    for kind in ("aligned", "tight"):
        chosen = dataset.held & ~dataset.lit & (dataset.kind == KINDS.index(kind))
        cosines = [
            F.cosine_similarity(
                encoder.embed_images(to_float(dataset.pictures[part])), dataset.targets(part)
            )
            for part in chosen.nonzero()[:, 0].split(64)
            if len(part)
        ]
        found[f"held_{kind}"] = torch.cat(cosines).mean().item() if cosines else float("nan")
    return found


def main(argv: Sequence[str] | None = None) -> None:
    print(train(parse_options(ClipOptions, argv, __doc__)))


if __name__ == "__main__":
    main()
