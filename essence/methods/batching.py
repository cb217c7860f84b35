"""Rendering and embedding the sources of a step, in parts that fit the memory."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ..errors import UserError
from ..models.identity import face_chip
from ..models.model_set import ModelSet
from ..ops.dispatch import cuda_kernels
from ..runtime import memory

# Feature maps that a step of one picture holds for its backward pass, in maps of each resolution
# (8.5 by autograd's own account, at 256 as at 1024), and the working space beside them. CLIP
# ViT-B/32 keeps some 60 MB for a picture.
MAPS = 11
# The same where the CUDA kernels keep one map of a layer (measured on an H200: four pictures at
# 1024 in float32 take 5.0 GB in all, in bfloat16 2.9).
MAPS_OF_KERNELS = 5
CLIP_BYTES = 100 << 20
SHARE = 0.8  # of the free memory
# Nothing asked for: the early picture is used where every source's embedding has at least this
# cosine to that of the full picture.
CLOSE_ENOUGH = 0.98


def batch_for(models: ModelSet, count: int, resolution: int) -> int:
    """How many of `count` pictures can be held at once with all that their gradient needs."""
    free = memory.free_memory(models.device)
    if free is None:
        return count
    channels = models.generator.config.channels
    maps = sum(width * side * side for side, width in channels.items() if side <= resolution)
    kernels = models.device.type == "cuda" and cuda_kernels()
    each = (MAPS_OF_KERNELS if kernels else MAPS) * maps * (2 if models.half else 4) + CLIP_BYTES
    return max(1, min(count, int(SHARE * free / each)))


def early_resolution(models: ModelSet) -> int:
    """The smallest side at which synthesis can stop that covers CLIP's input; the full one where
    none does.
    """
    sides = models.generator.config.resolutions
    return next((side for side in sides if side >= models.clip.size), models.size)


def render_and_embed(
    models: ModelSet,
    w: Tensor,
    resolution: int,
    batch: int,
    encode: Callable[[Tensor], Tensor] | None = None,
) -> tuple[Tensor, Tensor]:
    """w+ [N, L, D] to pictures [N, 3, R, R] and CLIP embeddings [N, E], differentiable.

    With a `batch` below N only one part's feature maps are held at a time, and each part is
    computed again in the backward pass. `encode` stands in for the models' own preprocessing.
    """
    encode = encode or models.encode

    def part(w: Tensor) -> tuple[Tensor, Tensor]:
        images = models.images(w, resolution)
        return images, encode(images)

    if batch >= len(w):
        return part(w)
    parts = [
        checkpoint(part, x, use_reentrant=False, preserve_rng_state=False) for x in w.split(batch)
    ]
    images, embeddings = zip(*parts, strict=True)
    return torch.cat(images), torch.cat(embeddings)


def with_descriptors(models: ModelSet) -> Callable[[Tensor], Tensor]:
    """Pictures [B, 3, R, R] of faces to CLIP embeddings and, behind them, the face network's
    descriptors: [B, E + DESCRIPTOR], differentiable.
    """

    def look(images: Tensor) -> Tensor:
        embeddings = models.encode(images)
        with models.precision():
            return torch.cat([embeddings, models.identity(face_chip(images))], 1)

    return look


def source_embeddings(
    models: ModelSet,
    w: Tensor,
    resolution: int,
    batch: int,
    look: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """CLIP embeddings [N, E] of the unedited sources, cached under the hash of their latents; or
    what `look` (`with_descriptors`) sees of them, which is not: nobody's descriptor outlives a run.

    Computed just as in a step, gradient and all: libraries choose other kernels without one, and
    at an essence of zero the difference between the two would be nothing but their rounding,
    whose direction the consistency loss would take at its word.
    """

    def compute() -> Tensor:
        with torch.enable_grad():
            leaf = w.detach().clone().requires_grad_()
            return render_and_embed(models, leaf, resolution, batch, look)[1].detach()

    if look is not None:
        return compute()
    content = hashlib.sha256(w.detach().float().cpu().numpy().tobytes()).digest()
    return models.cached(("embeddings", content, tuple(w.shape), resolution, batch), compute)


def loss_resolution(models: ModelSet, z: Tensor, wanted: int | None) -> int:
    """Side of the pictures that the loss sees: `wanted`, 0 for the full one, None for the early one
    where that is as good.
    """
    sides = models.generator.config.resolutions
    if wanted:
        if wanted not in sides:
            raise UserError(f"loss_resolution must be 0 (full) or one of {sides}, not {wanted}.")
        return wanted
    early = early_resolution(models)
    if wanted == 0 or early == models.size:
        return models.size

    def agreement(batch: int) -> float:
        a, b = (source_embeddings(models, z, side, batch) for side in (early, models.size))
        return F.cosine_similarity(a, b).min().item()

    halving = memory.BatchHalving(batch_for(models, len(z), models.size))
    return early if halving(agreement) >= CLOSE_ENOUGH else models.size
