"""Train a small StyleGAN2: `python -m essence train generator --data DIR --out runs/generator`.

An autoencoder with critics. A plain encoder gives w+ for real pictures, the generator renders them; pixels, the face network's features and
its descriptor compare. Critics on pixels and on those features see the same renders, and pictures of latents that nobody encoded. With
`--reconstruct 0` it is a plain StyleGAN2 training: critics alone, latents from the mapping network.

Whatever the critics see without a reconstruction beside it rots first: so w+ is reconstructed with its deltas and without.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from ..checkpoints import load_generator, save_generator
from ..formats import write_safetensors
from ..images import grid, to_pil
from ..models.identity import face_descriptor
from ..models.stylegan2 import Generator, GeneratorConfig
from . import gaussian
from .autoencoder import PictureEncoder, PictureEncoderConfig, load_encoder, save_encoder
from .common import CsvLog, average_into, load_resume, parse_options, save_atomic, to_float, warm_cosine
from .critics import Alteration, FeatureCritic, PixelCritic, believe, doubt, r1
from .generator_lessons import STEP_SEEDS, Batch, Pictures, care, prepare
from .parallel import agreed, first_one_first, mean_over_processes, processes, rank, spread

COLUMNS = ("step", "seconds", "pictures", "pixels", "coarse", "features", "descriptor", "believe", "doubt", "r1", "p", "sign", "rate")
SHEET = 64
EVERY = 16  # steps between R1 penalties, and between changes of the augmentation
FIRST_LOOK = 2048  # pictures
AIM = 0.6  # of the sign of the critic's scores for real pictures (Karras et al. 2020)


@dataclass(frozen=True)
class GeneratorOptions:
    data: str  # folder of aligned pictures
    out: str = "runs/generator"
    export: str = ""  # also write generator and latents into this folder
    tight: str = ""  # folder of tight face crops (FairFace's layout), of which the inner face is learned
    start: str = ""  # generator to begin with
    start_encoder: str = ""  # its encoder
    size: int = 128
    style_dim: int = 256
    n_mlp: int = 4
    channels: tuple[int, ...] = (256, 256, 192, 128, 64, 32)  # at 4, 8, ..., size
    steps: int = 1_000_000
    minutes: float = 90.0  # the schedule ends at whichever comes first
    batch: int = 12  # real pictures
    sampled: int = 4  # further renders, of latents that no picture gave
    photographs: float = 3.0  # how much more often photographs are drawn
    tight_share: float = 0.3  # of a batch
    lit_share: float = 0.3  # of the pictures get another light
    deltas: float = 0.4  # share of the pictures whose layers keep their own w
    rate: float = 2.5e-4
    last_rate: float = 0.03  # of `rate`, at the end
    critic_rate: float = 1e-3
    warmup: int = 200
    critics_after: int = 200  # steps; then their weight grows over as many again
    average: float = 0.998
    reconstruct: float = 1.0
    pixels: float = 2.5
    coarse: float = 1.5  # pixels at a quarter of the side
    features: float = 0.5
    descriptor: float = 0.3
    care: float = 2.0  # how much more eyes and mouth count
    critics: float = 0.25
    r1: float = 0.5
    delta_weight: float = 0.01
    mixing: float = 0.3  # share of the sampled latents made of two people
    seed: int = 0
    threads: int = 2
    device: str = "cuda" if torch.cuda.is_available() else "cpu"
    half: bool = True  # bfloat16 where it is safe
    checkpoint_seconds: float = 300.0
    sheet_seconds: float = 900.0


class Trainer:
    """Networks, averages, optimisers and clock: what a checkpoint holds."""

    def __init__(self, options: GeneratorOptions, device: str):
        torch.manual_seed(options.seed)
        self.options, self.device, self.out = options, device, Path(options.out)
        self.generator, self.encoder = (net.to(device).train().requires_grad_(True) for net in networks(options))
        self.generator.style.requires_grad_(options.reconstruct == 0)
        self.pixel, self.feature = PixelCritic(options.size).to(device), FeatureCritic().to(device)
        self.averages = nn.ModuleList(copy.deepcopy(net).eval().requires_grad_(False) for net in (self.generator, self.encoder))
        made = [p for net in (self.generator, self.encoder) for p in net.parameters() if p.requires_grad]
        judged = [*self.pixel.parameters(), *self.feature.parameters()]
        self.optimizers = [torch.optim.Adam(made, options.rate, betas=(0.9, 0.99)),
                           torch.optim.Adam(judged, options.critic_rate, betas=(0.0, 0.99))]  # fmt: skip
        self.latents = gaussian.Running(options.style_dim).to(device)
        self.clock = {"step": 0, "seen": 0, "seconds": 0.0, "p": 0.2, "sign": 0.0}
        self.out.mkdir(parents=True, exist_ok=True)
        self.path = self.out / "checkpoint.pt"
        self.architecture = {"generator": _plain(self.generator.config), "encoder": _plain(self.encoder.config)}
        self._resume(load_resume(self.path, self.architecture))

    def _modules(self) -> dict[str, nn.Module]:
        return {name: getattr(self, name) for name in ("generator", "encoder", "pixel", "feature", "averages", "latents")}

    def _resume(self, state: dict | None) -> None:
        if state is None:
            return
        for name, module in self._modules().items():
            module.load_state_dict(state[name])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self.clock = state["clock"]

    def save(self) -> None:
        if rank() == 0:
            state = {name: module.state_dict() for name, module in self._modules().items()}
            state |= {"optimizers": [o.state_dict() for o in self.optimizers], "clock": self.clock, "architecture": self.architecture}
            save_atomic(state, self.path)

    @property
    def progress(self) -> float:
        share = max(self.clock["step"] / self.options.steps, self.clock["seconds"] / (60 * self.options.minutes))
        return min(1.0, agreed(share))

    def precision(self) -> torch.autocast:
        return torch.autocast(torch.device(self.device).type, torch.bfloat16, enabled=self.options.half)


def networks(options: GeneratorOptions) -> tuple[Generator, PictureEncoder]:
    """The ones to start from, or new ones."""
    sides = [4 << i for i in range(len(options.channels))]
    config = GeneratorConfig(options.size, options.style_dim, options.n_mlp, dict(zip(sides, options.channels, strict=True)))
    generator = load_generator(options.start) if options.start else Generator(config)
    if options.start_encoder:
        return generator, load_encoder(options.start_encoder)
    return generator, PictureEncoder(PictureEncoderConfig.for_generator(generator.config))


def _plain(config: object) -> dict:
    """As a checkpoint can hold it."""
    return {key: list(value.values()) if isinstance(value, dict) else list(value) if isinstance(value, tuple) else value
            for key, value in asdict(config).items()}  # fmt: skip


class Lesson:
    """One step of both sides."""

    def __init__(self, trainer: Trainer, pictures: Pictures):
        self.trainer, self.pictures, self.options = trainer, pictures, trainer.options
        self.face = face_descriptor().to(trainer.device)
        self.care = care(trainer.options.size, trainer.options.care).to(trainer.device)
        names = ("generator", "encoder", "pixel", "feature")
        self.nets = {name: spread(Synthesis(net) if name == "generator" else net, trainer.device)
                     for name, net in ((name, getattr(trainer, name)) for name in names)}  # fmt: skip

    @torch.no_grad()
    def begin(self) -> None:
        """The latents' moments from a first look at some pictures."""
        t = self.trainer
        if t.latents.weight == 0:
            for part in self.pictures.whole()[:: max(1, len(self.pictures.whole()) // FIRST_LOOK)].split(64):
                with t.precision():
                    t.latents.add(t.encoder(to_float(part).to(t.device))[:, 0])

    def step(self) -> dict[str, float]:
        t, o, began = self.trainer, self.options, time.monotonic()
        rng = torch.Generator().manual_seed((o.seed * 1000 + rank()) * STEP_SEEDS + t.clock["step"])
        factor = warm_cosine(t.progress, t.clock["step"], o.warmup, o.last_rate)
        for optimizer, rate in zip(t.optimizers, (o.rate, o.critic_rate), strict=True):
            optimizer.param_groups[0]["lr"] = rate * factor
        batch = _to(self.pictures.draw(o.batch, rng, o.lit_share), t.device)
        w, own = self.encode(batch, rng)
        with t.precision():
            fake = self.nets["generator"](torch.cat([w, self.sample(own, rng)])).float()
        made = batch.goal + batch.shown * (fake[: o.batch] - batch.goal)  # what a crop does not show is taken from the goal
        fake, real, features = self.views(made, fake[o.batch :], batch, rng)
        row = self.judge(fake.detach(), real, [[x.detach() for x in part] for part in features])
        row |= self.make(fake, features, self.compare(made, features, batch), w)
        t.clock["step"] += 1
        t.clock["seen"] += o.batch
        t.clock["seconds"] += time.monotonic() - began
        for average, net in zip(t.averages, (t.generator, t.encoder), strict=True):
            average_into(average, net, t.clock["step"], o.average)
        row |= t.clock | {"pictures": t.clock["seen"], "rate": o.rate * factor}
        return {name: row[name].item() if isinstance(row[name], Tensor) else row[name] for name in COLUMNS}

    # -- pictures

    def encode(self, batch: Batch, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """w+ [B, L, D] of the pictures, most of them without deltas; and all of them as they were."""
        o, t = self.options, self.trainer
        with t.precision():
            full = self.nets["encoder"](batch.seen)
        t.latents.add(full[:, 0].detach()[batch.plain])
        keep = (torch.rand(o.batch, 1, 1, generator=rng) < o.deltas).to(full)
        return full[:, :1] + keep * (full - full[:, :1]), full.detach()

    def sample(self, full: Tensor, rng: torch.Generator) -> Tensor:
        """w+ [sampled, L, D]: the Gaussian of the encoded pictures; some change over to another w at a random layer (style mixing), some
        bring the deltas of a real picture."""
        o, t = self.options, self.trainer
        count, layers = o.sampled, full.shape[1]
        if o.reconstruct == 0:
            first, second = (t.generator.mapping(torch.randn(count, o.style_dim, generator=rng).to(t.device)) for _ in range(2))
        else:
            first, second = (t.latents.sample(count, rng) for _ in range(2))
        crossing = torch.randint(1, layers, (count, 1, 1), generator=rng).to(t.device)
        mixed = (torch.rand(count, 1, 1, generator=rng) < o.mixing).to(t.device)
        mixed = mixed & (torch.arange(layers, device=t.device).view(1, -1, 1) >= crossing)
        w = torch.where(mixed, second[:, None], first[:, None])
        like = full[torch.randint(len(full), (count,), generator=rng).to(t.device)]
        keep = (torch.rand(count, 1, 1, generator=rng) < o.deltas * (o.reconstruct > 0)).to(w)
        return w + keep * (like - like[:, :1])

    def views(self, made: Tensor, alone: Tensor, batch: Batch, rng: torch.Generator) -> tuple[Tensor, Tensor, list[list[Tensor]]]:
        """Renders and goals as critics and face network see them, altered alike, and the features of both."""
        o, t = self.options, self.trainer
        alter, other = Alteration(o.batch, t.clock["p"], rng), Alteration(o.sampled, t.clock["p"], rng)
        fake, real = torch.cat([alter(made), other(alone)]), alter(batch.goal)
        with t.precision():
            theirs = self.face.features(real)
            ours = self.face.features(fake)
        return fake, real, [ours, theirs]

    # -- the two sides

    def judge(self, fake: Tensor, real: Tensor, features: list[list[Tensor]]) -> dict[str, Tensor]:
        """The critics' step."""
        o, t = self.options, self.trainer
        for net in (t.pixel, t.feature):
            net.requires_grad_(True)
        penalised = t.clock["step"] % EVERY == 0
        real = real.requires_grad_(penalised)
        with t.precision():
            maps = [torch.cat(pair) for pair in zip(*features, strict=True)]
            on_pixels = [s.split([len(fake), len(real)]) for s in self.nets["pixel"](torch.cat([fake, real]))]
            on_features = [s.split([len(fake), len(real)]) for s in self.nets["feature"](maps)]
        scores = on_pixels + on_features
        wrong = doubt([s[0] for s in scores]) + believe([s[1] for s in scores])
        penalty = r1([s[1] for s in on_pixels], real) if penalised else wrong.new_zeros(())
        _descend(t.optimizers[1], wrong + o.r1 * EVERY / 2 * penalty)
        self.adapt(torch.cat([s[1].flatten() for s in on_pixels]).detach())
        return {"doubt": wrong.detach(), "r1": penalty.detach()}

    def adapt(self, scores: Tensor) -> None:
        """More augmentation while the critic is too sure of the real pictures, less while it is not."""
        clock = self.trainer.clock
        clock["sign"] += 0.05 * (mean_over_processes(scores.float().sign().mean()).item() - clock["sign"])
        if clock["step"] % EVERY == 0:
            clock["p"] = min(0.8, max(0.0, clock["p"] + (0.004 if clock["sign"] > AIM else -0.004)))

    def make(self, fake: Tensor, features: list[list[Tensor]], terms: dict[str, Tensor], w: Tensor) -> dict[str, Tensor]:
        """The step of generator and encoder."""
        o, t = self.options, self.trainer
        for net in (t.pixel, t.feature):
            net.requires_grad_(False)
        with t.precision():
            trust = believe(t.pixel(fake) + t.feature(features[0]))
        ramp = min(1.0, max(0.0, t.clock["step"] / max(1, o.critics_after) - 1)) if o.reconstruct else 1.0
        loss = o.reconstruct * sum(getattr(o, name) * value for name, value in terms.items()) + ramp * o.critics * trust
        if o.reconstruct:
            loss = loss + o.delta_weight * (w[:, 1:] - w[:, :1]).square().mean()
        _descend(t.optimizers[0], loss, 5.0)
        return {name: value.detach() for name, value in terms.items()} | {"believe": trust.detach()}

    def compare(self, made: Tensor, features: list[list[Tensor]], batch: Batch) -> dict[str, Tensor]:
        """Reconstruction: pixels where they are shown, features relative to their mean, squared descriptor distance."""
        goal = batch.goal
        area = batch.shown.mean(dim=(1, 2, 3), keepdim=True).clamp(min=0.3)
        error = (made - goal) / area
        coarse = F.avg_pool2d(error, 4).abs().mean()
        ours, theirs = [x[: len(goal)] for x in features[0]], features[1]
        relative = [(a.float() - b.float()).abs().mean() / b.float().abs().mean() for a, b in zip(ours, theirs, strict=True)]
        with self.trainer.precision():
            distance = (self.face.describe(ours) - self.face.describe(theirs)).square().sum(1).mean()
        pixels, features = (error.abs() * self.care).mean(), torch.stack(relative).mean()
        return {"pixels": pixels, "coarse": coarse, "features": features, "descriptor": distance}


class Synthesis(nn.Module):
    """The generator's `synthesis` as a module's forward, which gradient averaging hooks into."""

    def __init__(self, generator: Generator):
        super().__init__()
        self.generator = generator

    def forward(self, w: Tensor) -> Tensor:
        return self.generator.synthesis(w)


def _descend(optimizer: torch.optim.Optimizer, loss: Tensor, limit: float | None = None) -> None:
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    if limit:
        nn.utils.clip_grad_norm_(optimizer.param_groups[0]["params"], limit)
    optimizer.step()


def _to(batch: Batch, device: str) -> Batch:
    return Batch(*(getattr(batch, name).to(device, non_blocking=True) for name in ("seen", "goal", "shown", "plain")))


# ---- the run

def train(options: GeneratorOptions) -> Path:
    """Run or resume the recipe; returns the folder with generator, latents and encoder. Raises UserError."""
    torch.set_num_threads(options.threads)
    with processes(options.device) as device:
        trainer = Trainer(options, device)
        with first_one_first():
            pictures = prepare(options.data, options.tight, trainer.out, options.size, options.photographs, options.tight_share)
        lesson = Lesson(trainer, pictures)
        lesson.begin()
        log = CsvLog(trainer.out / "log.csv", COLUMNS, trainer.clock["step"]) if rank() == 0 else None
        saved = drawn = trainer.clock["seconds"]
        with tqdm(total=options.steps, initial=trainer.clock["step"], desc="generator", disable=rank() > 0, mininterval=5) as bar:
            while trainer.progress < 1:
                row = lesson.step()
                bar.update()
                if log:
                    log.write(row)
                    bar.set_postfix(pixels=f"{row['pixels']:.3f}", believe=f"{row['believe']:.2f}", refresh=False)
                if trainer.clock["seconds"] - saved > options.checkpoint_seconds:
                    trainer.save()
                    saved = trainer.clock["seconds"]
                if rank() == 0 and trainer.clock["seconds"] - drawn > options.sheet_seconds:
                    draw_sheet(trainer, lesson.pictures)
                    drawn = trainer.clock["seconds"]
        trainer.save()
        if rank() == 0:
            export(trainer, lesson.pictures)
            draw_sheet(trainer, lesson.pictures)
    return Path(options.export or options.out)


@torch.no_grad()
def moments(trainer: Trainer, pictures: Tensor) -> gaussian.Running:
    """Of the averaged encoder's w of some pictures, uint8, and their mirror images."""
    found = gaussian.Running(trainer.options.style_dim, decay=0).to(trainer.device)
    for part in tqdm(pictures.split(64), desc="latents", mininterval=5, leave=False):
        images = to_float(part).to(trainer.device)
        with trainer.precision():
            found.add(trainer.averages[1](torch.cat([images, images.flip(3)]))[:, 0])
    return found


@torch.no_grad()
def export(trainer: Trainer, pictures: Pictures) -> None:
    """The averaged networks; the mapping network is the Gaussian of all whole pictures' w (unless it was trained itself)."""
    generator, encoder = trainer.averages
    found = moments(trainer, pictures.whole())
    mean, covariance = found.mean.cpu(), found.covariance().cpu()
    kept, encoder = copy.deepcopy(generator).cpu(), copy.deepcopy(encoder).cpu()
    if trainer.options.reconstruct:
        moved = gaussian.install(kept, mean, covariance)
        encoder.latent.bias += moved - mean
        mean = moved
    for folder in {trainer.out, Path(trainer.options.export or trainer.out)}:
        folder.mkdir(parents=True, exist_ok=True)
        save_generator(kept, folder / "generator.safetensors")
        write_safetensors(folder / "latents.safetensors", {"mean": mean, "covariance": covariance}, {"kind": "latents"})
        save_encoder(encoder, folder / "encoder.safetensors")


@torch.no_grad()
def draw_sheet(trainer: Trainer, pictures: Pictures) -> None:
    """Real pictures over their reconstructions, then samples at truncation 0.7, by the averaged networks."""
    generator, encoder = trainer.averages
    rng = torch.Generator().manual_seed(1)
    batch = _to(pictures.draw(SHEET // 4, rng, 0.0), trainer.device)
    found = moments(trainer, pictures.whole()[:: max(1, len(pictures.whole()) // FIRST_LOOK)])
    sampled = found.mean + 0.7 * (found.sample(SHEET // 2, rng) - found.mean)
    with trainer.precision():
        rows = [batch.goal, generator.synthesis(encoder(batch.goal)), generator.synthesis(sampled)]
    cells = to_pil(torch.cat([row.float().cpu() for row in rows]))
    columns = SHEET // 4
    sheet = grid([cells[i : i + columns] for i in range(0, len(cells), columns)], trainer.options.size, 0)
    sheet.save(trainer.out / f"sheet-{trainer.clock['step']:06d}.png")


def main(argv: Sequence[str] | None = None) -> None:
    train(parse_options(GeneratorOptions, argv, __doc__))


if __name__ == "__main__":
    main()
