"""The losses of the paper, as functions of embeddings."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def transfer(edited: Tensor, target: Tensor) -> Tensor:
    """1 - mean_i cos(e'_i, e_t), paper eq. 6. `edited` [N, E], `target` [1, E] or [E]."""
    return 1 - F.cosine_similarity(edited, target.view(1, -1), dim=-1).mean()


def consistency(differences: Tensor) -> Tensor:
    """Mean over pairs i < j of 1 - cos(d_i, d_j), paper eq. 7. `differences` [N, E]; zero where there is no pair."""
    n = len(differences)
    if n < 2:
        return differences.new_zeros(())
    i, j = torch.triu_indices(n, n, offset=1)
    return (1 - F.cosine_similarity(differences[i], differences[j], dim=-1)).mean()
