"""Train a narrow e4e inverter for a fixed generator: `python -m essence train inverter --data DIR
--out runs/inverter`.

Three teachers: (1) the latents that an autoencoder's encoder gives for real pictures (optional),
(2) generated pictures, whose latents are known exactly, (3) the picture itself: its reconstruction
through the frozen generator, compared by pixels and by the face network. The input is spoilt as
photographs are; what is to be met is the unspoilt picture.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from tqdm import tqdm

from ..errors import UserError
from ..library.checkpoints import load_generator, load_inverter, load_latents, save_inverter
from ..models.e4e import Encoder4Editing, EncoderConfig, Inverter
from ..models.identity import FaceDescriptor, face_chip, face_descriptor
from ..models.latents import LatentAxes
from ..models.stylegan2 import Generator
from ..pictures.tensors import resample
from . import parallel
from .common import (
    PHOTOGRAPHS,
    CsvLog,
    average_into,
    held_out,
    list_pictures,
    load_pictures,
    load_resume,
    parse_options,
    precision,
    save_atomic,
    to_float,
    warm_cosine,
)
from .inverter_data import Batch, Lessons, prepare

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
SHEET = 10  # pictures on a sheet
FIRST_RENDERED = 4  # pictures of a batch


@dataclass(frozen=True)
class InverterOptions:
    data: str  # folder of aligned pictures
    out: str = "runs/inverter"
    export: str = ""  # also write the finished inverter there
    generator: str = "weights/mini/generator.safetensors"
    latents: str = "weights/mini/latents.safetensors"
    teacher: str = ""  # the autoencoder's encoder: latents of real pictures
    start: str = ""  # an inverter to begin with, of the same widths
    input_size: int = (
        64  # a quarter of the work of 128; what is too small to be seen there, refinement finds
    )
    widths: tuple[int, int, int, int] = (24, 48, 96, 160)
    depths: tuple[int, int, int, int] = (1, 2, 3, 2)
    head_width: int = 64
    steps: int = 100_000
    minutes: float = 45.0  # the schedule ends at whichever comes first
    batch: int = 32
    generated: int = 8  # of the batch: pictures of the generator
    bank: int = 2048  # how many of those to render beforehand
    oversample: float = 4.0  # how much more often photographs are drawn
    # share of the schedule that learns latents alone: rendering costs more than the encoder
    latents_first: float = 0.35
    rendered: int = 14  # of the batch at the end: compared as pictures; starts at 4
    # share of the schedule over which the pictures' weight grows: at once, it would undo the
    # latents for a while
    fade: float = 0.1
    rate: float = 1.5e-3
    # times `rate`, for the last layers: their weights are scaled down as they run, and so are their
    # steps
    linear_rate: float = 5.0
    warmup: int = 100
    average: float = 0.998
    common_weight: float = 0.5
    common_floor: float = 0.5  # variance below which an axis counts no more
    layer_weight: float = 1.0
    lit_weight: float = (
        0.3  # of the latent terms where the light was changed: the teacher saw another picture
    )
    picture_weight: float = 1.0
    pixels: float = 2.0
    features: float = 1.0
    descriptor: float = 2.0
    delta_weight: float = 0.01
    seed: int = 0
    threads: int = 2
    device: str = "cuda" if torch.cuda.is_available() else "cpu"
    checkpoint_seconds: float = 180.0
    sheet_seconds: float = 540.0
    half: bool = True  # bfloat16 where it is safe


# ---- networks


class _QuickPReLU(torch.autograd.Function):
    """PReLU in five plain passes: torch's own takes a third of the training step on a CPU in
    bfloat16.
    """

    @staticmethod
    def forward(ctx, x: Tensor, slope: Tensor) -> Tensor:
        slope = slope.to(x.dtype).view(1, -1, 1, 1)
        ctx.save_for_backward(x, slope)
        return torch.where(x > 0, x, x * slope)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, Tensor]:
        x, slope = ctx.saved_tensors
        own = (grad * x.clamp(max=0)).sum(dim=(0, 2, 3), dtype=torch.float32)
        return torch.where(x > 0, grad, grad * slope), own


class QuickPReLU(nn.PReLU):
    def forward(self, x: Tensor) -> Tensor:
        return _QuickPReLU.apply(x, self.weight)


def new_encoder(config: EncoderConfig, start: str = "") -> Encoder4Editing:
    """An e4e encoder laid out for fast training, with the ordinary one's parameters. Raises
    UserError for a start of other widths.
    """
    encoder = Encoder4Editing(config)
    if start:
        begun = load_inverter(start).encoder
        if begun.config != config:
            raise UserError(
                f"{start} has other widths than this run ({begun.config}): give the same --widths, --depths and --input-size."
            )
        encoder.load_state_dict(begun.state_dict())
    for module in encoder.modules():
        if type(module) is nn.PReLU:
            module.__class__ = QuickPReLU
    return encoder.to(memory_format=layout(config))


def layout(config: EncoderConfig) -> torch.memory_format:
    """Channels innermost, which is faster; not where a width is no multiple of 8: there torch
    2.15's strided 1x1 convolutions write beyond their memory on the way back, on processors without
    AVX-512."""
    return (
        torch.contiguous_format
        if any(width % 8 for width in config.widths)
        else torch.channels_last
    )


# ---- losses


class Losses:
    def __init__(
        self, options: InverterOptions, generator: Generator, axes: LatentAxes, face: FaceDescriptor
    ):
        self.options, self.generator, self.face = options, generator, face.to(axes.mean.device)
        variance, directions = torch.linalg.eigh((axes.axes.T @ axes.axes).double())
        self.whiten = (directions / variance.clamp(min=options.common_floor).sqrt()).float()

    def latents(self, w: Tensor, batch: Batch) -> dict[str, Tensor]:
        """Squared error of the part that all layers share, in the latents' axes, and of every layer
        as it is.
        """
        error = w - batch.w
        common = (error.mean(1) @ self.whiten).square().mean(1)
        share = batch.trust / len(batch.trust)
        return {
            "common": (common * share).sum(),
            "layers": (error.square().mean(dim=(1, 2)) * share).sum(),
        }

    def pictures(self, w: Tensor, goal: Tensor) -> dict[str, Tensor]:
        """The reconstruction against the goal: pixels, face network features relative to their
        mean, squared descriptor distance.
        """
        with precision(w.device, self.options.half):
            images = self.generator.synthesis(w).float()
            ours = self.face.features(face_chip(images))
            with torch.no_grad():
                theirs = self.face.features(face_chip(goal))
            distance = (
                (self.face.describe(ours) - self.face.describe(theirs)).square().sum(1).mean()
            )
        relative = [
            (a.float() - b.float()).abs().mean() / b.float().abs().mean()
            for a, b in zip(ours, theirs, strict=True)
        ]
        return {
            "pixels": (images - goal).abs().mean(),
            "features": torch.stack(relative).mean(),
            "descriptor": distance,
        }

    def __call__(
        self, w: Tensor, batch: Batch, rendered: int, faded: float
    ) -> tuple[Tensor, dict[str, Tensor]]:
        o = self.options
        terms = self.latents(w, batch) | {"deltas": (w[:, 1:] - w[:, :1]).square().mean()}
        total = (
            o.common_weight * terms["common"]
            + o.layer_weight * terms["layers"]
            + o.delta_weight * terms["deltas"]
        )
        if rendered:
            seen = self.pictures(w[:rendered], batch.goal[:rendered])
            total = total + faded * o.picture_weight * sum(
                getattr(o, name) * value for name, value in seen.items()
            )
            terms |= seen
        return total, terms


# ---- the run


class Trainer:
    """Encoder, its average, optimiser and clock: what a checkpoint holds."""

    def __init__(self, options: InverterOptions, device: str = "cpu"):
        self.options, self.device, self.out = options, device, Path(options.out)
        self.generator, self.axes = (
            load_generator(options.generator).to(device),
            load_latents(options.latents).to(device),
        )
        size, layers, dim = (
            options.input_size,
            self.generator.config.layers,
            self.generator.config.style_dim,
        )
        self.architecture = asdict(
            EncoderConfig(options.widths, options.depths, size, layers, dim, options.head_width)
        )
        torch.manual_seed(options.seed)
        self.encoder = (
            new_encoder(EncoderConfig(**self.architecture), options.start).to(device).train()
        )
        self.average = copy.deepcopy(self.encoder).eval().requires_grad_(False)
        self.optimizer = torch.optim.Adam(self._groups(), options.rate, betas=(0.9, 0.99))
        self.step, self.seen, self.seconds = 0, 0, 0.0
        self.out.mkdir(parents=True, exist_ok=True)
        self.path = self.out / "checkpoint.pt"
        self._resume(load_resume(self.path, self.architecture))
        self.spread, self.layout = (
            parallel.spread(self.encoder, device),
            layout(self.encoder.config),
        )

    def _groups(self) -> list[dict]:
        named = list(self.encoder.named_parameters())
        linear = [p for name, p in named if ".linear." in name]
        return [
            {"params": [p for name, p in named if ".linear." not in name], "times": 1.0},
            {"params": linear, "times": self.options.linear_rate},
        ]

    def _resume(self, state: dict | None) -> None:
        if state is None:
            return
        for name in ("encoder", "average", "optimizer"):
            getattr(self, name).load_state_dict(state[name])
        self.step, self.seen, self.seconds = state["step"], state["seen"], state["seconds"]

    def save(self) -> None:
        if parallel.rank():
            return
        parts = {
            name: getattr(self, name).state_dict() for name in ("encoder", "average", "optimizer")
        }
        save_atomic(
            parts
            | {
                "architecture": self.architecture,
                "step": self.step,
                "seen": self.seen,
                "seconds": self.seconds,
            },
            self.path,
        )

    def inverter(self) -> Inverter:
        """The averaged encoder, as the ordinary network."""
        encoder = Encoder4Editing(EncoderConfig(**self.architecture))
        encoder.load_state_dict(self.average.state_dict())
        return Inverter(encoder, self.axes.mean.cpu()).eval().requires_grad_(False)

    @property
    def progress(self) -> float:
        return parallel.agreed(
            min(
                1.0, max(self.step / self.options.steps, self.seconds / (60 * self.options.minutes))
            )
        )

    def rendered(self, progress: float) -> tuple[int, float]:
        """How many pictures of the batch are rendered, and their weight: none at first, then more
        and more.
        """
        o = self.options
        if progress < o.latents_first:
            return 0, 0.0
        share = (progress - o.latents_first) / (1 - o.latents_first)
        return min(o.rendered, FIRST_RENDERED + round(o.rendered * 1.5 * share)), min(
            1.0, (progress - o.latents_first) / max(o.fade, 1e-9)
        )

    def learn(self, lessons: Lessons, losses: Losses) -> dict[str, float]:
        """One step. Returns the row for the log."""
        o, start = self.options, time.monotonic()
        batch, progress = lessons.draw(o, self.step).to(self.device), self.progress
        factor = warm_cosine(progress, self.step, o.warmup, 0.02)
        for group in self.optimizer.param_groups:
            group["lr"] = o.rate * factor * group["times"]
        with precision(self.device, o.half):
            raw = self.spread(
                resample(batch.seen, o.input_size, "antialias").contiguous(
                    memory_format=self.layout
                )
            )
        total, terms = losses(raw.float() + self.axes.mean, batch, *self.rendered(progress))
        self.optimizer.zero_grad(set_to_none=True)
        total.backward()
        nn.utils.clip_grad_norm_(self.encoder.parameters(), 5.0)
        self.optimizer.step()
        average_into(self.average, self.encoder, self.step, o.average)
        self.step, self.seen, self.seconds = (
            self.step + 1,
            self.seen + o.batch,
            self.seconds + time.monotonic() - start,
        )
        row = dict.fromkeys(COLUMNS, float("nan")) | {
            name: value.item() for name, value in terms.items()
        }
        clock = {"step": self.step, "seconds": self.seconds, "pictures": self.seen}
        return row | clock | {"loss": total.item(), "rate": o.rate * factor}


def train(options: InverterOptions) -> Inverter:
    """Run or resume the recipe; returns the averaged inverter. Raises UserError for a bad folder or
    another run's checkpoint.
    """
    torch.set_num_threads(options.threads)
    with parallel.processes(options.device) as device:
        trainer, face = Trainer(options, device), face_descriptor()
        with parallel.first_one_first():
            lessons = prepare(options, trainer.generator, trainer.axes, trainer.out)
        losses = Losses(options, trainer.generator, trainer.axes, face)
        log = (
            CsvLog(trainer.out / "log.csv", COLUMNS, trainer.step) if parallel.rank() == 0 else None
        )
        saved = drawn = trainer.seconds
        with tqdm(
            total=options.steps,
            initial=trainer.step,
            desc="inverter",
            mininterval=5,
            disable=log is None,
        ) as bar:
            while trainer.progress < 1:
                row = trainer.learn(lessons, losses)
                bar.update()
                if log is None:
                    continue
                log.write(row)
                bar.set_postfix(loss=f"{row['loss']:.3f}", refresh=False)
                if trainer.seconds - saved > options.checkpoint_seconds:
                    trainer.save()
                    saved = trainer.seconds
                if trainer.seconds - drawn > options.sheet_seconds:
                    draw_sheet(trainer)
                    drawn = trainer.seconds
        return finish(trainer)


def finish(trainer: Trainer) -> Inverter:
    trainer.save()
    inverter = trainer.inverter()
    if parallel.rank():
        return inverter
    save_inverter(inverter, trainer.out / "inverter.safetensors")
    if trainer.options.export:
        save_inverter(inverter, trainer.options.export)
    return inverter


def draw_sheet(trainer: Trainer) -> None:
    """Held-out photographs, the encoder's inversion, and that refined."""
    from . import inverter_checks

    paths = list_pictures(trainer.options.data)
    held = held_out([path.name for path in paths])
    chosen = sorted(
        (path for path in paths if path.name in held),
        key=lambda path: not path.name.startswith(PHOTOGRAPHS),
    )[:SHEET]
    pictures = to_float(load_pictures(chosen, trainer.generator.config.size))
    models = inverter_checks.working_set(
        copy.deepcopy(trainer.generator).cpu(), trainer.inverter(), trainer.axes.to("cpu")
    )
    first = inverter_checks.invert(models, pictures)
    later = [inverter_checks.refined(models, source, [25])[0] for source in first]
    inverter_checks.sheet(pictures, first, later).save(
        trainer.out / f"sheet-{trainer.step:06d}.png"
    )


def main(argv: Sequence[str] | None = None) -> None:
    train(parse_options(InverterOptions, argv, __doc__))


if __name__ == "__main__":
    main()
