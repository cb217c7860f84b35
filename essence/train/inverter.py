"""Train a narrow inverter for a fixed generator: `python -m essence train inverter --data DIR --out
runs/inverter`.

The encoder learns to do at once what refinement does step by step: its answer is rendered and
compared with the picture by refinement's own loss (docs/METHOD.md, section 8). It looks several
times, each time at the picture and at what the generator makes of its last answer, and says what to
add (ReStyle, arXiv 2104.02699). Of generated pictures the latents are known and taught as well. The
input is degraded as photographs are; the goal is the picture as it was.
"""

from __future__ import annotations

import copy
import dataclasses
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor, nn
from tqdm import tqdm

from ..library.checkpoints import load_generator, load_inverter, load_latents, save_inverter
from ..methods import losses
from ..methods.refine import RefineOptions, face_features, reconstruction_losses
from ..models.e4e import Encoder4Editing, EncoderConfig, Inverter
from ..models.identity import face_descriptor
from ..models.model_set import ModelSet
from ..ops import bfloat16_pays
from ..pictures.tensors import resample
from .common import (
    LOG_EVERY,
    CsvLog,
    descend,
    load_checkpoint,
    parse_options,
    precision,
    save_atomic,
    update_average,
    warm_cosine,
)
from .inverter_data import Batch, InverterOptions, load_dataset
from .inverter_encoder import (
    along,
    fastest_layout,
    initial_encoder,
    quieten,
    rooted_basis,
    with_last_layers,
)
from .inverter_preview import inversion_sheet
from .parallel import (
    data_parallel,
    first_process_first,
    from_first_process,
    process_group,
    rank,
)
from .recording import RecordedTraining, adam, set_rates, state_of

TERMS = ("common", "layers", "pixels", "chroma", "features", "surroundings", "descriptor")
COLUMNS = ("step", "seconds", "pictures", "loss", "last", *TERMS, "deviation", "rate")
LAST_RATE = 0.02  # of `rate`


class InverterLoss:
    """Refinement's loss, and the latents of pictures whose latents are known."""

    def __init__(self, options: InverterOptions, models: ModelSet):
        self.options, self.models, self.refinement = options, models, RefineOptions()
        axes = models.latents.axes.double()
        variance, directions = torch.linalg.eigh(axes.T @ axes)
        self.whiten = (directions / variance.clamp(min=options.common_floor).sqrt()).float()
        self.care = losses.care(models.size, self.refinement.care).to(models.device)

    def __call__(self, w: Tensor, images: Tensor, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of w+ [B, L, D] and of its pictures, and its terms."""
        weights, models = self.refinement, self.models
        with models.precision():
            with torch.no_grad():
                faces = face_features(models, batch.goal)
            terms = reconstruction_losses(models, images, batch.goal, faces, self.care)
        each = sum(getattr(weights, name) * term for name, term in terms.items())
        terms["deviation"] = self.deviation(w)
        each = each + weights.penalty * terms["deviation"]
        error = w - batch.w
        # The part that all layers share, in the latents' axes, and every layer as it is.
        terms["common"] = (error.mean(1) @ self.whiten).square().mean(1) * batch.known
        terms["layers"] = error.square().mean((1, 2)) * batch.known
        each = each + self.options.common_weight * terms["common"]
        each = each + self.options.layer_weight * terms["layers"]
        means = {name: term.mean() for name, term in terms.items()}
        # The last pass's alone: what is seen of the encoder in use.
        means["last"] = each[-(len(each) // self.options.passes) :].mean()
        return each.mean(), means

    def deviation(self, w: Tensor) -> Tensor:
        """How far w+ lies from the mean, and its layers from each other, as refinement has it."""
        coordinates = self.models.latents.coordinates(w - self.models.latents.mean)
        u = coordinates.mean(1, keepdim=True)
        return losses.deviation(u, coordinates - u, self.refinement.layer_penalty)


def training_models(options: InverterOptions, device: str) -> ModelSet:
    """The generator and what compares its pictures; no encoders."""
    models = ModelSet(
        name="training",
        id="training",
        generator=load_generator(options.generator).to(device),
        inverter=None,
        clip=None,
        identity=face_descriptor().to(device),
        latents=load_latents(options.latents).to(device),
        half=options.half and bfloat16_pays(device),
    )
    models.use_fast_layout()
    return models


class Trainer:
    """Encoder, its average, optimiser and clock: what a checkpoint holds."""

    def __init__(self, options: InverterOptions, device: str = "cpu"):
        """A new encoder or `options.start`, or what the checkpoint in `options.out` holds. Raises
        UserError for a checkpoint of another architecture.
        """
        self.options, self.device, self.out = options, device, Path(options.out)
        self.models = training_models(options, device)
        self.basis = rooted_basis(self.models.latents)
        config = EncoderConfig(
            options.widths,
            options.depths,
            options.input_size,
            self.models.latent_shape[0],
            len(self.basis),
            options.head_width,
            channels=6,
            fold=options.fold,
        )
        self.architecture, self.layout = asdict(config), fastest_layout(config)
        torch.manual_seed(options.seed)
        self.encoder = first_encoder(options, config, self.basis.cpu()).to(device).train()
        self.average = copy.deepcopy(self.encoder).eval().requires_grad_(False)
        named = list(self.encoder.named_parameters())
        linear = [p for name, p in named if ".linear." in name]
        others = [p for name, p in named if ".linear." not in name]
        groups = [
            {"params": others, "times": 1.0, "lr": options.rate},
            {"params": linear, "times": options.linear_rate, "lr": options.rate},
        ]
        self.optimizer = adam(groups, (0.9, 0.99), device)
        self.step, self.seen, self.seconds = 0, 0, 0.0
        self.clock = time.monotonic()
        self.out.mkdir(parents=True, exist_ok=True)
        self.path = self.out / "checkpoint.pt"
        if (state := load_checkpoint(self.path, self.architecture)) is not None:
            for name in ("encoder", "average", "optimizer"):
                getattr(self, name).load_state_dict(state[name])
            self.step, self.seen, self.seconds = state["step"], state["seen"], state["seconds"]
        self.parallel_encoder = data_parallel(self.encoder, device)
        self.loss = InverterLoss(options, self.models)
        self.recorded = RecordedTraining(self.descend_on, self.moved, device)

    def save(self) -> None:
        """Write the checkpoint; only the first process does. Raises UserError."""
        if rank() > 0:
            return
        names = ("encoder", "average", "optimizer")
        state = {name: getattr(self, name).state_dict() for name in names}
        state |= {"step": self.step, "seen": self.seen, "seconds": self.seconds}
        save_atomic(state | {"architecture": self.architecture}, self.path)

    def inverter(self) -> Inverter:
        """The averaged encoder, as the ordinary network on the CPU."""
        encoder = Encoder4Editing(EncoderConfig(**self.architecture))
        encoder.load_state_dict(self.average.state_dict())
        encoder = with_last_layers(encoder, self.basis.T.cpu(), self.basis.shape[1])
        mean = self.models.latents.mean.cpu()
        return Inverter(encoder, mean, self.options.passes).eval().requires_grad_(False)

    @property
    def progress(self) -> float:
        """0 to 1, by steps or by time, whichever is further; the same in all processes."""
        by_time = self.seconds / (60 * self.options.minutes)
        return min(1.0, from_first_process(max(self.step / self.options.steps, by_time)))

    def train_step(self, batch: Batch) -> dict[str, float | Tensor]:
        """One step. Returns its row of the log."""
        options, progress = self.options, self.progress
        factor = warm_cosine(progress, self.step, options.warmup, LAST_RATE)
        times = [group["times"] for group in self.optimizer.param_groups]
        set_rates(self.optimizer, [options.rate * factor * each for each in times])
        terms = self.recorded(None, *batch.tensors())
        update_average(self.average, self.encoder, self.step, options.average)
        self.step += 1
        self.seen += options.batch
        now = time.monotonic()
        # Since the last step, however long that one still kept a GPU busy.
        self.seconds += now - self.clock
        self.clock = now
        row = dict.fromkeys(COLUMNS, float("nan"))
        row |= {"step": self.step, "seconds": self.seconds, "pictures": self.seen}
        return row | {"rate": options.rate * factor} | terms

    def descend_on(self, _: None, *tensors: Tensor) -> dict[str, Tensor]:
        """A step of the optimiser, given the tensors of a batch."""
        batch, options = Batch(*tensors), self.options
        x = resample(batch.input, options.input_size, "antialias")
        w, images = self.earlier_passes(x)
        with precision(self.device, options.half):
            seen = torch.cat([x, images], 1).contiguous(memory_format=self.layout)
            w = w + self.parallel_encoder(seen).float() @ self.basis
        total, terms = self.loss(w, self.models.images(w), batch)
        descend(self.optimizer, total, max_norm=5.0)
        return {name: value.detach() for name, value in (terms | {"loss": total}).items()}

    @torch.no_grad()
    def earlier_passes(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """w+ [B, L, D] and pictures where the averaged encoder has got after no pass for the first
        part of a batch, after one for the second, and so on.

        Each pass in a batch of its own would have batch norm learn what no single pass looks like.
        """
        passes = self.options.passes
        w = self.models.latents.mean.expand(len(x), self.models.latent_shape[0], -1).clone()
        images = self.pictures(w[:1]).expand_as(x).clone()
        for each in range(1, passes):
            rest = slice(each * len(x) // passes, None)
            seen = torch.cat([x[rest], images[rest]], 1).contiguous(memory_format=self.layout)
            with precision(self.device, self.options.half):
                w[rest] += self.average(seen).float() @ self.basis
            images[rest] = self.pictures(w[rest])
        return w, images

    def pictures(self, w: Tensor) -> Tensor:
        """What the encoder sees of w+ [B, L, D]."""
        return resample(self.models.images(w), self.options.input_size, "antialias")

    def moved(self) -> list[Tensor]:
        """Whatever a step changes in place."""
        return [*self.encoder.state_dict().values(), *state_of(self.optimizer)]

    def draw_sheet(self) -> None:
        models = training_models(self.options, "cpu")
        models = dataclasses.replace(models, inverter=self.inverter())
        sheet = inversion_sheet(self.options.data, models)
        sheet.save(self.out / f"sheet-{self.step:06d}.png")


def first_encoder(
    options: InverterOptions, config: EncoderConfig, basis: Tensor
) -> Encoder4Editing:
    """The network to begin with, its answers along the `basis` [K, D]: a new one, which adds
    nothing, or `options.start`. Raises UserError for a start of other widths.
    """
    if not options.start:
        encoder = initial_encoder(config)
        for head in encoder.styles:
            nn.init.zeros_(head.linear.weight)
        return encoder
    begun = along(load_inverter(options.start).encoder, basis)
    if begun.config != config:  # it has not learned along these axes
        for head in begun.styles:
            quieten(head.linear, basis)
    return initial_encoder(config, begun).requires_grad_(True)


def train(options: InverterOptions) -> Inverter:
    """Run or resume the recipe; returns the averaged inverter. Raises UserError for a bad folder or
    another run's checkpoint.
    """
    torch.set_num_threads(options.threads)
    with process_group(options.device) as device:
        trainer = Trainer(options, device)
        with first_process_first():
            dataset = load_dataset(options, trainer.models, trainer.out)
        log = CsvLog(trainer.out / "log.csv", COLUMNS, trainer.step) if rank() == 0 else None
        every = LOG_EVERY[torch.device(device).type == "cuda"]
        saved = drawn = trainer.seconds
        trainer.clock = time.monotonic()
        with tqdm(
            total=options.steps,
            initial=trainer.step,
            desc="inverter",
            mininterval=5,
            disable=log is None,
        ) as bar:
            while trainer.progress < 1:
                row = trainer.train_step(dataset.draw(options, trainer.step))
                bar.update()
                if log is None:
                    continue
                if trainer.step % every == 0:
                    log.write(row)
                    bar.set_postfix(loss=f"{float(row['loss']):.3f}", refresh=False)
                if trainer.seconds - saved > options.checkpoint_seconds:
                    trainer.save()
                    saved = trainer.seconds
                if trainer.seconds - drawn > options.sheet_seconds:
                    trainer.draw_sheet()
                    drawn, trainer.clock = trainer.seconds, time.monotonic()
        trainer.save()
        inverter = trainer.inverter()
        if rank() == 0:
            save_inverter(inverter, trainer.out / "inverter.safetensors")
            if options.export:
                save_inverter(inverter, options.export)
        return inverter


def main(argv: Sequence[str] | None = None) -> None:
    train(parse_options(InverterOptions, argv, __doc__))


if __name__ == "__main__":
    main()
