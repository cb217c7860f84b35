"""Random changes of pictures [B, 3, H, W] in [-1, 1]; all random numbers come from a given
generator, which lives on the pictures' device.

`light` is part of the scene and should be reproduced; `degrade` is the camera's and the crop's
fault, and what learns should see through it. `AdaptiveAugmentation` is for discriminators.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

LUMA = (0.299, 0.587, 0.114)
YCC = ((0.299, 0.587, 0.114), (-0.1687, -0.3313, 0.5), (0.5, -0.4187, -0.0813))
# fmt: off
LIGHT_STEPS = (
    16, 11, 10, 16, 24, 40, 51, 61, 12, 12, 14, 19, 26, 58, 60, 55,
    14, 13, 16, 24, 40, 57, 69, 56, 14, 17, 22, 29, 51, 87, 80, 62,
    18, 22, 37, 56, 68, 109, 103, 77, 24, 35, 55, 64, 81, 104, 113, 92,
    49, 64, 78, 87, 103, 121, 120, 101, 72, 92, 95, 98, 112, 100, 103, 99,
)
COLOUR_STEPS = (
    17, 18, 24, 47, 99, 99, 99, 99, 18, 21, 26, 66, 99, 99, 99, 99,
    24, 26, 56, 99, 99, 99, 99, 99, 47, 66, 99, 99, 99, 99, 99, 99,
    *(99,) * 32,
)
# fmt: on
GREY_SHARE = 0.08  # of the lit pictures: black and white photographs


def _uniform(rng: torch.Generator, count: int, low: float, high: float) -> Tensor:
    return torch.empty(count, 1, 1, 1, device=rng.device).uniform_(low, high, generator=rng)


def _normal(rng: torch.Generator, count: int, scale: float, channels: int = 1) -> Tensor:
    return torch.randn(count, channels, 1, 1, generator=rng, device=rng.device) * scale


def light(images: Tensor, rng: torch.Generator, share: float = 0.6) -> tuple[Tensor, Tensor]:
    """Exposure, colour temperature, light from one side, contrast and saturation on a random
    `share` of the pictures.

    Returns the pictures and which of them were changed, bool [B].
    """
    count = len(images)
    chosen = torch.rand(count, generator=rng, device=rng.device) < share
    x = (images + 1) / 2
    warmth = _normal(rng, count, 0.10)
    tint = torch.cat([warmth, _normal(rng, count, 0.04), -warmth], dim=1)
    exposure = _normal(rng, count, 0.25)
    # Log brightness that falls off across the picture in a random direction: a lamp at one side.
    axis = torch.linspace(-1, 1, x.shape[-1], device=x.device)
    angle, strength = _uniform(rng, count, 0, 2 * math.pi), _uniform(rng, count, 0, 0.6)
    across, down = axis.view(1, 1, 1, -1), axis.view(1, 1, -1, 1)
    ramp = strength * (torch.cos(angle) * across + torch.sin(angle) * down)
    x = x * torch.exp(exposure + tint + ramp)
    middle = x.mean(dim=(1, 2, 3), keepdim=True)
    x = middle + (x - middle) * torch.exp(_normal(rng, count, 0.2))
    grey = (x * torch.tensor(LUMA, device=x.device).view(1, 3, 1, 1)).sum(1, keepdim=True)
    colour = _uniform(rng, count, 0.5, 1.4) * (_uniform(rng, count, 0, 1) > GREY_SHARE)
    x = (grey + (x - grey) * colour).clamp(0, 1) * 2 - 1
    return torch.where(chosen.view(-1, 1, 1, 1), x, images), chosen


def degrade(images: Tensor, rng: torch.Generator, share: float = 0.3) -> Tensor:
    """Small misalignment, then on a `share` of the pictures each blur, noise and JPEG: on a fixed
    number of them, so that nothing waits for the device's dice.
    """
    x = misalign(images, rng)
    for change in (_blur, _add_noise, jpeg):
        order = torch.randperm(len(x), generator=rng, device=rng.device)
        chosen = order[: round(share * len(x))]
        x = x.index_copy(0, chosen, change(x[chosen], rng))
    return x.clamp(-1, 1)


def _blur(images: Tensor, rng: torch.Generator) -> Tensor:
    """Towards what half or a third of the side can show, by a random share."""
    side = images.shape[-1]

    def coarse(part: int) -> Tensor:
        small = max(4, side // part)
        x = F.interpolate(images, size=(small, small), mode="bilinear", antialias=True)
        return F.interpolate(x, size=(side, side), mode="bilinear")

    target = torch.where(_uniform(rng, len(images), 0, 1) < 0.5, coarse(2), coarse(3))
    return images + (target - images) * _uniform(rng, len(images), 0.2, 1)


def _add_noise(images: Tensor, rng: torch.Generator) -> Tensor:
    noise = torch.randn(images.shape, generator=rng, device=rng.device)
    return images + noise * _uniform(rng, len(images), 0, 0.12)


def misalign(
    images: Tensor,
    rng: torch.Generator,
    turn: float = 0.04,
    zoom: float = 0.03,
    shift: float = 0.02,
) -> Tensor:
    """Rotate (radians), zoom (log) and shift (of the half side), each normal with the given
    deviation; the edge is reflected.
    """
    count = len(images)
    angle, scale, right, down = torch.randn(4, count, generator=rng, device=rng.device)
    angle, scale = angle * turn, torch.exp(scale * zoom)
    return _warp(images, _similarity(angle, scale, right * shift, down * shift))


def _similarity(angle: Tensor, scale: Tensor, right: Tensor, down: Tensor) -> Tensor:
    """Affine matrices [B, 2, 3]: a rotation, a scale and a shift, [B] each."""
    cos, sin = torch.cos(angle) * scale, torch.sin(angle) * scale
    rows = [torch.stack([cos, -sin, right], 1), torch.stack([sin, cos, down], 1)]
    return torch.stack(rows, 1)


def _warp(images: Tensor, theta: Tensor) -> Tensor:
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, padding_mode="reflection", align_corners=False)


def jpeg(images: Tensor, rng: torch.Generator) -> Tensor:
    """What JPEG loses at a random quality from 25 to 90: colour at half the side, and the cosine
    coefficients of 8 x 8 blocks rounded as coarsely as the standard's tables say (ITU-T T.81, annex
    K, scaled as libjpeg does).
    """
    height, width = images.shape[2:]
    x = F.pad(images, (0, -width % 16, 0, -height % 16), mode="replicate")
    quality = _uniform(rng, len(x), 25, 90)
    scale = torch.where(quality < 50, 50 / quality, 2 - quality / 50)
    to_ycc, to_rgb, light_steps, colour_steps = _jpeg_tables(x.device)
    ycc = torch.einsum("kc,bchw->bkhw", to_ycc, x * 127.5)  # about zero
    light = _rounded_blocks(ycc[:, :1], light_steps, scale)
    colour = _rounded_blocks(F.avg_pool2d(ycc[:, 1:], 2), colour_steps, scale)
    ycc = torch.cat([light, F.interpolate(colour, scale_factor=2, mode="bilinear")], 1)
    x = torch.einsum("ck,bkhw->bchw", to_rgb, ycc) / 127.5
    return x[..., :height, :width].clamp(-1, 1)


@lru_cache
def _jpeg_tables(device: torch.device) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """To luma and colour [3, 3], back, and the steps [8, 8] of both; made on the CPU, and once: a
    device would be waited for.
    """
    to_ycc = torch.tensor(YCC)
    steps = (torch.tensor(table).view(8, 8) for table in (LIGHT_STEPS, COLOUR_STEPS))
    tables = (to_ycc, torch.linalg.inv(to_ycc), *steps)
    return tuple(table.to(device) for table in tables)


def _rounded_blocks(planes: Tensor, steps: Tensor, scale: Tensor) -> Tensor:
    """planes [B, C, H, W] with the cosine coefficients of each 8 x 8 block rounded to `steps`
    [8, 8] times `scale` [B, 1, 1, 1].
    """
    place = torch.arange(8, device=planes.device)
    basis = torch.cos((2 * place + 1) * place[:, None] * math.pi / 16) / 2
    basis[0] /= math.sqrt(2)
    blocks = planes.unflatten(3, (-1, 8)).unflatten(2, (-1, 8))
    found = torch.einsum("ui,bchiwj,vj->bchwuv", basis, blocks, basis)
    step = (steps * scale[..., None, None]).clamp(min=1)
    found = (found / step).round() * step
    return torch.einsum("ui,bchwuv,vj->bchiwj", basis, found, basis).flatten(4).flatten(2, 3)


class AdaptiveAugmentation(NamedTuple):
    """A random change of shape and colour for each of N pictures, applied alike to whatever is
    given (Karras et al. 2020, arXiv 2006.06676, with a smaller set of changes than the paper's).
    """

    theta: Tensor  # [N, 2, 3]
    gain: Tensor  # [N, 1, 1, 1], as the others
    lift: Tensor
    saturation: Tensor

    @classmethod
    def draw(cls, count: int, p: float | Tensor, rng: torch.Generator) -> AdaptiveAugmentation:
        """Each change is made with probability p, which the training adapts."""

        def normal(scale: float) -> Tensor:
            x = torch.randn(count, generator=rng, device=rng.device) * scale
            return x * (torch.rand(count, generator=rng, device=rng.device) < p)

        angle, zoom = normal(0.05), torch.exp(normal(0.08))
        theta = _similarity(angle, zoom, normal(0.05), normal(0.05))
        colours = torch.exp(normal(0.15)), normal(0.1), torch.exp(normal(0.3))
        return cls(theta, *(colour.view(-1, 1, 1, 1) for colour in colours))

    def of_first(self, count: int) -> AdaptiveAugmentation:
        """The changes of the first `count` pictures."""
        return AdaptiveAugmentation(*(column[:count] for column in self))

    def __call__(self, x: Tensor) -> Tensor:
        """Pictures [N, 3, H, W], changed; differentiable."""
        x = _warp(x, self.theta)
        grey = x.mean(1, keepdim=True)
        x = grey + (x - grey) * self.saturation
        return x * self.gain + self.lift
