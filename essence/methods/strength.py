"""The strength that suits a source and an essence: as much of the target as the person bears.

It differs from source to source and from target to target; a line search finds it in one batch of
pictures.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..models.model_set import ModelSet
from ..values import Essence, Source, Target
from .base import check_at_least, latents_of


@dataclass(frozen=True)
class StrengthOptions:
    most: float = 2.0  # strengths are tried from 0 to this
    count: int = 17  # so many of them
    # How far the face may go from itself, by the face network: the same person is usually closer
    # than 0.6.
    distance: float = 0.45
    # Without faces: the least cosine between the embeddings of the picture before and after.
    likeness: float = 0.7
    enough: float = 0.95  # of the best similarity's gain

    def __post_init__(self) -> None:
        check_at_least(self, 0, "most", "distance", "enough")
        check_at_least(self, 2, "count")


@torch.no_grad()
def auto_strength(
    models: ModelSet,
    source: Source,
    essence: Essence,
    target: Target | None,
    options: StrengthOptions = StrengthOptions(),  # noqa: B008 - frozen
) -> float:
    """The least strength that brings nearly the whole gain in similarity to the target that is to
    be had while the source stays who it is. Without a target as much of the essence as that allows.
    """
    w = latents_of(models, [source])
    strengths = torch.linspace(0, options.most, options.count)
    edited = essence.apply(
        w.expand(len(strengths), -1, -1), strengths.to(w), models.id, models.latents
    )
    parts = [models.images(part) for part in edited.split(models.render_batch)]
    e = torch.cat([models.encode(part) for part in parts])
    kept = still_the_same(models, torch.cat(parts), e, options)
    if target is None:
        gain = strengths
    else:
        similarity = F.cosine_similarity(e, target.embedding.to(e)[None]).cpu()
        gain = similarity - similarity[0]
    gain = torch.where(kept, gain, 0.0)
    return strengths[(gain >= options.enough * gain.max()).nonzero()[0, 0]].item()


def still_the_same(models: ModelSet, images: Tensor, e: Tensor, options: StrengthOptions) -> Tensor:
    """bool [N], true up to the first of the pictures [N, 3, S, S] that is somebody else than the
    first one; `e` [N, E] their embeddings.
    """
    if models.has_faces:
        descriptors = torch.cat([models.describe(p) for p in images.split(models.render_batch)])
        near = (descriptors - descriptors[:1]).norm(dim=1) <= options.distance
    else:
        near = F.cosine_similarity(e, e[:1]) >= options.likeness
    return near.cpu().cummin(0).values
