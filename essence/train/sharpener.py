"""A small network that makes soft pictures sharp and twice as large, learned from real ones: the
teacher of a generator's finer level.
"""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from ..models.style_layers import enlarge
from .common import descend, step_generator, update_average, warm_cosine
from .finer_data import FinerOptions, Pictures

LAST_RATE = 0.03  # of the learning rate


class Sharpener(nn.Module):
    """Pictures [B, 3, H, W] in [-1, 1], soft, to sharper ones of twice the side."""

    def __init__(self, width: int, blocks: int = 3):
        super().__init__()
        self.head = nn.Conv2d(3, width, 3, padding=1)
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(width, width, 3, padding=1),
                nn.LeakyReLU(0.2),
                nn.Conv2d(width, width, 3, padding=1),
            )
            for _ in range(blocks)
        )
        self.tail = nn.Conv2d(width, 12, 3, padding=1)
        with torch.no_grad():  # it begins as a plain enlargement
            self.tail.weight.mul_(0.1)
            self.tail.bias.zero_()

    def forward(self, picture: Tensor) -> Tensor:
        x = F.leaky_relu(self.head(picture), 0.2)
        for block in self.blocks:
            x = x + block(x)
        return enlarge(picture) + F.pixel_shuffle(self.tail(x), 2)


def soften(images: Tensor, options: FinerOptions, rng: torch.Generator) -> Tensor:
    """Half as large, blurred and noisy, as far as a generator draws softly."""
    halved = F.avg_pool2d(images, 2)
    blur, noise = torch.rand(2, generator=rng, device=rng.device).tolist()
    deviation = options.least_blur + blur * (options.most_blur - options.least_blur)
    grain = torch.randn(halved.shape, generator=rng, device=rng.device)
    return gaussian_blur(halved, deviation) + options.noise * noise**2 * grain


def gaussian_blur(images: Tensor, deviation: float, reach: int = 3) -> Tensor:
    taps = torch.arange(-reach, reach + 1, device=images.device).float()
    taps = torch.exp(-taps.square() / (2 * deviation**2))
    taps, channels = taps / taps.sum(), images.shape[1]
    for row in (taps[None], taps[:, None]):
        pad = (reach * (row.shape[1] > 1),) * 2 + (reach * (row.shape[0] > 1),) * 2
        weight = row.expand(channels, 1, *row.shape)
        images = F.conv2d(F.pad(images, pad, mode="replicate"), weight, groups=channels)
    return images


def train_sharpener(options: FinerOptions, data: Pictures) -> dict[str, Tensor]:
    """The averaged weights."""
    network = Sharpener(options.sharpener_width).to(options.device)
    average = copy.deepcopy(network)
    optimizer = torch.optim.Adam(network.parameters(), options.sharpener_rate, betas=(0.9, 0.99))
    steps = tqdm(range(options.sharpener_steps), desc="sharpener", mininterval=5)
    for step in steps:
        rng = step_generator(options.seed, step, options.device)
        goal = data.patches(options.sharpener_batch, options.patch, rng)
        factor = warm_cosine(step / options.sharpener_steps, step, options.warmup, LAST_RATE)
        optimizer.param_groups[0]["lr"] = options.sharpener_rate * factor
        error = (network(soften(goal, options, rng)) - goal).abs().mean()
        descend(optimizer, 10 * error, max_norm=5.0)
        update_average(average, network, step, 0.99)
        if step % 50 == 0:
            steps.set_postfix(error=f"{error.item():.4f}", refresh=False)
    return {name: value.cpu() for name, value in average.state_dict().items()}
