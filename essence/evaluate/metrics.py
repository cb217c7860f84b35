"""How good an essence or an inversion is, in numbers. Pictures have the last word."""

from __future__ import annotations

import torch
from torch import Tensor


def distances(a: Tensor, b: Tensor) -> Tensor:
    """Euclidean distance of each pair of face descriptors: [N, 128], [N, 128] to [N]."""
    return (a - b).norm(dim=-1)


def distance_between_people(descriptors: Tensor) -> float:
    """Mean distance over all pairs of different rows of [N, 128]."""
    n = len(descriptors)
    if n < 2:
        raise ValueError("It takes two people to differ.")
    return torch.pdist(descriptors).mean().item()
