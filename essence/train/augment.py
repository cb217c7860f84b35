"""Random changes of pictures [B, 3, H, W] in [-1, 1]; all random numbers come from a given
generator.

`light` is part of the scene and should be reproduced; `degrade` is the camera's and the crop's
fault, and what learns should see through it. `AdaptiveAugmentation` is for discriminators.
"""

from __future__ import annotations

import io
import math

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from ..pictures.tensors import to_pil, to_tensor

LUMA = (0.299, 0.587, 0.114)
GREY_SHARE = 0.08  # of the lit pictures: black and white photographs


def _uniform(rng: torch.Generator, count: int, low: float, high: float) -> Tensor:
    return torch.empty(count, 1, 1, 1).uniform_(low, high, generator=rng)


def _normal(rng: torch.Generator, count: int, scale: float, channels: int = 1) -> Tensor:
    return torch.randn(count, channels, 1, 1, generator=rng) * scale


def light(images: Tensor, rng: torch.Generator, share: float = 0.6) -> tuple[Tensor, Tensor]:
    """Exposure, colour temperature, light from one side, contrast and saturation on a random
    `share` of the pictures.

    Returns the pictures and which of them were changed, bool [B].
    """
    count = len(images)
    chosen = torch.rand(count, generator=rng) < share
    x = (images + 1) / 2
    warmth = _normal(rng, count, 0.10)
    tint = torch.cat([warmth, _normal(rng, count, 0.04), -warmth], dim=1)
    exposure = _normal(rng, count, 0.25)
    # Log brightness that falls off across the picture in a random direction: a lamp at one side.
    axis = torch.linspace(-1, 1, x.shape[-1])
    angle, strength = _uniform(rng, count, 0, 2 * math.pi), _uniform(rng, count, 0, 0.6)
    across, down = axis.view(1, 1, 1, -1), axis.view(1, 1, -1, 1)
    ramp = strength * (torch.cos(angle) * across + torch.sin(angle) * down)
    x = x * torch.exp(exposure + tint + ramp)
    middle = x.mean(dim=(1, 2, 3), keepdim=True)
    x = middle + (x - middle) * torch.exp(_normal(rng, count, 0.2))
    grey = (x * torch.tensor(LUMA).view(1, 3, 1, 1)).sum(1, keepdim=True)
    colour = _uniform(rng, count, 0.5, 1.4) * (_uniform(rng, count, 0, 1) > GREY_SHARE)
    x = (grey + (x - grey) * colour).clamp(0, 1) * 2 - 1
    return torch.where(chosen.view(-1, 1, 1, 1), x, images), chosen


def degrade(images: Tensor, rng: torch.Generator) -> Tensor:
    """Small misalignment, then on some pictures blur, noise and JPEG."""

    def blur(part: Tensor) -> Tensor:
        """Down to 30 to 90 % of the side and back."""
        side = part.shape[-1]
        small = max(4, round(side * float(torch.empty(1).uniform_(0.3, 0.9, generator=rng))))
        x = F.interpolate(part, size=(small, small), mode="bilinear", antialias=True)
        return F.interpolate(x, size=(side, side), mode="bilinear")

    def add_noise(part: Tensor) -> Tensor:
        noise = torch.randn(part.shape, generator=rng) * _uniform(rng, len(part), 0, 0.12)
        return part + noise

    x = misalign(images, rng)
    for change in (blur, add_noise, lambda part: jpeg(part, rng)):
        chosen = torch.rand(len(x), generator=rng) < 0.3
        if chosen.any():
            x = x.clone()
            x[chosen] = change(x[chosen])
    return x.clamp(-1, 1)


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
    angle = torch.randn(count, generator=rng) * turn
    scale = torch.exp(torch.randn(count, generator=rng) * zoom)
    offset = torch.randn(2, count, generator=rng) * shift
    return _warp(images, _similarity(angle, scale, offset[0], offset[1]))


def _similarity(angle: Tensor, scale: Tensor, right: Tensor, down: Tensor) -> Tensor:
    """Affine matrices [B, 2, 3]: a rotation, a scale and a shift, [B] each."""
    cos, sin = torch.cos(angle) * scale, torch.sin(angle) * scale
    rows = [torch.stack([cos, -sin, right], 1), torch.stack([sin, cos, down], 1)]
    return torch.stack(rows, 1)


def _warp(images: Tensor, theta: Tensor) -> Tensor:
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, padding_mode="reflection", align_corners=False)


def jpeg(images: Tensor, rng: torch.Generator) -> Tensor:
    """Real JPEG at a random quality from 25 to 90."""
    out = []
    for image in images:
        buffer = io.BytesIO()
        to_pil(image).save(buffer, "JPEG", quality=int(torch.randint(25, 91, (1,), generator=rng)))
        with Image.open(buffer) as decoded:
            out.append(to_tensor(decoded))
    return torch.cat(out)


class AdaptiveAugmentation:
    """A random change of shape and colour for each of `count` pictures, applied alike to whatever
    is given; each change is made with probability p, which the training adapts (Karras et al.
    2020, arXiv 2006.06676, with a smaller set of changes than the paper's).
    """

    def __init__(self, count: int, p: float, rng: torch.Generator):
        def normal(scale: float) -> Tensor:
            x = torch.randn(count, generator=rng) * scale
            return x * (torch.rand(count, generator=rng) < p)

        angle, zoom = normal(0.05), torch.exp(normal(0.08))
        self.theta = _similarity(angle, zoom, normal(0.05), normal(0.05))
        self.gain = torch.exp(normal(0.15)).view(-1, 1, 1, 1)
        self.lift = normal(0.1).view(-1, 1, 1, 1)
        self.saturation = torch.exp(normal(0.3)).view(-1, 1, 1, 1)

    def __call__(self, x: Tensor) -> Tensor:
        """Pictures [count, 3, H, W], changed; differentiable."""
        x = _warp(x, self.theta.to(x))
        grey = x.mean(1, keepdim=True)
        x = grey + (x - grey) * self.saturation.to(x)
        return x * self.gain.to(x) + self.lift.to(x)
