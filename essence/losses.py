"""The losses of the paper, as functions of embeddings."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

SHORTEST = 1e-3


def transfer(edited: Tensor, target: Tensor) -> Tensor:
    """1 - mean_i cos(e'_i, e_t), paper eq. 6. `edited` [N, E], `target` [1, E] or [E]."""
    return 1 - F.cosine_similarity(edited, target.view(1, -1), dim=-1).mean()


def consistency(differences: Tensor) -> Tensor:
    """Mean over pairs i < j of 1 - cos(d_i, d_j), paper eq. 7. `differences` [N, E]; zero where there is no pair."""
    n = len(differences)
    if n < 2:
        return differences.new_zeros(())
    # A difference shorter than SHORTEST has no direction, only rounding; without the floor its gradient would be as long as it is short.
    unit = F.normalize(differences, dim=-1, eps=SHORTEST)
    # A mask, not indices: indices would come from the processor, which a recorded CUDA graph does not allow.
    pairs = torch.ones(n, n, device=unit.device).triu(1)
    return ((1 - unit @ unit.T) * pairs).sum() / pairs.sum()
