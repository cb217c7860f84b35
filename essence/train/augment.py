"""Changes of pictures [B, 3, H, W] in [-1, 1] that photographs bring and studio pictures lack; all
random numbers from a given generator.

`light` is part of the scene and should be reproduced; `degrade` is the camera's and the crop's
fault and should be seen through.
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
    x = x * torch.exp(_normal(rng, count, 0.25) + tint + _ramp(x.shape[-1], count, rng))
    middle = x.mean(dim=(1, 2, 3), keepdim=True)
    x = middle + (x - middle) * torch.exp(_normal(rng, count, 0.2))
    grey = (x * torch.tensor(LUMA).view(1, 3, 1, 1)).sum(1, keepdim=True)
    colour = _uniform(rng, count, 0.5, 1.4) * (_uniform(rng, count, 0, 1) > GREY_SHARE)
    x = (grey + (x - grey) * colour).clamp(0, 1) * 2 - 1
    return torch.where(chosen.view(-1, 1, 1, 1), x, images), chosen


def _ramp(side: int, count: int, rng: torch.Generator) -> Tensor:
    """Log brightness [B, 1, H, W] that falls off across the picture in a random direction: a lamp
    at one side.
    """
    axis = torch.linspace(-1, 1, side)
    angle, strength = _uniform(rng, count, 0, 2 * math.pi), _uniform(rng, count, 0, 0.6)
    return strength * (
        torch.cos(angle) * axis.view(1, 1, 1, -1) + torch.sin(angle) * axis.view(1, 1, -1, 1)
    )


def degrade(images: Tensor, rng: torch.Generator) -> Tensor:
    """Small misalignment, then on some pictures blur, noise and JPEG."""
    x = misalign(images, rng)
    x = _on_some(x, rng, 0.3, lambda part: _blur(part, rng))
    x = _on_some(
        x,
        rng,
        0.3,
        lambda part: (
            part + torch.randn(part.shape, generator=rng) * _uniform(rng, len(part), 0, 0.12)
        ),
    )
    return _on_some(x.clamp(-1, 1), rng, 0.3, lambda part: jpeg(part, rng))


def _on_some(x: Tensor, rng: torch.Generator, share: float, change) -> Tensor:
    chosen = torch.rand(len(x), generator=rng) < share
    if not chosen.any():
        return x
    x = x.clone()
    x[chosen] = change(x[chosen])
    return x


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
    angle, scale = (
        torch.randn(count, generator=rng) * turn,
        torch.exp(torch.randn(count, generator=rng) * zoom),
    )
    cos, sin = torch.cos(angle) * scale, torch.sin(angle) * scale
    move = torch.randn(2, count, generator=rng) * shift
    theta = torch.stack(
        [torch.stack([cos, -sin, move[0]], 1), torch.stack([sin, cos, move[1]], 1)], 1
    )
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    return F.grid_sample(
        images, grid, mode="bilinear", padding_mode="reflection", align_corners=False
    )


def _blur(images: Tensor, rng: torch.Generator) -> Tensor:
    """Down to 30...90 % and back."""
    side = images.shape[-1]
    small = max(4, round(side * float(torch.empty(1).uniform_(0.3, 0.9, generator=rng))))
    x = F.interpolate(images, size=(small, small), mode="bilinear", antialias=True)
    return F.interpolate(x, size=(side, side), mode="bilinear")


def jpeg(images: Tensor, rng: torch.Generator) -> Tensor:
    """Real JPEG at a random quality from 25 to 90."""
    out = []
    for image in images:
        buffer = io.BytesIO()
        to_pil(image).save(buffer, "JPEG", quality=int(torch.randint(25, 91, (1,), generator=rng)))
        with Image.open(buffer) as decoded:
            out.append(to_tensor(decoded))
    return torch.cat(out)
