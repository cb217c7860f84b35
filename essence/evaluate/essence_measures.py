"""What an essence does to people who took no part in learning it, in numbers; each measure once,
named as the field names it. See `metrics` for identity, sharpness, KID and FID.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..methods import losses

# Standard deviations of an attribute over people: a target that differs from the source by less
# than the first asks for no change, by more than the second for a clear one.
ALIKE, CLEAR = 0.5, 1.0


def target_similarity(embeddings: Tensor, target: Tensor) -> Tensor:
    """Cosine of each picture's embedding [N, E] to the target's [E], [N]. From the encoder that was
    optimised it flatters; the judge's says more.
    """
    return F.cosine_similarity(embeddings, target.view(1, -1), dim=1)


def consistency(before: Tensor, after: Tensor) -> float:
    """Mean over pairs of sources of cos(d_i, d_j), d the difference of unit embeddings [N, E]
    (paper eq. 7, which is one minus this): 1 where all change alike, 0 where no two do. Not a
    number for fewer than two sources.
    """
    if len(before) < 2:
        return float("nan")
    d = F.normalize(after, dim=1) - F.normalize(before, dim=1)
    return 1 - losses.consistency(d).item()


def linearity(path: Tensor) -> Tensor:
    """Of the ways [K, N, E] that N sources' unit embeddings take as strength grows: the distance
    from the first point to the last as a share of the way between, [N]. 1 is a straight line; not
    a number where nothing moves.
    """
    unit = F.normalize(path, dim=-1)
    steps = (unit[1:] - unit[:-1]).norm(dim=-1).sum(0)
    return (unit[-1] - unit[0]).norm(dim=-1) / torch.where(steps > 1e-6, steps, torch.nan)


def moved_share(before: Tensor, after: Tensor, target: Tensor) -> Tensor:
    """How far the attributes in which the target clearly differs went towards it, as a share of the
    way, each limited to [-1, 1]: the mean for each source, [N]. Attributes are in standard
    deviations, [N, K], [N, K], [K]. Not a number where none differs.
    """
    gap = target - before
    share = ((after - before) / gap).clamp(-1, 1)
    return mean_where(share, gap.abs() >= CLEAR)


def side_effects(before: Tensor, after: Tensor, target: Tensor) -> Tensor:
    """Mean change, in standard deviations and whichever way, of the attributes in which the target
    does not differ from the source, [N]; arguments as in `moved_share`.
    """
    return mean_where((after - before).abs(), (target - before).abs() < ALIKE)


def disentanglement(before: Tensor, after: Tensor, target: Tensor) -> Tensor:
    """Of all that changed, the share that went towards the target and not beyond it, [N]; arguments
    as in `moved_share`. 1 for a perfect edit; not a number where nothing changed.
    """
    gap, change = target - before, after - before
    towards = torch.minimum((change * gap.sign()).clamp(min=0), gap.abs()).sum(1)
    whole = change.abs().sum(1)
    return towards / torch.where(whole > 1e-6, whole, torch.nan)


def mean_where(values: Tensor, chosen: Tensor) -> Tensor:
    """Mean of each row's chosen values, [N, K] to [N]; not a number where there are none."""
    count = chosen.sum(1)
    return torch.where(chosen, values, 0.0).sum(1) / torch.where(count > 0, count, torch.nan)


def target_consistency(first: Tensor, second: Tensor) -> Tensor:
    """Of P persons with an essence of each of two pictures, [P, F] and [P, F] flat: for each triple
    of a person's two and another person's first, whether the two are the more alike (cosine); bool
    [P, P - 1].
    """
    count = len(first)
    a, b = F.normalize(first, dim=1), F.normalize(second, dim=1)
    same, others = (a * b).sum(1, keepdim=True), a @ a.T
    other = ~torch.eye(count, dtype=torch.bool)
    return (same > others)[other].view(count, count - 1)
