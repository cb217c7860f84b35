"""One step of the generator's training: encode, render, then both sides learn."""

from __future__ import annotations

import time

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
# Where the mean sign of the scores of real pictures is held (Karras et al. 2020, section 3.2), by
# changing p by this much each time.
TARGET_SIGN, P_STEP, MOST_P = 0.6, 0.004, 0.8


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
        if state.latents.weight == 0:
            self._estimate_moments()

    @torch.no_grad()
    def _estimate_moments(self) -> None:
        """A first estimate of the latents' moments, from some pictures."""
        state = self.state
        for part in self.dataset.whole(MOMENT_PICTURES).split(64):
            with state.precision():
                state.latents.add(state.encoder(to_float(part).to(state.device))[:, 0])

    def run(self) -> dict[str, float]:
        """One step of both sides; returns its row of the log."""
        state, options, began = self.state, self.options, time.monotonic()
        rng = step_generator(options.seed, state.clock["step"])
        factor = warm_cosine(state.progress, state.clock["step"], options.warmup, options.last_rate)
        for optimizer, rate in zip(
            state.optimizers, (options.rate, options.critic_rate), strict=True
        ):
            optimizer.param_groups[0]["lr"] = rate * factor

        batch = self.dataset.draw(options.batch, rng, options.lit_share).to(state.device)
        w, encoded = self.encode(batch, rng)
        with state.precision():
            images = self.synthesis(torch.cat([w, self.sample(encoded, rng)])).float()
        reconstructed, sampled = images[: options.batch], images[options.batch :]
        # What a tight crop does not show is taken from the goal.
        reconstructed = batch.goal + batch.mask * (reconstructed - batch.goal)

        # Discriminators and face network see renders and goals augmented, a goal like its render.
        augment = AdaptiveAugmentation(options.batch, state.clock["p"], rng)
        augment_sampled = AdaptiveAugmentation(options.sampled, state.clock["p"], rng)
        fake = torch.cat([augment(reconstructed), augment_sampled(sampled)])
        real = augment(batch.goal)
        with state.precision():
            real_maps = self.face.features(real)
            fake_maps = self.face.features(fake)

        row = self.train_discriminators(fake.detach(), real, fake_maps, real_maps)
        terms = self.reconstruction(reconstructed, batch, fake_maps, real_maps)
        row |= self.train_generator(fake, fake_maps, terms, w)

        state.clock["step"] += 1
        state.clock["seen"] += options.batch
        state.clock["seconds"] += time.monotonic() - began
        for average, network in zip(state.averages, (state.generator, state.encoder), strict=True):
            update_average(average, network, state.clock["step"], options.average)
        row |= state.clock | {"pictures": state.clock["seen"], "rate": options.rate * factor}
        return {
            name: row[name].item() if isinstance(row[name], Tensor) else row[name]
            for name in COLUMNS
        }

    # -- latents

    def encode(self, batch: Batch, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """w+ [B, L, D] of the pictures, most of them without deltas; and w+ as the encoder gave
        it, detached.
        """
        with self.state.precision():
            full = self.encoder(batch.input)
        self.state.latents.add(full[:, 0].detach()[batch.unaltered])
        keep = (torch.rand(len(full), 1, 1, generator=rng) < self.options.deltas).to(full)
        return full[:, :1] + keep * (full - full[:, :1]), full.detach()

    def sample(self, encoded: Tensor, rng: torch.Generator) -> Tensor:
        """w+ [sampled, L, D] from the Gaussian of the encoded pictures; some change over to another
        w at a random layer (style mixing), some take the deltas of a real picture.
        """
        options, state = self.options, self.state
        count, layers, device = options.sampled, encoded.shape[1], state.device
        if options.reconstruct == 0:
            first, second = (
                state.generator.mapping(
                    torch.randn(count, options.style_dim, generator=rng).to(device)
                )
                for _ in range(2)
            )
        else:
            first, second = (state.latents.sample(count, rng) for _ in range(2))
        crossing = torch.randint(1, layers, (count, 1, 1), generator=rng).to(device)
        mixed = (torch.rand(count, 1, 1, generator=rng) < options.mixing).to(device)
        mixed = mixed & (torch.arange(layers, device=device).view(1, -1, 1) >= crossing)
        w = torch.where(mixed, second[:, None], first[:, None])
        real = encoded[torch.randint(len(encoded), (count,), generator=rng).to(device)]
        share = options.deltas if options.reconstruct > 0 else 0.0
        keep = (torch.rand(count, 1, 1, generator=rng) < share).to(w)
        return w + keep * (real - real[:, :1])

    # -- the two sides

    def train_discriminators(
        self, fake: Tensor, real: Tensor, fake_maps: list[Tensor], real_maps: list[Tensor]
    ) -> dict[str, Tensor]:
        """One step of both discriminators on renders and real pictures [., 3, S, S] and on the face
        network's maps of both.
        """
        state = self.state
        for network in (state.pixel, state.feature):
            network.requires_grad_(True)
        penalised = state.clock["step"] % LAZY == 0
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

        # More augmentation while the discriminator is too sure of the real pictures, less while it
        # is not.
        clock = state.clock
        signs = torch.cat([s.flatten() for s in real_on_pixels]).detach().float().sign()
        clock["sign"] += 0.05 * (mean_over_processes(signs.mean()).item() - clock["sign"])
        if clock["step"] % LAZY == 0:
            change = P_STEP if clock["sign"] > TARGET_SIGN else -P_STEP
            clock["p"] = min(MOST_P, max(0.0, clock["p"] + change))
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
        self, fake: Tensor, fake_maps: list[Tensor], terms: dict[str, Tensor], w: Tensor
    ) -> dict[str, Tensor]:
        """One step of generator and encoder on the reconstruction's terms and against the
        discriminators.
        """
        options, state = self.options, self.state
        for network in (state.pixel, state.feature):
            network.requires_grad_(False)
        with state.precision():
            adversarial = generator_loss(state.pixel(fake) + state.feature(fake_maps))
        weight, loss = options.critics, fake.new_zeros(())
        if options.reconstruct:
            reconstruction = sum(getattr(options, name) * term for name, term in terms.items())
            deltas = (w[:, 1:] - w[:, :1]).square().mean()
            loss = options.reconstruct * reconstruction + options.delta_weight * deltas
            ramp = state.clock["step"] / max(1, options.critics_after) - 1
            weight = weight * min(1.0, max(0.0, ramp))
        descend(state.optimizers[0], loss + weight * adversarial, max_norm=5.0)
        terms = terms | {"believe": adversarial}
        return {name: term.detach() for name, term in terms.items()}


class Synthesis(nn.Module):
    """The generator's `synthesis` as a module's forward, which gradient averaging hooks into."""

    def __init__(self, generator: Generator):
        super().__init__()
        self.generator = generator

    def forward(self, w: Tensor) -> Tensor:
        return self.generator.synthesis(w)
