"""Train a mapper from an image-text encoder's space to a generator's latents: `python -m essence
train mapper --generator FILE --latents FILE --clip FILE --out runs/mapper`.

It needs no pictures: random z become w, styles, pictures and their embeddings, and the mapper
learns the way back from the embeddings (CSLA, arXiv 2210.04506; a reconstruction, whose choices
docs/LOG.md compares). Minutes on one core for the small models.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from ..errors import UserError
from ..library.checkpoints import (
    load_essence_encoder,
    load_generator,
    load_latents,
    save_mapper,
)
from ..library.clip_files import load_clip
from ..library.components import fingerprint
from ..models.clip import ImageText, import_open_clip
from ..models.latents import LatentAxes
from ..models.mapper import Mapper, new_mapper
from ..models.stylegan2 import Generator
from ..pictures.tensors import resample
from .common import (
    CsvLog,
    cached_on_disk,
    descend,
    described,
    load_checkpoint,
    parse_options,
    save_atomic,
    step_generator,
    warm_cosine,
)

CENTRES = ("mean", "running", "batch", "sample")
COLUMNS = ("step", "seconds", "loss", "w", "styles", "essences", "held_r2")
HELD = 12  # one sample of so many is not trained on
RENDERED = 32  # pictures at once
LAST_RATE = 0.01
RUNNING = 0.99  # decay of the running centre


@dataclass(frozen=True)
class MapperOptions:
    generator: str
    latents: str = field(metadata={"help": "mean and covariance of its w"})
    clip: str = field(metadata={"help": "the image-text encoder, in this project's format"})
    out: str = field(metadata={"help": "folder of the run: samples, checkpoint, log, the mapper"})
    essence: str = described(
        "", "an essence encoder: what it says of a picture is learned from the embedding too"
    )
    samples: int = described(9600, "pictures that the generator makes, kept in the run's folder")
    steps: int = 3000
    batch: int = 128
    rate: float = 1e-3
    weight_decay: float = 0.01
    width: int = 512
    depth: int = 2
    noise: float = described(
        0.3, "on unit embeddings, in their mean distance to the centre: texts are no pictures"
    )
    centre: str = described(
        "mean",
        "what embeddings are centred on: the mean of all, a running mean, the batch's mean, or "
        "another sample, whose w is then subtracted too",
    )
    styles: bool = described(False, "map the styles of the layers too, by way of w")
    power: float = described(
        0.5, "axes count by this power of their variance: 0 all alike, 1 as the generator sees them"
    )
    every: int = 500  # steps between checkpoints
    seed: int = 0
    threads: int = 0  # 0: torch's choice
    device: str = "cuda" if torch.cuda.is_available() else "cpu"

    def __post_init__(self) -> None:
        if self.centre not in CENTRES:
            raise UserError(f"--centre is one of {', '.join(CENTRES)}, not '{self.centre}'.")
        if self.samples < 2 * HELD:
            raise UserError(f"--samples must be at least {2 * HELD}, not {self.samples}.")


@torch.no_grad()
def draw_samples(
    generator: Generator, clip: ImageText, options: MapperOptions
) -> dict[str, Tensor]:
    """`w` [N, D] of random z, the unit embeddings `e` [N, E] of their pictures, and with an essence
    encoder its answers `b` [N, D], the mean over the layers.
    """
    rng = torch.Generator().manual_seed(options.seed)
    encoder = load_essence_encoder(options.essence).to(options.device) if options.essence else None
    w, e, b = [], [], []
    starts = range(0, options.samples, RENDERED)
    for start in tqdm(starts, desc="samples", mininterval=5):
        count = min(RENDERED, options.samples - start)
        z = torch.randn(count, generator.config.style_dim, generator=rng)
        w.append(generator.mapping(z.to(options.device)))
        images = generator.synthesis(w[-1])
        e.append(clip.embed_images(images))
        if encoder is not None:
            b.append(encoder(resample(images, encoder.input_size, "antialias")).mean(1))
    found = {"w": w, "e": e} | ({"b": b} if b else {})
    return {name: torch.cat(parts).cpu() for name, parts in found.items()}


def error(found: Tensor, wanted: Tensor, weight: Tensor | float = 1.0) -> Tensor:
    """MSE + 1 - cos of residuals [B, K]; the squares count by `weight` [K]."""
    square = (weight * (found - wanted).square()).mean()
    root = torch.as_tensor(weight, device=found.device).sqrt()
    return square + 1 - F.cosine_similarity(found * root, wanted * root, dim=1).mean()


def residual(values: Tensor, centre: str) -> Tensor:
    """Latents or essences [B, K] from where embeddings are centred; they have centres of their own
    where that is the mean of all.
    """
    if centre == "batch":
        return values - values.mean(0)
    return values - values.roll(1, 0) if centre == "sample" else values


class Trainer:
    """Mapper, optimiser and clock: what a checkpoint holds; and the samples that it learns from."""

    def __init__(self, options: MapperOptions):
        """A new mapper, or what the checkpoint in `options.out` holds. Raises UserError for one of
        another architecture.
        """
        self.options, device = options, options.device
        import_open_clip()
        self.generator = load_generator(options.generator).to(device)
        clip, axes = load_clip(options.clip).to(device), load_latents(options.latents).to(device)
        models = {"generator": fingerprint(self.generator), "clip": fingerprint(clip.model.visual)}
        teacher = load_essence_encoder(options.essence) if options.essence else None
        used = models | ({"essence": fingerprint(teacher)} if teacher else {})
        clip.fold_norms()
        out = Path(options.out)
        out.mkdir(parents=True, exist_ok=True)
        kept = cached_on_disk(
            out / "samples.pt", lambda: used | draw_samples(self.generator, clip, options)
        )
        if {name: kept.get(name) for name in used} != used:
            raise UserError(f"{out}/samples.pt is of other models: choose another --out.")
        self.clip, self.mean = clip, axes.mean
        self.w, self.e = kept["w"].to(device), kept["e"].to(device)
        self.held = torch.arange(len(self.w)) % HELD == 0
        with torch.random.fork_rng():
            torch.manual_seed(options.seed)
            self.mapper = self.new_mapper(axes, models).to(device)
        self.x = axes.coordinates(self.w - axes.mean)  # [N, K]
        self.essences = axes.coordinates(kept["b"].to(device)) if teacher else None  # [N, K]
        variance = axes.axes.square().sum(1)
        self.weight = variance**options.power / (variance**options.power).mean()
        self.mean_styles = self.generator.styles(axes.mean[None])
        self.optimizer = torch.optim.AdamW(
            self.mapper.parameters(), options.rate, weight_decay=options.weight_decay
        )
        self.step, self.seconds, self.path = 0, 0.0, out / "checkpoint.pt"
        self.architecture = asdict(self.mapper.config) | models
        if (state := load_checkpoint(self.path, self.architecture)) is not None:
            self.mapper.load_state_dict(state["mapper"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.step, self.seconds = state["step"], state["seconds"]

    def new_mapper(self, axes: LatentAxes, models: dict[str, str]) -> Mapper:
        o = self.options
        styles = self.generator.styles(self.w[:512]) if o.styles else []
        return new_mapper(
            axes, self.e[~self.held], o.width, o.depth, styles, **models, essences=bool(o.essence)
        )

    def save(self) -> None:
        """Write the checkpoint. Raises UserError."""
        state = {"mapper": self.mapper.state_dict(), "optimizer": self.optimizer.state_dict()}
        state |= {"step": self.step, "seconds": self.seconds, "architecture": self.architecture}
        save_atomic(state, self.path)

    def train_step(self) -> dict[str, float]:
        """One step. Returns its row of the log."""
        o, started = self.options, time.monotonic()
        rng = step_generator(o.seed, self.step)
        free = (~self.held).nonzero().squeeze(1)
        rows = free[torch.randint(len(free), (o.batch,), generator=rng)]
        e, x = self.e[rows], self.x[rows]
        noise = torch.randn(e.shape, generator=rng).to(e) / e.shape[1] ** 0.5
        noisy = F.normalize(e + o.noise * self.mapper.spread * noise, dim=1)
        # What embeddings, and latents, are residuals from.
        base = self.mapper.centre
        if o.centre == "running":
            self.mapper.centre.lerp_(e.mean(0), max(1 - RUNNING, 1 / (1 + self.step)))
        elif o.centre == "batch":
            base = noisy.mean(0)
        elif o.centre == "sample":
            base = noisy.roll(1, 0)
        x = residual(x, o.centre)
        found = self.mapper.coordinates(noisy - base)
        loss = terms_w = error(found, x, self.weight)
        terms_s = loss.new_zeros(())
        if o.styles:
            with torch.no_grad():
                at = self.mean + x @ self.mapper.axes
                wanted = [
                    s - mean
                    for s, mean in zip(self.generator.styles(at), self.mean_styles, strict=True)
                ]
            shifts = self.mapper.style_shifts(found)
            each = [
                error(a / d, b / d)
                for a, b, d in zip(shifts, wanted, self.mapper.deviations, strict=True)
            ]
            terms_s = torch.stack(each).mean()
            loss = loss + terms_s
        terms_b = loss.new_zeros(())
        if self.essences is not None:
            wanted = residual(self.essences[rows], o.centre)
            said = self.mapper.essence_coordinates(noisy - base)
            loss = loss + (terms_b := error(said, wanted, self.weight))
        factor = warm_cosine(self.step / o.steps, self.step, 50, LAST_RATE)
        self.optimizer.param_groups[0]["lr"] = o.rate * factor
        descend(self.optimizer, loss, max_norm=5.0)
        self.step += 1
        self.seconds += time.monotonic() - started
        row = dict.fromkeys(COLUMNS, float("nan"))
        row |= {"step": self.step, "seconds": self.seconds, "loss": loss.item()}
        return row | {"w": terms_w.item(), "styles": terms_s.item(), "essences": terms_b.item()}

    @torch.no_grad()
    def held_r2(self) -> float:
        """Share of the variance of held-out w, in the generator's own units, that is explained."""
        residual = self.mapper.residual(self.e[self.held])
        missed = (self.mapper.coordinates(residual) - self.x[self.held]) @ self.mapper.axes
        whole = self.w[self.held] - self.mean
        return 1 - (missed.square().sum() / whole.square().sum()).item()

    @torch.no_grad()
    def held_cosine(self, count: int = 64, styles: bool = False) -> float:
        """Mean cosine of the embeddings of mapped faces to those of held-out faces, which were
        asked for.
        """
        wanted = self.e[self.held][:count]
        x = self.mapper.coordinates(self.mapper.residual(wanted))
        if styles:
            pairs = zip(self.mean_styles, self.mapper.style_shifts(x), strict=True)
            images = self.generator.synthesis_from_styles([mean + ds for mean, ds in pairs])
        else:
            images = self.generator.synthesis(self.mean + x @ self.mapper.axes)
        return F.cosine_similarity(self.clip.embed_images(images), wanted).mean().item()


def train(options: MapperOptions) -> Trainer:
    """Run or resume the recipe, and write `mapper.safetensors`. Raises UserError for another run's
    checkpoint.
    """
    if options.threads:
        torch.set_num_threads(options.threads)
    trainer = Trainer(options)
    log = CsvLog(Path(options.out) / "log.csv", COLUMNS, trainer.step)
    with tqdm(total=options.steps, initial=trainer.step, desc="mapper", mininterval=5) as bar:
        while trainer.step < options.steps:
            row = trainer.train_step()
            bar.update()
            if trainer.step % options.every == 0 or trainer.step == options.steps:
                row["held_r2"] = trainer.held_r2()
                log.write(row)
                bar.set_postfix(loss=f"{row['loss']:.3f}", r2=f"{row['held_r2']:.3f}")
                trainer.save()
    save_mapper(trainer.mapper, Path(options.out) / "mapper.safetensors")
    return trainer


def main(argv: Sequence[str] | None = None) -> None:
    trainer = train(parse_options(MapperOptions, argv, __doc__))
    print(f"held-out w explained: {trainer.held_r2():.3f}")
    print(f"cosine to what was asked: {trainer.held_cosine():.3f}")


if __name__ == "__main__":
    main()
