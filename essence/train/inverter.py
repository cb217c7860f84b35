"""Train a narrow e4e inverter for a fixed generator: `python -m essence.train.inverter --data DIR --out runs/inverter`.

Three teachers: (1) the latents that an autoencoder's encoder gives for real pictures (optional), (2) generated pictures, whose latents are
known exactly, (3) the picture itself: its reconstruction through the frozen generator, compared by pixels and by the face network. The
input is spoilt as photographs are; what is to be met is the unspoilt picture.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from ..checkpoints import load_generator, load_latents, save_inverter
from ..errors import UserError
from ..formats import read_safetensors
from ..latents import LatentAxes
from ..models.e4e import Encoder4Editing, EncoderConfig, Inverter
from ..models.identity import FaceDescriptor, face_descriptor
from ..models.stylegan2 import Generator
from . import augment
from .common import (
    PHOTOGRAPHS,
    CsvLog,
    average_into,
    held_out,
    list_pictures,
    load_pictures,
    load_resume,
    parse_options,
    save_atomic,
    to_float,
    to_uint8,
    warm_cosine,
)

COLUMNS = ("step", "seconds", "pictures", "loss", "common", "layers", "pixels", "features", "descriptor", "deltas", "rate")
SHEET = 10  # pictures on a sheet
FIRST_RENDERED = 4  # pictures of a batch
MIRRORED = 0.3  # share of the real pictures
STEP_SEEDS = 1_000_003  # each step draws from its own seed, so that a resumed run sees what an uninterrupted one would


@dataclass(frozen=True)
class InverterOptions:
    data: str  # folder of aligned pictures
    out: str = "runs/inverter"
    export: str = ""  # also write the finished inverter there
    generator: str = "weights/mini/generator.safetensors"
    latents: str = "weights/mini/latents.safetensors"
    teacher: str = ""  # the autoencoder's encoder: latents of real pictures
    input_size: int = 128
    widths: tuple[int, int, int, int] = (16, 32, 64, 128)
    depths: tuple[int, int, int, int] = (1, 2, 2, 2)
    head_width: int = 48
    steps: int = 3000
    minutes: float = 45.0  # the schedule ends at whichever comes first
    batch: int = 32
    generated: int = 8  # of the batch: pictures of the generator
    bank: int = 4096  # how many of those to render beforehand
    oversample: float = 4.0  # how much more often photographs are drawn
    rendered: int = 20  # of the batch at the end: compared as pictures; starts at 4
    rate: float = 1e-3
    warmup: int = 100
    average: float = 0.998
    common_weight: float = 0.5
    common_floor: float = 0.5  # variance below which an axis counts no more
    layer_weight: float = 1.0
    lit_weight: float = 0.3  # of the latent terms where the light was changed: the teacher saw another picture
    picture_weight: float = 1.0
    pixels: float = 2.0
    features: float = 1.0
    descriptor: float = 2.0
    delta_weight: float = 0.01
    seed: int = 0
    threads: int = 2
    checkpoint_seconds: float = 180.0
    sheet_seconds: float = 480.0
    half: bool = True  # bfloat16 where it is safe


# ---- networks

class _QuickPReLU(torch.autograd.Function):
    """PReLU in five plain passes: torch's own takes a third of the training step on a CPU in bfloat16."""

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


def new_encoder(config: EncoderConfig) -> Encoder4Editing:
    """An e4e encoder laid out for fast training; its parameters are those of the ordinary one."""
    encoder = Encoder4Editing(config)
    for module in encoder.modules():
        if type(module) is nn.PReLU:
            module.__class__ = QuickPReLU
    return encoder.to(memory_format=torch.channels_last)


class AutoencoderEncoder(nn.Module):
    """The encoder that the generator was trained with: pictures [B, 3, 128, 128] to w+ [B, L, D], w and a delta for each further layer."""

    def __init__(self, state: dict[str, Tensor]):
        super().__init__()
        self.weights = {name: value.float() for name, value in state.items()}
        for name, value in self.weights.items():
            if value.ndim == 4:
                self.weights[name] = value.contiguous(memory_format=torch.channels_last)

    def conv(self, name: str, x: Tensor, stride: int = 1) -> Tensor:
        weight = self.weights[name + ".weight"]
        return F.conv2d(x, weight, self.weights.get(name + ".bias"), stride, weight.shape[-1] // 2)

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        def act(t: Tensor) -> Tensor:
            return F.leaky_relu(t, 0.2) * 2**0.5

        x, i = act(self.conv("stem", x)), 0
        while f"blocks.{i}.conv1.weight" in self.weights:
            inner = act(self.conv(f"blocks.{i}.conv2", act(self.conv(f"blocks.{i}.conv1", x)), stride=2))
            x, i = (inner + self.conv(f"blocks.{i}.skip", F.avg_pool2d(x, 2))) / 2**0.5, i + 1
        x = act(F.linear(x.flatten(1), self.weights["head.weight"], self.weights["head.bias"]))
        w = F.linear(x, self.weights["latent.weight"], self.weights["latent.bias"])
        deltas = F.linear(x, self.weights["deltas.weight"], self.weights["deltas.bias"]).unflatten(1, (-1, w.shape[1]))
        return w[:, None] + torch.cat([torch.zeros_like(deltas[:, :1]), deltas], 1)


# ---- what the student learns from

@dataclass(frozen=True, eq=False)
class Lessons:
    """Real pictures uint8 [N, 3, S, S] with the teacher's w+ [N, L, D] or None; generated ones with their own latents.

    The teacher has seen no mirrored picture (it is the slowest network here): those are learned from by rendering alone.
    """

    real: Tensor
    weights: Tensor  # [N], how often each is drawn
    real_w: Tensor | None
    made: Tensor
    made_w: Tensor

    def draw(self, options: InverterOptions, step: int) -> Batch:
        rng = torch.Generator().manual_seed(options.seed * STEP_SEEDS + step)
        count = options.batch - options.generated
        index = torch.multinomial(self.weights, count, replacement=True, generator=rng)
        mirrored = torch.rand(count, generator=rng) < MIRRORED
        x = to_float(self.real[index])
        x = torch.where(mirrored.view(-1, 1, 1, 1), x.flip(3), x)
        x, lit = augment.light(x, rng)
        other = torch.randint(len(self.made), (options.generated,), generator=rng)
        goal = torch.cat([x, to_float(self.made[other])])
        trust = torch.where(lit, options.lit_weight, 1.0) * ~mirrored
        known = self.real_w[index].float() if self.real_w is not None else self.made_w[:1].expand(count, -1, -1)
        trust = trust if self.real_w is not None else torch.zeros(count)
        w = torch.cat([known, self.made_w[other].float()])
        return Batch(augment.degrade(goal, rng), goal, w, torch.cat([trust, torch.ones(options.generated)]))


@dataclass(frozen=True, eq=False)
class Batch:
    seen: Tensor  # [B, 3, S, S], spoilt
    goal: Tensor  # [B, 3, S, S]
    w: Tensor  # [B, L, D]
    trust: Tensor  # [B], weight of the latent terms


def prepare(options: InverterOptions, generator: Generator, axes: LatentAxes, out: Path) -> Lessons:
    """Read the pictures, ask the teacher, render the bank; the slow parts are kept in the run's folder for a resumed run."""
    paths = list_pictures(options.data)
    held = held_out([path.name for path in paths])
    paths = [path for path in paths if path.name not in held]
    real = load_pictures(paths, generator.config.size)
    weights = torch.tensor([options.oversample if path.name.startswith(PHOTOGRAPHS) else 1.0 for path in paths])
    real_w = _kept(out / "teacher.pt", lambda: _teach(options, real), len(real)) if options.teacher else None
    made_w = _made_latents(options, axes, real_w, generator.config.layers)
    made = _kept(out / "made.pt", lambda: _render(options, generator, made_w), options.bank)
    return Lessons(real, weights, real_w, made, made_w)


def _kept(path: Path, make: Callable[[], Tensor], count: int) -> Tensor:
    """What was prepared for `count` pictures, from the run's folder, or made and put there."""
    if path.exists():
        kept = torch.load(path, weights_only=True)
        if len(kept) == count:
            return kept
    made = make()
    save_atomic(made, path)
    return made


@torch.no_grad()
def _render(options: InverterOptions, generator: Generator, w: Tensor) -> Tensor:
    pictures = []
    for part in tqdm(w.split(32), desc="generated pictures"):
        with _precision(options):
            pictures.append(to_uint8(generator.synthesis(part)))
    return torch.cat(pictures)


def _teach(options: InverterOptions, real: Tensor) -> Tensor:
    teacher = AutoencoderEncoder(read_safetensors(options.teacher)[0])
    shape = teacher(to_float(real[:1])).shape[1:]
    latents = torch.empty(len(real), *shape, dtype=torch.float16)
    for first in tqdm(range(0, len(real), 64), desc="teacher"):
        with _precision(options):
            latents[first : first + 64] = teacher(to_float(real[first : first + 64]))
    return latents


def _made_latents(options: InverterOptions, axes: LatentAxes, real_w: Tensor | None, layers: int) -> Tensor:
    """w from the Gaussian; three in four with the deltas of some real picture, so that they lie where real ones do."""
    rng = torch.Generator().manual_seed(options.seed)
    w = axes.sample(options.bank, rng)[:, None].expand(-1, layers, -1)
    if real_w is None:
        return w.contiguous()
    like = real_w[torch.randint(len(real_w), (options.bank,), generator=rng)].float()
    share = (torch.rand(options.bank, 1, 1, generator=rng) < 0.75).float()
    return w + share * (like - like[:, :1])


def _precision(options: InverterOptions):
    return torch.autocast("cpu", torch.bfloat16, enabled=options.half)


# ---- losses

class Losses:
    def __init__(self, options: InverterOptions, generator: Generator, axes: LatentAxes, face: FaceDescriptor):
        self.options, self.generator, self.face = options, generator, face
        variance, directions = torch.linalg.eigh((axes.axes.T @ axes.axes).double())
        self.whiten = (directions / variance.clamp(min=options.common_floor).sqrt()).float()

    def latents(self, w: Tensor, batch: Batch) -> dict[str, Tensor]:
        """Squared error of the part that all layers share, in the latents' axes, and of every layer as it is."""
        error = w - batch.w
        common = (error.mean(1) @ self.whiten).square().mean(1)
        share = batch.trust / len(batch.trust)
        return {"common": (common * share).sum(), "layers": (error.square().mean(dim=(1, 2)) * share).sum()}

    def pictures(self, w: Tensor, goal: Tensor) -> dict[str, Tensor]:
        """The reconstruction against the goal: pixels, face network features relative to their mean, squared descriptor distance."""
        with _precision(self.options):
            images = self.generator.synthesis(w).float()
            ours = self.face.features(images)
            with torch.no_grad():
                theirs = self.face.features(goal)
            distance = (self.face.describe(ours) - self.face.describe(theirs)).square().sum(1).mean()
        relative = [(a.float() - b.float()).abs().mean() / b.float().abs().mean() for a, b in zip(ours, theirs, strict=True)]
        return {"pixels": (images - goal).abs().mean(), "features": torch.stack(relative).mean(), "descriptor": distance}

    def __call__(self, w: Tensor, batch: Batch, rendered: int) -> tuple[Tensor, dict[str, Tensor]]:
        o = self.options
        terms = self.latents(w, batch) | {"deltas": (w[:, 1:] - w[:, :1]).square().mean()}
        total = o.common_weight * terms["common"] + o.layer_weight * terms["layers"] + o.delta_weight * terms["deltas"]
        if rendered:
            seen = self.pictures(w[:rendered], batch.goal[:rendered])
            total = total + o.picture_weight * sum(getattr(o, name) * value for name, value in seen.items())
            terms |= seen
        return total, terms


# ---- the run

class Trainer:
    """Encoder, its average, optimiser and clock: what a checkpoint holds."""

    def __init__(self, options: InverterOptions):
        self.options, self.out = options, Path(options.out)
        self.generator, self.axes = load_generator(options.generator), load_latents(options.latents)
        size, layers, dim = options.input_size, self.generator.config.layers, self.generator.config.style_dim
        if size != self.generator.config.size:
            raise UserError(f"--input-size {size} must be the generator's side, {self.generator.config.size}.")
        self.architecture = asdict(EncoderConfig(options.widths, options.depths, size, layers, dim, options.head_width))
        torch.manual_seed(options.seed)
        self.encoder = new_encoder(EncoderConfig(**self.architecture)).train()
        self.average = copy.deepcopy(self.encoder).eval().requires_grad_(False)
        self.optimizer = torch.optim.Adam(self.encoder.parameters(), options.rate, betas=(0.9, 0.99))
        self.step, self.seconds = 0, 0.0
        self.out.mkdir(parents=True, exist_ok=True)
        self.path = self.out / "checkpoint.pt"
        self._resume(load_resume(self.path, self.architecture))

    def _resume(self, state: dict | None) -> None:
        if state is None:
            return
        for name in ("encoder", "average", "optimizer"):
            getattr(self, name).load_state_dict(state[name])
        self.step, self.seconds = state["step"], state["seconds"]

    def save(self) -> None:
        parts = {name: getattr(self, name).state_dict() for name in ("encoder", "average", "optimizer")}
        save_atomic(parts | {"architecture": self.architecture, "step": self.step, "seconds": self.seconds}, self.path)

    def inverter(self) -> Inverter:
        """The averaged encoder, as the ordinary network."""
        encoder = Encoder4Editing(EncoderConfig(**self.architecture))
        encoder.load_state_dict(self.average.state_dict())
        return Inverter(encoder, self.axes.mean).eval().requires_grad_(False)

    @property
    def progress(self) -> float:
        return min(1.0, max(self.step / self.options.steps, self.seconds / (60 * self.options.minutes)))

    def learn(self, lessons: Lessons, losses: Losses) -> dict[str, float]:
        """One step. Returns the row for the log."""
        o, start = self.options, time.monotonic()
        batch = lessons.draw(o, self.step)
        factor = warm_cosine(self.progress, self.step, o.warmup, 0.02)
        self.optimizer.param_groups[0]["lr"] = o.rate * factor
        with _precision(o):
            raw = self.encoder(batch.seen.contiguous(memory_format=torch.channels_last))
        # The first steps learn the latents alone; then more and more pictures of the batch are also rendered.
        rendered = 0 if self.progress < 0.04 else min(o.rendered, FIRST_RENDERED + round(o.rendered * 1.5 * self.progress))
        total, terms = losses(raw.float() + self.axes.mean, batch, rendered)
        self.optimizer.zero_grad(set_to_none=True)
        total.backward()
        nn.utils.clip_grad_norm_(self.encoder.parameters(), 5.0)
        self.optimizer.step()
        average_into(self.average, self.encoder, self.step, o.average)
        self.step, self.seconds = self.step + 1, self.seconds + time.monotonic() - start
        row = dict.fromkeys(COLUMNS, float("nan")) | {name: value.item() for name, value in terms.items()}
        clock = {"step": self.step, "seconds": self.seconds, "pictures": self.step * o.batch}
        return row | clock | {"loss": total.item(), "rate": o.rate * factor}


def train(options: InverterOptions) -> Inverter:
    """Run or resume the recipe; returns the averaged inverter. Raises UserError for a bad folder or another run's checkpoint."""
    torch.set_num_threads(options.threads)
    trainer, face = Trainer(options), face_descriptor()
    lessons = prepare(options, trainer.generator, trainer.axes, trainer.out)
    losses = Losses(options, trainer.generator, trainer.axes, face)
    log = CsvLog(trainer.out / "log.csv", COLUMNS, trainer.step)
    saved = drawn = trainer.seconds
    with tqdm(total=options.steps, initial=trainer.step, desc="inverter") as bar:
        while trainer.progress < 1:
            row = trainer.learn(lessons, losses)
            log.write(row)
            bar.update()
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
    save_inverter(inverter, trainer.out / "inverter.safetensors")
    if trainer.options.export:
        save_inverter(inverter, trainer.options.export)
    return inverter


def draw_sheet(trainer: Trainer) -> None:
    """Held-out photographs, the encoder's inversion, and that refined."""
    from . import inversion

    paths = list_pictures(trainer.options.data)
    held = held_out([path.name for path in paths])
    chosen = sorted((path for path in paths if path.name in held), key=lambda path: not path.name.startswith(PHOTOGRAPHS))[:SHEET]
    pictures = to_float(load_pictures(chosen, trainer.generator.config.size))
    models = inversion.working_set(trainer.generator, trainer.inverter(), trainer.axes)
    first = inversion.invert(models, pictures)
    later = [inversion.refined(models, source, [25])[0] for source in first]
    inversion.sheet(pictures, first, later).save(trainer.out / f"sheet-{trainer.step:06d}.png")


def main(argv: Sequence[str] | None = None) -> None:
    train(parse_options(InverterOptions, argv, __doc__))


if __name__ == "__main__":
    main()
