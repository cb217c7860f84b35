"""Train a narrow e4e inverter for a fixed generator: `python -m essence train inverter --data DIR
--out runs/inverter`.

It learns from three things: the latents that an autoencoder's encoder gives for real pictures
(optional), generated pictures, whose latents are known exactly, and the picture itself: its
reconstruction through the frozen generator, compared by pixels and by the face network. The input
is degraded as photographs are; the goal is the picture as it was.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from ..library.checkpoints import load_generator, load_inverter, load_latents, save_inverter
from ..models.e4e import Encoder4Editing, EncoderConfig, Inverter
from ..models.identity import FaceDescriptor, face_chip, face_descriptor
from ..models.latents import LatentAxes
from ..models.stylegan2 import Generator
from ..pictures.tensors import resample
from .common import (
    LOG_EVERY,
    CsvLog,
    descend,
    face_losses,
    load_checkpoint,
    parse_options,
    precision,
    save_atomic,
    update_average,
    warm_cosine,
)
from .inverter_data import Batch, InverterOptions, load_dataset
from .inverter_encoder import fastest_layout, initial_encoder
from .inverter_preview import inversion_sheet
from .parallel import (
    data_parallel,
    first_process_first,
    from_first_process,
    process_group,
    rank,
)
from .recording import RecordedTraining, adam, set_rates, state_of

COLUMNS = (
    "step",
    "seconds",
    "pictures",
    "loss",
    "common",
    "layers",
    "pixels",
    "features",
    "descriptor",
    "deltas",
    "rate",
)
FIRST_RENDERED = 4  # pictures of a batch
LAST_RATE = 0.02  # of `rate`


class InverterLoss:
    def __init__(
        self, options: InverterOptions, generator: Generator, axes: LatentAxes, face: FaceDescriptor
    ):
        self.options, self.generator, self.face = options, generator, face.to(axes.mean.device)
        variance, directions = torch.linalg.eigh((axes.axes.T @ axes.axes).double())
        self.whiten = (directions / variance.clamp(min=options.common_floor).sqrt()).float()

    def __call__(
        self, w: Tensor, batch: Batch, rendered: int, picture_weight: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of w+ [B, L, D] and its terms; the first `rendered` are also compared as
        pictures.
        """
        options, error, weight = self.options, w - batch.w, batch.latent_weight / len(w)
        # The part that all layers share, in the latents' axes, and every layer as it is.
        common = (error.mean(1) @ self.whiten).square().mean(1)
        terms = {
            "common": (common * weight).sum(),
            "layers": (error.square().mean(dim=(1, 2)) * weight).sum(),
            "deltas": (w[:, 1:] - w[:, :1]).square().mean(),
        }
        total = (
            options.common_weight * terms["common"]
            + options.layer_weight * terms["layers"]
            + options.delta_weight * terms["deltas"]
        )
        if rendered:
            seen = self.picture_terms(w[:rendered], batch.goal[:rendered])
            pictures = sum(getattr(options, name) * term for name, term in seen.items())
            total = total + picture_weight * options.picture_weight * pictures
            terms |= seen
        return total, terms

    def picture_terms(self, w: Tensor, goal: Tensor) -> dict[str, Tensor]:
        """The reconstruction against the goal: pixels, and the face network's view of the inner
        face.
        """
        with precision(w.device, self.options.half):
            images = self.generator.synthesis(w).float()
            maps = self.face.features(face_chip(images))
            with torch.no_grad():
                goal_maps = self.face.features(face_chip(goal))
            terms = face_losses(self.face, maps, goal_maps)
        return {"pixels": (images - goal).abs().mean()} | terms


class Trainer:
    """Encoder, its average, optimiser and clock: what a checkpoint holds."""

    def __init__(self, options: InverterOptions, device: str = "cpu"):
        """A new encoder or `options.start`, or what the checkpoint in `options.out` holds. Raises
        UserError for a checkpoint of another architecture.
        """
        self.options, self.device, self.out = options, device, Path(options.out)
        self.generator = load_generator(options.generator).to(device)
        self.axes = load_latents(options.latents).to(device)
        config = EncoderConfig(
            options.widths,
            options.depths,
            options.input_size,
            self.generator.config.layers,
            self.generator.config.style_dim,
            options.head_width,
        )
        self.architecture, self.layout = asdict(config), fastest_layout(config)
        torch.manual_seed(options.seed)
        begun = load_inverter(options.start).encoder if options.start else None
        self.encoder = initial_encoder(config, begun).to(device).train()
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
        self.loss = InverterLoss(options, self.generator, self.axes, face_descriptor())
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
        return Inverter(encoder, self.axes.mean.cpu()).eval().requires_grad_(False)

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
        # No picture is rendered at first, then more and more, with a growing weight.
        rendered, weight, late = 0, 0.0, progress - options.latents_first
        if late >= 0:
            share = late / (1 - options.latents_first)
            rendered = min(options.rendered, FIRST_RENDERED + round(options.rendered * 1.5 * share))
            weight = min(1.0, late / max(options.fade, 1e-9))
        terms = self.recorded(rendered, *batch.tensors(), torch.tensor(weight))
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

    def descend_on(self, rendered: int, *given: Tensor) -> dict[str, Tensor]:
        """A step of the optimiser, given the tensors of a batch and the pictures' weight."""
        *tensors, picture_weight = given
        batch, options = Batch(*tensors), self.options
        with precision(self.device, options.half):
            images = resample(batch.input, options.input_size, "antialias")
            raw = self.parallel_encoder(images.contiguous(memory_format=self.layout))
        w = raw.float() + self.axes.mean
        total, terms = self.loss(w, batch, rendered, picture_weight)
        descend(self.optimizer, total, max_norm=5.0)
        return {name: value.detach() for name, value in (terms | {"loss": total}).items()}

    def moved(self) -> list[Tensor]:
        """Whatever a step changes in place."""
        return [*self.encoder.state_dict().values(), *state_of(self.optimizer)]

    def draw_sheet(self) -> None:
        generator, axes = copy.deepcopy(self.generator).cpu(), self.axes.to("cpu")
        sheet = inversion_sheet(self.options.data, generator, self.inverter(), axes)
        sheet.save(self.out / f"sheet-{self.step:06d}.png")


def train(options: InverterOptions) -> Inverter:
    """Run or resume the recipe; returns the averaged inverter. Raises UserError for a bad folder or
    another run's checkpoint.
    """
    torch.set_num_threads(options.threads)
    with process_group(options.device) as device:
        trainer = Trainer(options, device)
        with first_process_first():
            dataset = load_dataset(options, trainer.generator, trainer.axes, trainer.out)
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
