"""Train a small StyleGAN2: `python -m essence train generator --data DIR --out runs/generator`.

An autoencoder with critics. A plain encoder gives w+ for real pictures, the generator renders them;
pixels, the face network's features and its descriptor compare. Critics on pixels and on those
features see the same renders, and pictures of latents that nobody encoded. With
`--reconstruct 0` it is a plain StyleGAN2 training: critics alone, latents from the mapping network.

Whatever the critics see without a reconstruction beside it rots first: so w+ is reconstructed with
its deltas and without.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from tqdm import tqdm

from ..library.checkpoints import load_generator, save_generator
from ..library.safe_files import write_safetensors
from ..models.stylegan2 import Generator, GeneratorConfig
from ..pictures.grids import grid
from ..pictures.tensors import to_pil
from . import gaussian
from .autoencoder import PictureEncoder, PictureEncoderConfig, load_encoder, save_encoder
from .common import CsvLog, load_resume, parse_options, precision, save_atomic, to_float
from .critics import FeatureCritic, PixelCritic
from .generator_data import Pictures, prepare
from .generator_step import COLUMNS, FIRST_LOOK, Lesson, on_device
from .parallel import agreed, first_one_first, processes, rank

SHEET = 64


@dataclass(frozen=True)
class GeneratorOptions:
    data: str  # folder of aligned pictures
    out: str = "runs/generator"
    export: str = ""  # also write generator and latents into this folder
    tight: str = (
        ""  # folder of tight face crops (FairFace's layout), of which the inner face is learned
    )
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
        self.generator, self.encoder = (
            net.to(device).train().requires_grad_(True) for net in networks(options)
        )
        self.generator.style.requires_grad_(options.reconstruct == 0)
        self.pixel, self.feature = PixelCritic(options.size).to(device), FeatureCritic().to(device)
        self.averages = nn.ModuleList(
            copy.deepcopy(net).eval().requires_grad_(False)
            for net in (self.generator, self.encoder)
        )
        made = [
            p for net in (self.generator, self.encoder) for p in net.parameters() if p.requires_grad
        ]
        judged = [*self.pixel.parameters(), *self.feature.parameters()]
        self.optimizers = [
            torch.optim.Adam(made, options.rate, betas=(0.9, 0.99)),
            torch.optim.Adam(judged, options.critic_rate, betas=(0.0, 0.99)),
        ]
        self.latents = gaussian.Running(options.style_dim).to(device)
        self.clock = {"step": 0, "seen": 0, "seconds": 0.0, "p": 0.2, "sign": 0.0}
        self.out.mkdir(parents=True, exist_ok=True)
        self.path = self.out / "checkpoint.pt"
        self.architecture = {
            "generator": _plain(self.generator.config),
            "encoder": _plain(self.encoder.config),
        }
        self._resume(load_resume(self.path, self.architecture))

    def _modules(self) -> dict[str, nn.Module]:
        return {
            name: getattr(self, name)
            for name in ("generator", "encoder", "pixel", "feature", "averages", "latents")
        }

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
            state |= {
                "optimizers": [o.state_dict() for o in self.optimizers],
                "clock": self.clock,
                "architecture": self.architecture,
            }
            save_atomic(state, self.path)

    @property
    def progress(self) -> float:
        share = max(
            self.clock["step"] / self.options.steps,
            self.clock["seconds"] / (60 * self.options.minutes),
        )
        return min(1.0, agreed(share))

    def precision(self) -> torch.autocast:
        return precision(self.device, self.options.half)


def networks(options: GeneratorOptions) -> tuple[Generator, PictureEncoder]:
    """The ones to start from, or new ones."""
    sides = [4 << i for i in range(len(options.channels))]
    config = GeneratorConfig(
        options.size,
        options.style_dim,
        options.n_mlp,
        dict(zip(sides, options.channels, strict=True)),
    )
    generator = load_generator(options.start) if options.start else Generator(config)
    if options.start_encoder:
        return generator, load_encoder(options.start_encoder)
    return generator, PictureEncoder(PictureEncoderConfig.for_generator(generator.config))


def _plain(config: object) -> dict:
    """As a checkpoint can hold it."""
    return {
        key: list(value.values())
        if isinstance(value, dict)
        else list(value)
        if isinstance(value, tuple)
        else value
        for key, value in asdict(config).items()
    }


# ---- the run


def train(options: GeneratorOptions) -> Path:
    """Run or resume the recipe; returns the folder with generator, latents and encoder. Raises
    UserError.
    """
    torch.set_num_threads(options.threads)
    with processes(options.device) as device:
        trainer = Trainer(options, device)
        with first_one_first():
            pictures = prepare(
                options.data,
                options.tight,
                trainer.out,
                options.size,
                options.photographs,
                options.tight_share,
            )
        lesson = Lesson(trainer, pictures)
        lesson.begin()
        log = (
            CsvLog(trainer.out / "log.csv", COLUMNS, trainer.clock["step"]) if rank() == 0 else None
        )
        saved = drawn = trainer.clock["seconds"]
        with tqdm(
            total=options.steps,
            initial=trainer.clock["step"],
            desc="generator",
            disable=rank() > 0,
            mininterval=5,
        ) as bar:
            while trainer.progress < 1:
                row = lesson.step()
                bar.update()
                if log:
                    log.write(row)
                    bar.set_postfix(
                        pixels=f"{row['pixels']:.3f}",
                        believe=f"{row['believe']:.2f}",
                        refresh=False,
                    )
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
    """The averaged networks; the mapping network is the Gaussian of all whole pictures' w (unless
    it was trained itself).
    """
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
        write_safetensors(
            folder / "latents.safetensors",
            {"mean": mean, "covariance": covariance},
            {"kind": "latents"},
        )
        save_encoder(encoder, folder / "encoder.safetensors")


@torch.no_grad()
def draw_sheet(trainer: Trainer, pictures: Pictures) -> None:
    """Real pictures over their reconstructions, then samples at truncation 0.7, by the averaged
    networks.
    """
    generator, encoder = trainer.averages
    rng = torch.Generator().manual_seed(1)
    batch = on_device(pictures.draw(SHEET // 4, rng, 0.0), trainer.device)
    found = moments(trainer, pictures.whole()[:: max(1, len(pictures.whole()) // FIRST_LOOK)])
    sampled = found.mean + 0.7 * (found.sample(SHEET // 2, rng) - found.mean)
    with trainer.precision():
        rows = [batch.goal, generator.synthesis(encoder(batch.goal)), generator.synthesis(sampled)]
    cells = to_pil(torch.cat([row.float().cpu() for row in rows]))
    columns = SHEET // 4
    sheet = grid(
        [cells[i : i + columns] for i in range(0, len(cells), columns)], trainer.options.size, 0
    )
    sheet.save(trainer.out / f"sheet-{trainer.clock['step']:06d}.png")


def main(argv: Sequence[str] | None = None) -> None:
    train(parse_options(GeneratorOptions, argv, __doc__))


if __name__ == "__main__":
    main()
