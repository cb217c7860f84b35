"""One step of the generator's recipe: encode, render, judge, learn."""

from __future__ import annotations

import time
from dataclasses import fields
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..methods.losses import care
from ..models.identity import face_descriptor
from ..models.stylegan2 import Generator
from .common import average_into, to_float, warm_cosine
from .critics import Alteration, believe, doubt, r1
from .generator_data import STEP_SEEDS, Batch, Pictures
from .parallel import mean_over_processes, rank, spread

if TYPE_CHECKING:
    from .generator import Trainer

COLUMNS = (
    "step",
    "seconds",
    "pictures",
    "pixels",
    "coarse",
    "features",
    "descriptor",
    "believe",
    "doubt",
    "r1",
    "p",
    "sign",
    "rate",
)
EVERY = 16  # steps between R1 penalties, and between changes of the augmentation
FIRST_LOOK = 2048  # pictures
AIM = 0.6  # of the sign of the critic's scores for real pictures (Karras et al. 2020)


class Lesson:
    """One step of both sides."""

    def __init__(self, trainer: Trainer, pictures: Pictures):
        self.trainer, self.pictures, self.options = trainer, pictures, trainer.options
        self.face = face_descriptor().to(trainer.device)
        self.care = care(trainer.options.size, trainer.options.care).to(trainer.device)
        names = ("generator", "encoder", "pixel", "feature")
        self.nets = {
            name: spread(Synthesis(net) if name == "generator" else net, trainer.device)
            for name, net in ((name, getattr(trainer, name)) for name in names)
        }

    @torch.no_grad()
    def begin(self) -> None:
        """The latents' moments from a first look at some pictures."""
        t = self.trainer
        if t.latents.weight == 0:
            for part in self.pictures.whole()[
                :: max(1, len(self.pictures.whole()) // FIRST_LOOK)
            ].split(64):
                with t.precision():
                    t.latents.add(t.encoder(to_float(part).to(t.device))[:, 0])

    def step(self) -> dict[str, float]:
        t, o, began = self.trainer, self.options, time.monotonic()
        rng = torch.Generator().manual_seed((o.seed * 1000 + rank()) * STEP_SEEDS + t.clock["step"])
        factor = warm_cosine(t.progress, t.clock["step"], o.warmup, o.last_rate)
        for optimizer, rate in zip(t.optimizers, (o.rate, o.critic_rate), strict=True):
            optimizer.param_groups[0]["lr"] = rate * factor
        batch = on_device(self.pictures.draw(o.batch, rng, o.lit_share), t.device)
        w, own = self.encode(batch, rng)
        with t.precision():
            fake = self.nets["generator"](torch.cat([w, self.sample(own, rng)])).float()
        made = batch.goal + batch.shown * (
            fake[: o.batch] - batch.goal
        )  # what a crop does not show is taken from the goal
        fake, real, features = self.views(made, fake[o.batch :], batch, rng)
        row = self.judge(fake.detach(), real, [[x.detach() for x in part] for part in features])
        row |= self.make(fake, features, self.compare(made, features, batch), w)
        t.clock["step"] += 1
        t.clock["seen"] += o.batch
        t.clock["seconds"] += time.monotonic() - began
        for average, net in zip(t.averages, (t.generator, t.encoder), strict=True):
            average_into(average, net, t.clock["step"], o.average)
        row |= t.clock | {"pictures": t.clock["seen"], "rate": o.rate * factor}
        return {
            name: row[name].item() if isinstance(row[name], Tensor) else row[name]
            for name in COLUMNS
        }

    # -- pictures

    def encode(self, batch: Batch, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """w+ [B, L, D] of the pictures, most of them without deltas; and all of them as they
        were.
        """
        o, t = self.options, self.trainer
        with t.precision():
            full = self.nets["encoder"](batch.seen)
        t.latents.add(full[:, 0].detach()[batch.plain])
        keep = (torch.rand(o.batch, 1, 1, generator=rng) < o.deltas).to(full)
        return full[:, :1] + keep * (full - full[:, :1]), full.detach()

    def sample(self, full: Tensor, rng: torch.Generator) -> Tensor:
        """w+ [sampled, L, D]: the Gaussian of the encoded pictures; some change over to another w
        at a random layer (style mixing), some bring the deltas of a real picture."""
        o, t = self.options, self.trainer
        count, layers = o.sampled, full.shape[1]
        if o.reconstruct == 0:
            first, second = (
                t.generator.mapping(torch.randn(count, o.style_dim, generator=rng).to(t.device))
                for _ in range(2)
            )
        else:
            first, second = (t.latents.sample(count, rng) for _ in range(2))
        crossing = torch.randint(1, layers, (count, 1, 1), generator=rng).to(t.device)
        mixed = (torch.rand(count, 1, 1, generator=rng) < o.mixing).to(t.device)
        mixed = mixed & (torch.arange(layers, device=t.device).view(1, -1, 1) >= crossing)
        w = torch.where(mixed, second[:, None], first[:, None])
        like = full[torch.randint(len(full), (count,), generator=rng).to(t.device)]
        keep = (torch.rand(count, 1, 1, generator=rng) < o.deltas * (o.reconstruct > 0)).to(w)
        return w + keep * (like - like[:, :1])

    def views(
        self, made: Tensor, alone: Tensor, batch: Batch, rng: torch.Generator
    ) -> tuple[Tensor, Tensor, list[list[Tensor]]]:
        """Renders and goals as critics and face network see them, altered alike, and the features
        of both.
        """
        o, t = self.options, self.trainer
        alter, other = (
            Alteration(o.batch, t.clock["p"], rng),
            Alteration(o.sampled, t.clock["p"], rng),
        )
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
            on_pixels = [
                s.split([len(fake), len(real)]) for s in self.nets["pixel"](torch.cat([fake, real]))
            ]
            on_features = [s.split([len(fake), len(real)]) for s in self.nets["feature"](maps)]
        scores = on_pixels + on_features
        wrong = doubt([s[0] for s in scores]) + believe([s[1] for s in scores])
        penalty = r1([s[1] for s in on_pixels], real) if penalised else wrong.new_zeros(())
        _descend(t.optimizers[1], wrong + o.r1 * EVERY / 2 * penalty)
        self.adapt(torch.cat([s[1].flatten() for s in on_pixels]).detach())
        return {"doubt": wrong.detach(), "r1": penalty.detach()}

    def adapt(self, scores: Tensor) -> None:
        """More augmentation while the critic is too sure of the real pictures, less while it is
        not.
        """
        clock = self.trainer.clock
        clock["sign"] += 0.05 * (
            mean_over_processes(scores.float().sign().mean()).item() - clock["sign"]
        )
        if clock["step"] % EVERY == 0:
            clock["p"] = min(0.8, max(0.0, clock["p"] + (0.004 if clock["sign"] > AIM else -0.004)))

    def make(
        self, fake: Tensor, features: list[list[Tensor]], terms: dict[str, Tensor], w: Tensor
    ) -> dict[str, Tensor]:
        """The step of generator and encoder."""
        o, t = self.options, self.trainer
        for net in (t.pixel, t.feature):
            net.requires_grad_(False)
        with t.precision():
            trust = believe(t.pixel(fake) + t.feature(features[0]))
        ramp = (
            min(1.0, max(0.0, t.clock["step"] / max(1, o.critics_after) - 1))
            if o.reconstruct
            else 1.0
        )
        loss = (
            o.reconstruct * sum(getattr(o, name) * value for name, value in terms.items())
            + ramp * o.critics * trust
        )
        if o.reconstruct:
            loss = loss + o.delta_weight * (w[:, 1:] - w[:, :1]).square().mean()
        _descend(t.optimizers[0], loss, 5.0)
        return {name: value.detach() for name, value in terms.items()} | {"believe": trust.detach()}

    def compare(
        self, made: Tensor, features: list[list[Tensor]], batch: Batch
    ) -> dict[str, Tensor]:
        """Reconstruction: pixels where they are shown, features relative to their mean, squared
        descriptor distance.
        """
        goal = batch.goal
        area = batch.shown.mean(dim=(1, 2, 3), keepdim=True).clamp(min=0.3)
        error = (made - goal) / area
        coarse = F.avg_pool2d(error, 4).abs().mean()
        ours, theirs = [x[: len(goal)] for x in features[0]], features[1]
        relative = [
            (a.float() - b.float()).abs().mean() / b.float().abs().mean()
            for a, b in zip(ours, theirs, strict=True)
        ]
        with self.trainer.precision():
            distance = (
                (self.face.describe(ours) - self.face.describe(theirs)).square().sum(1).mean()
            )
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


def on_device(batch: Batch, device: str) -> Batch:
    return Batch(
        *(getattr(batch, field.name).to(device, non_blocking=True) for field in fields(batch))
    )
