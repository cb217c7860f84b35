"""The losses of the paper, as functions of embeddings; and how much each pixel of a face counts."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

# Where eyes and mouth lie in FFHQ alignment: centre x, y and half widths, as parts of the side.
CARE = {(0.5, 0.48): (0.20, 0.05), (0.5, 0.735): (0.12, 0.055)}

SHORTEST = 1e-3


def transfer(edited: Tensor, target: Tensor) -> Tensor:
    """1 - mean_i cos(e'_i, e_t), paper eq. 6. `edited` [N, E], `target` [E] or [1, E]; [N, E]: one
    for each.
    """
    return 1 - F.cosine_similarity(edited, target.view(-1, edited.shape[-1]), dim=-1).mean()


def consistency(differences: Tensor) -> Tensor:
    """Mean over pairs i < j of 1 - cos(d_i, d_j), paper eq. 7. `differences` [N, E], or
    [B, N, E] with the pairs of each of B targets; zero where there is no pair.
    """
    n = differences.shape[-2]
    if n < 2:
        return differences.new_zeros(())
    # A difference shorter than SHORTEST has no direction, only rounding; without the floor its
    # gradient would be as long as it is short.
    unit = F.normalize(differences, dim=-1, eps=SHORTEST)
    # A mask, not indices: indices would come from the processor, which a recorded CUDA graph does
    # not allow.
    pairs = torch.ones(n, n, device=unit.device).triu(1)
    targets = differences[..., 0, 0].numel()
    return ((1 - unit @ unit.mT) * pairs).sum() / (targets * n * (n - 1) / 2)


def care(
    size: int, extra: float, places: Mapping[tuple[float, float], tuple[float, float]] = CARE
) -> Tensor:
    """Weight of each pixel [1, 1, S, S]: 1, and up to 1 + extra over `places`: eyes and mouth,
    which are small and matter.
    """
    axis = (torch.arange(size) + 0.5) / size
    weight = torch.zeros(size, size)
    for (x, y), (half_x, half_y) in places.items():
        weight = torch.maximum(
            weight,
            torch.exp(-(((axis[None] - x) / half_x) ** 2 + ((axis[:, None] - y) / half_y) ** 2)),
        )
    return (1 + extra * weight).view(1, 1, size, size)


def deviation(u: Tensor, v: Tensor, layer_penalty: float) -> Tensor:
    """|u|^2 + layer_penalty * mean over layers of |v|^2, [N], of shifts u [N, 1, K] that all layers
    share and v [N, L, K] of their own, in standard deviations (docs/METHOD.md, section 8).
    """
    return u.square().sum((1, 2)) + layer_penalty * v.square().sum(2).mean(1)
