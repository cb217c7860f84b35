"""The finer level's options and its training pictures."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from .autoencoder import load_encoder
from .common import (
    cached_on_disk,
    list_training_pictures,
    load_pictures,
    photograph_weights,
    to_float,
)


@dataclass(frozen=True)
class FinerOptions:
    data: str  # folder of aligned pictures
    out: str = "runs/finer"
    export: str = ""  # also write the finished level there
    generator: str = "weights/mini/generator.safetensors"
    latents: str = "weights/mini/latents.safetensors"
    teacher: str = ""  # the generator's encoder; without it, no latents of real pictures
    pictures: int = 5000  # of the folder's, evenly spaced; at 256 pixels a thousand take 200 MB
    photographs: float = 2.0  # how much more often photographs are drawn
    channels: int = 32
    # Of the sharpener.
    sharpener_steps: int = 1200
    sharpener_rate: float = 1.5e-3
    sharpener_batch: int = 12
    sharpener_width: int = 40
    # Deviation of the blur that it learns to undo, in the generator's pixels. The bundled
    # generator's pictures have the spectrum of photographs blurred by about 0.7.
    least_blur: float = 0.35
    most_blur: float = 1.0
    noise: float = 0.03  # largest deviation
    # Of the level.
    steps: int = 100_000
    minutes: float = 60.0  # the schedule ends at whichever comes first
    batch: int = 8  # pictures, each with `patches` patches
    patches: int = 2
    patch: int = 112  # side in pixels of the level's pictures
    rate: float = 2e-3
    critic_rate: float = 1e-3
    warmup: int = 100
    critics_after: int = 200  # steps; then their weight grows over as many again
    average: float = 0.995
    sharp: float = 10.0  # mean absolute difference to what the sharpener makes
    critics: float = 0.25
    r1: float = 0.5
    # Of what it has learned to add to a plain enlargement, in the file: all of it makes the
    # generator's speckle at the edges of hair plainer, too.
    kept: float = 0.65
    wander: float = 0.5  # how far edits may lead a quarter of the latents, in deviations
    seed: int = 0
    threads: int = 2
    device: str = "cuda" if torch.cuda.is_available() else "cpu"
    checkpoint_seconds: float = 180.0


@dataclass(frozen=True, eq=False)
class Pictures:
    """uint8 [N, 3, S, S], how often each is drawn [N], and where they lie for the generator:
    w+ [N, L, D], or None.
    """

    pixels: Tensor
    weights: Tensor
    w: Tensor | None
    device: str

    def patches(self, count: int, side: int, rng: torch.Generator) -> Tensor:
        """[count, 3, side, side] in [-1, 1], at even places, every other one mirrored."""
        index = torch.multinomial(self.weights, count, True, generator=rng)
        last = (self.pixels.shape[-1] - side) // 2
        places = 2 * torch.randint(0, last + 1, (count, 2), generator=rng, device=rng.device)
        cut = [
            self.pixels[i, :, y : y + side, x : x + side]
            for i, (y, x) in zip(index.tolist(), places.tolist(), strict=True)
        ]
        found = to_float(torch.stack(cut)).to(self.device)
        mirrored = torch.rand(count, 1, 1, 1, generator=rng, device=rng.device) < 0.5
        return torch.where(mirrored, found.flip(3), found)


def load_data(options: FinerOptions, size: int, out: Path) -> Pictures:
    """Raises UserError."""
    paths = list_training_pictures(options.data)
    paths = paths[:: max(1, len(paths) // options.pictures)][: options.pictures]
    pixels, w = load_pictures(paths, size), None
    if options.teacher:
        encoder = load_encoder(options.teacher).to(options.device)

        @torch.no_grad()
        def encode() -> Tensor:
            parts = tqdm(pixels.split(64), desc="latents", mininterval=5)
            halved = (F.avg_pool2d(to_float(part).to(options.device), 2) for part in parts)
            return torch.cat([encoder(part).cpu() for part in halved])

        w = cached_on_disk(out / "latents.pt", encode, len(pixels))
    weights = photograph_weights(paths, options.photographs).to(options.device)
    return Pictures(pixels, weights, w, options.device)
