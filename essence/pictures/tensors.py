"""Between PIL pictures and tensors, and resampling that can be differentiated.

Tensors are `[B, 3, H, W]` float32 in [-1, 1]; PIL images are RGB, 8 bits a channel.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch
from PIL import Image

LARGE, STRIP = 1 << 22, 256  # numbers; rows that are worked on at a time


def to_tensor(images: Image.Image | Sequence[Image.Image], size: int | None = None) -> torch.Tensor:
    """PIL pictures -> `[B, 3, H, W]` float32 in [-1, 1]; with `size`, their centred squares resized
    to `size`.
    """
    images = [images] if isinstance(images, Image.Image) else list(images)
    if size is not None:
        images = [resize(square_crop(image), size) for image in images]
    if len({image.size for image in images}) != 1:
        raise ValueError(
            f"one size is needed to stack pictures, not {[image.size for image in images]}: "
            "pass `size`"
        )
    pixels = np.stack([np.asarray(image.convert("RGB")) for image in images])
    pixels = torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous()
    return pixels.float().div_(127.5).sub_(1)


def to_uint8(images: torch.Tensor) -> np.ndarray:
    """`[..., 3, H, W]` in [-1, 1] -> `[..., H, W, 3]` uint8, rounded; values outside are clipped,
    NaN is grey.
    """
    return to_bytes(images).cpu().numpy()


def to_bytes(images: torch.Tensor) -> torch.Tensor:
    """`to_uint8`, as a tensor where the pictures lie."""
    images = images.detach().movedim(-3, -1)
    height = images.shape[-3]
    # A copy of a large picture in floats would be its largest piece of memory.
    strips = images.split(height if images.numel() < LARGE else STRIP, -3)
    done = []
    for strip in strips:
        pixels = strip.float().nan_to_num(0)  # a copy, in which the rest happens
        done.append(pixels.clamp_(-1, 1).add_(1).mul_(127.5).round_().to(torch.uint8))
    return done[0] if len(done) == 1 else torch.cat(done, -3)


def from_uint8(pictures: np.ndarray) -> torch.Tensor:
    """uint8 `[N, H, W, 3]` -> `[N, 3, H, W]` float32 in [-1, 1]."""
    return torch.tensor(pictures).permute(0, 3, 1, 2) / 127.5 - 1


def to_pil(images: torch.Tensor) -> Image.Image | list[Image.Image]:
    """`[3, H, W]` -> a PIL picture, `[B, 3, H, W]` -> a list of them; values in [-1, 1]."""
    pixels = to_uint8(images)
    if pixels.ndim == 3:
        return Image.fromarray(pixels)
    return [Image.fromarray(picture) for picture in pixels]


def square_crop(image: Image.Image) -> Image.Image:
    """The largest centred square."""
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    return image.crop((left, top, left + side, top + side))


def resize(image: Image.Image, size: int | tuple[int, int]) -> Image.Image:
    """Lanczos with antialiasing; `size` is a side or (width, height). The same size gives the same
    pixels.
    """
    size = (size, size) if isinstance(size, int) else size
    return image.copy() if image.size == size else image.resize(size, Image.Resampling.LANCZOS)


def resample(images: torch.Tensor, size: int | tuple[int, int], kind: str = "box") -> torch.Tensor:
    """`[..., H, W]` -> `[..., size, size]` (or (h, w)) by two matrix products; differentiable.

    "box": each output pixel is the mean of the area it covers: nearest-upsampling times k followed
    by average pooling gives the same numbers, through a picture k times as large. "antialias": a
    triangle as wide as the coarser of the two grids, as in `interpolate(mode="bilinear",
    antialias=True)`.
    """
    height, width = (size, size) if isinstance(size, int) else size
    if images.shape[-2:] == (height, width):
        return images
    rows = _resampling_matrix(images.shape[-2], height, kind, images.device, images.dtype)
    columns = _resampling_matrix(images.shape[-1], width, kind, images.device, images.dtype)
    return rows @ images @ columns.T


@lru_cache(maxsize=64)
def _resampling_matrix(
    before: int, after: int, kind: str, device: torch.device, dtype: torch.dtype
) -> torch.Tensor:
    """`[after, before]`, rows sum to 1; computed in float64."""
    if kind not in ("box", "antialias"):
        raise ValueError(f"unknown resampling {kind!r}: box or antialias")
    scale = before / after
    with torch.inference_mode(
        False
    ):  # a cached inference tensor would break the next backward pass
        new, old = (
            torch.arange(after, dtype=torch.float64)[:, None],
            torch.arange(before, dtype=torch.float64),
        )
        if kind == "box":
            overlap = torch.minimum((new + 1) * scale, old + 1) - torch.maximum(new * scale, old)
            weights = overlap.clamp(min=0)
        else:
            weights = (1 - ((old + 0.5) - (new + 0.5) * scale).abs() / max(scale, 1)).clamp(min=0)
        return (weights / weights.sum(1, keepdim=True)).to(dtype).to(device)
