"""One step of the generator's training: encode, render, then both sides learn. What is drawn is
drawn before, on the device; nothing after it waits or depends on it, so that a GPU records the
step.
"""

from __future__ import annotations

import time
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..methods.losses import care
from ..models.identity import face_descriptor
from ..models.stylegan2 import Generator
from .augment import AdaptiveAugmentation
from .common import descend, face_losses, step_generator, to_float, update_average, warm_cosine
from .discriminators import LAZY, discriminator_loss, generator_loss, r1_penalty
from .generator_data import Batch, GeneratorDataset
from .generator_state import TrainingState
from .parallel import data_parallel, mean_over_processes
from .recording import RecordedTraining, set_rates

# Of the log; "believe" and "doubt" are the generator's and the discriminators' losses.
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
MOMENT_PICTURES = 2048  # pictures for a first estimate of the latents' moments
ROOT_EVERY = 25  # steps between two computations of the root of the latents' covariance


class Sampled(NamedTuple):
    """Of N latents that no picture gave. Some change over to another w at a random layer (style
    mixing), some take the deltas of a real picture.
    """

    first: Tensor  # [N, D], w; or z where the mapping network is trained
    second: Tensor  # [N, D], what some change over to
    mixed: Tensor  # bool [N, L, 1], where they do
    real: Tensor  # int [N], the picture of the batch whose deltas
    keep: Tensor  # [N, 1, 1], 1 where they are taken


class Drawn(NamedTuple):
    """Whatever is random in a step, and the weight of its adversarial loss."""

    batch: Batch
    keep: Tensor  # [B, 1, 1], 1 where the layers keep their own w
    sampled: Sampled
    # Of the batch's pictures, then of those sampled.
    augmentation: AdaptiveAugmentation
    critics: Tensor  # []

    def tensors(self) -> list[Tensor]:
        return [*self.batch, self.keep, *self.sampled, *self.augmentation, self.critics]

    @classmethod
    def of(cls, tensors: list[Tensor]) -> Drawn:
        """What `tensors` gave."""
        rest = iter(tensors)

        def take(kind: type) -> tuple:
            return kind(*(next(rest) for _ in kind._fields))

        return cls(take(Batch), next(rest), take(Sampled), take(AdaptiveAugmentation), next(rest))


class TrainingStep:
    def __init__(self, state: TrainingState, dataset: GeneratorDataset):
        self.state, self.dataset, self.options = state, dataset, state.options
        device = state.device
        self.face = face_descriptor().to(device)
        self.care = care(self.options.size, self.options.care).to(device)
        self.synthesis = data_parallel(Synthesis(state.generator), device)
        self.encoder = data_parallel(state.encoder, device)
        self.pixel = data_parallel(state.pixel, device)
        self.feature = data_parallel(state.feature, device)
        self.recorded = RecordedTraining(self.learn, state.moved, device)
        if state.clock["step"] == 0:
            self._estimate_moments()

    @torch.no_grad()
    def _estimate_moments(self) -> None:
        """A first estimate of the latents' moments, from some pictures."""
        state = self.state
        for part in self.dataset.whole(MOMENT_PICTURES).split(64):
            with state.precision():
                state.latents.add(state.encoder(to_float(part))[:, 0])

    def run(self) -> dict[str, float | Tensor]:
        """One step of both sides; returns its row of the log."""
        state, options, began = self.state, self.options, time.monotonic()
        step = state.clock["step"]
        factor = warm_cosine(state.progress, step, options.warmup, options.last_rate)
        for optimizer, rate in zip(
            state.optimizers, (options.rate, options.critic_rate), strict=True
        ):
            set_rates(optimizer, [rate * factor])
        if step % ROOT_EVERY == 0 and options.reconstruct:
            state.latents.update_root()
        row = self.recorded(step % LAZY == 0, *self.draw(step).tensors())
        state.clock["step"] += 1
        state.clock["seen"] += options.batch
        for average, network in zip(state.averages, (state.generator, state.encoder), strict=True):
            update_average(average, network, state.clock["step"], options.average)
        state.clock["seconds"] += time.monotonic() - began
        return row | state.clock | {"pictures": state.clock["seen"], "rate": options.rate * factor}

    # -- what is random

    def draw(self, step: int) -> Drawn:
        """What this step learns from; a resumed run draws what it would have drawn."""
        options, device = self.options, self.state.device
        rng = step_generator(options.seed, step, device)
        batch = self.dataset.draw(options.batch, rng, options.lit_share)
        keep = torch.rand(options.batch, 1, 1, generator=rng, device=device) < options.deltas
        count = options.batch + options.sampled
        augmentation = AdaptiveAugmentation.draw(count, self.state.chance.p, rng)
        critics = torch.full((), self.critics_weight(step), device=device)
        return Drawn(batch, keep.float(), self.draw_sampled(rng), augmentation, critics)

    def draw_sampled(self, rng: torch.Generator) -> Sampled:
        options, latents, device = self.options, self.state.latents, self.state.device
        count, layers = options.sampled, self.state.generator.config.layers
        if options.reconstruct:
            first, second = (latents.sample(count, rng) for _ in range(2))
        else:
            first, second = torch.randn(2, count, options.style_dim, generator=rng, device=device)
        crossing = torch.randint(1, layers, (count, 1, 1), generator=rng, device=device)
        mixing, keeping = torch.rand(2, count, 1, 1, generator=rng, device=device)
        behind = torch.arange(layers, device=device).view(1, -1, 1) >= crossing
        real = torch.randint(options.batch, (count,), generator=rng, device=device)
        share = options.deltas if options.reconstruct else 0.0
        mixed = (mixing < options.mixing) & behind
        return Sampled(first, second, mixed, real, (keeping < share).float())

    def critics_weight(self, step: int) -> float:
        """Of the adversarial loss, which comes in after the reconstruction."""
        options = self.options
        ramp = step / max(1, options.critics_after) - 1 if options.reconstruct else 1.0
        return options.critics * min(1.0, max(0.0, ramp))

    # -- what is learned

    def learn(self, penalised: bool, *tensors: Tensor) -> dict[str, Tensor]:
        """A step of all optimisers; in a `penalised` one the discriminators' gradients at real
        pictures count, too.
        """
        state, drawn = self.state, Drawn.of(list(tensors))
        batch, count = drawn.batch, self.options.batch
        w, encoded = self.encode(batch, drawn.keep)
        with state.precision():
            sampled = self.sampled_latents(drawn.sampled, encoded)
            images = self.synthesis(torch.cat([w, sampled])).float()
        # What a tight crop does not show is taken from the goal.
        reconstructed = batch.goal + batch.mask * (images[:count] - batch.goal)

        # Discriminators and face network see renders and goals augmented, a goal like its render.
        fake = drawn.augmentation(torch.cat([reconstructed, images[count:]]))
        real = drawn.augmentation.of_first(count)(batch.goal)
        with state.precision():
            real_maps = self.face.features(real)
            fake_maps = self.face.features(fake)

        row = self.train_discriminators(fake.detach(), real, fake_maps, real_maps, penalised)
        terms = self.reconstruction(reconstructed, batch, fake_maps, real_maps)
        row |= self.train_generator(fake, fake_maps, terms, w, drawn.critics)
        return row | {"p": state.chance.p.clone(), "sign": state.chance.sign.clone()}

    def encode(self, batch: Batch, keep: Tensor) -> tuple[Tensor, Tensor]:
        """w+ [B, L, D] of the pictures, most of them without deltas; and w+ as the encoder gave
        it, detached.
        """
        with self.state.precision():
            full = self.encoder(batch.input)
        self.state.latents.add(full[:, 0].detach(), batch.unaltered)
        return full[:, :1] + keep * (full - full[:, :1]), full.detach()

    def sampled_latents(self, sampled: Sampled, encoded: Tensor) -> Tensor:
        """w+ [N, L, D]."""
        first, second = sampled.first, sampled.second
        if not self.options.reconstruct:
            first, second = self.state.generator.mapping(torch.cat([first, second])).chunk(2)
        w = torch.where(sampled.mixed, second[:, None], first[:, None])
        real = encoded.index_select(0, sampled.real)
        return w + sampled.keep * (real - real[:, :1])

    # -- the two sides

    def train_discriminators(
        self,
        fake: Tensor,
        real: Tensor,
        fake_maps: list[Tensor],
        real_maps: list[Tensor],
        penalised: bool,
    ) -> dict[str, Tensor]:
        """One step of both discriminators on renders and real pictures [., 3, S, S] and on the face
        network's maps of both.
        """
        state = self.state
        for network in (state.pixel, state.feature):
            network.requires_grad_(True)
        real = real.requires_grad_(penalised)
        with state.precision():
            pairs = zip(fake_maps, real_maps, strict=True)
            maps = [torch.cat([fake_map.detach(), real_map]) for fake_map, real_map in pairs]
            on_pixels, on_maps = self.pixel(torch.cat([fake, real])), self.feature(maps)
        scores = [*on_pixels, *on_maps]
        real_scores = [s[len(fake) :] for s in scores]
        loss = discriminator_loss(real_scores, [s[: len(fake)] for s in scores])
        real_on_pixels = real_scores[: len(on_pixels)]
        penalty = r1_penalty(real_on_pixels, real) if penalised else loss.new_zeros(())
        descend(state.optimizers[1], loss + self.options.r1 * LAZY / 2 * penalty)

        signs = torch.cat([s.flatten() for s in real_on_pixels]).detach().float().sign()
        state.chance.observe(mean_over_processes(signs.mean()))
        if penalised:
            state.chance.adapt()
        return {"doubt": loss.detach(), "r1": penalty.detach()}

    def reconstruction(
        self, images: Tensor, batch: Batch, fake_maps: list[Tensor], real_maps: list[Tensor]
    ) -> dict[str, Tensor]:
        """Terms of the reconstruction [B, 3, S, S]: pixels where they are shown, and at a quarter
        of the side; features and descriptor of the face network.
        """
        area = batch.mask.mean(dim=(1, 2, 3), keepdim=True).clamp(min=0.3)
        error = (images - batch.goal) / area
        maps = [x[: len(images)] for x in fake_maps]
        with self.state.precision():
            terms = face_losses(self.face, maps, real_maps)
        return terms | {
            "pixels": (error.abs() * self.care).mean(),
            "coarse": F.avg_pool2d(error, 4).abs().mean(),
        }

    def train_generator(
        self,
        fake: Tensor,
        fake_maps: list[Tensor],
        terms: dict[str, Tensor],
        w: Tensor,
        critics: Tensor,
    ) -> dict[str, Tensor]:
        """One step of generator and encoder on the reconstruction's terms and, weighed by
        `critics`, against the discriminators.
        """
        options, state = self.options, self.state
        for network in (state.pixel, state.feature):
            network.requires_grad_(False)
        with state.precision():
            adversarial = generator_loss(state.pixel(fake) + state.feature(fake_maps))
        loss = critics * adversarial
        if options.reconstruct:
            reconstruction = sum(getattr(options, name) * term for name, term in terms.items())
            deltas = (w[:, 1:] - w[:, :1]).square().mean()
            loss = loss + options.reconstruct * reconstruction + options.delta_weight * deltas
        descend(state.optimizers[0], loss, max_norm=5.0)
        terms = terms | {"believe": adversarial}
        return {name: term.detach() for name, term in terms.items()}


class Synthesis(nn.Module):
    """The generator's `synthesis` as a module's forward, which gradient averaging hooks into."""

    def __init__(self, generator: Generator):
        super().__init__()
        self.generator = generator

    def forward(self, w: Tensor) -> Tensor:
        return self.generator.synthesis(w)
