"""Networks, averages, optimisers and clock of a generator's training: what a checkpoint holds."""

from __future__ import annotations

import copy
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor, nn

from ..library.checkpoints import load_generator
from ..models.stylegan2 import Generator, GeneratorConfig
from .autoencoder import PictureEncoder, PictureEncoderConfig, load_encoder
from .common import load_checkpoint, precision, save_atomic
from .discriminators import FeatureDiscriminator, PixelDiscriminator
from .gaussian import RunningMoments
from .generator_data import GeneratorOptions
from .parallel import from_first_process, rank
from .recording import adam, state_of

# Names in a checkpoint, and of the attributes.
MODULES = ("generator", "encoder", "pixel", "feature", "averages", "latents", "chance")


# Where the mean sign of the scores of real pictures is held (Karras et al. 2020, section 3.2), by
# changing p by this much each time.
TARGET_SIGN, P_STEP, MOST_P = 0.6, 0.004, 0.8
FIRST_P = 0.2
SIGN_RATE = 0.05  # of the running mean


class AdaptiveChance(nn.Module):
    """p, the probability of each augmentation: more while the discriminator is too sure of the real
    pictures, less while it is not. On the device, where nobody waits for it.
    """

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("p", torch.tensor(FIRST_P))
        self.register_buffer("sign", torch.tensor(0.0))

    @torch.no_grad()
    def observe(self, sign: Tensor) -> None:
        """The mean sign of the scores of real pictures in a step."""
        self.sign.lerp_(sign, SIGN_RATE)

    @torch.no_grad()
    def adapt(self) -> None:
        too_sure = (self.sign > TARGET_SIGN).float()
        self.p.add_((2 * too_sure - 1) * P_STEP).clamp_(0.0, MOST_P)


class TrainingState:
    def __init__(self, options: GeneratorOptions, device: str):
        """New networks or `options.start`, or what the checkpoint in `options.out` holds. Raises
        UserError for a checkpoint of another architecture.
        """
        torch.manual_seed(options.seed)
        self.options, self.device, self.out = options, device, Path(options.out)
        generator, encoder = initial_networks(options)
        self.generator = generator.to(device).train().requires_grad_(True)
        self.encoder = encoder.to(device).train().requires_grad_(True)
        # With an encoder the mapping network is not trained: in the end it becomes the Gaussian of
        # the encoder's latents.
        self.generator.style.requires_grad_(options.reconstruct == 0)
        self.pixel = PixelDiscriminator(options.size).to(device)
        self.feature = FeatureDiscriminator().to(device)
        averaged = (self.generator, self.encoder)
        self.averages = nn.ModuleList(
            copy.deepcopy(network).eval().requires_grad_(False) for network in averaged
        )
        trained = [p for network in averaged for p in network.parameters() if p.requires_grad]
        discriminators = [*self.pixel.parameters(), *self.feature.parameters()]
        self.optimizers = [
            adam([{"params": trained, "lr": options.rate}], (0.9, 0.99), device),
            adam([{"params": discriminators, "lr": options.critic_rate}], (0.0, 0.99), device),
        ]
        self.latents = RunningMoments(options.style_dim).to(device)
        self.chance = AdaptiveChance().to(device)
        self.clock = {"step": 0, "seen": 0, "seconds": 0.0}
        self.out.mkdir(parents=True, exist_ok=True)
        self.path = self.out / "checkpoint.pt"
        self.architecture = {
            "generator": plain_values(self.generator.config),
            "encoder": plain_values(self.encoder.config),
        }
        if (state := load_checkpoint(self.path, self.architecture)) is not None:
            for name in MODULES:
                getattr(self, name).load_state_dict(state[name])
            for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
                optimizer.load_state_dict(saved)
            self.clock = state["clock"]

    def moved(self) -> list[Tensor]:
        """Whatever a step changes in place."""
        modules = [getattr(self, name) for name in MODULES if name != "averages"]
        held = [value for module in modules for value in module.state_dict().values()]
        return held + [value for optimizer in self.optimizers for value in state_of(optimizer)]

    def save(self) -> None:
        """Write the checkpoint; only the first process does. Raises UserError."""
        if rank() > 0:
            return
        state = {name: getattr(self, name).state_dict() for name in MODULES}
        state["optimizers"] = [optimizer.state_dict() for optimizer in self.optimizers]
        save_atomic(state | {"clock": self.clock, "architecture": self.architecture}, self.path)

    @property
    def progress(self) -> float:
        """0 to 1, by steps or by time, whichever is further; the same in all processes."""
        by_time = self.clock["seconds"] / (60 * self.options.minutes)
        share = max(self.clock["step"] / self.options.steps, by_time)
        return min(1.0, from_first_process(share))

    def precision(self) -> torch.autocast:
        return precision(self.device, self.options.half)


def initial_networks(options: GeneratorOptions) -> tuple[Generator, PictureEncoder]:
    """The ones to start from, or new ones."""
    sides = [4 << i for i in range(len(options.channels))]
    channels = dict(zip(sides, options.channels, strict=True))
    if options.start:
        generator = load_generator(options.start)
    else:
        config = GeneratorConfig(options.size, options.style_dim, options.n_mlp, channels)
        generator = Generator(config)
    if options.start_encoder:
        return generator, load_encoder(options.start_encoder)
    return generator, PictureEncoder(PictureEncoderConfig.for_generator(generator.config))


def plain_values(config: object) -> dict:
    """A config dataclass as a checkpoint can hold it: no tuples, and of dicts the values."""
    values = asdict(config)
    for name, value in values.items():
        if isinstance(value, dict):
            values[name] = list(value.values())
        elif isinstance(value, tuple):
            values[name] = list(value)
    return values
