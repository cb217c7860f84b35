"""A share of the target's own latent, beside what a method finds (docs/METHOD.md, section 1)."""

from __future__ import annotations

import torch
from torch import Tensor

from ..models.clip import TAUGHT
from ..models.model_set import ModelSet
from ..values import Essence, Target
from .base import check_at_least, latent_of_target

TAUGHT_SHARE = 0.5  # with an image-text encoder of our own recipe


def check_share(options: object) -> None:
    """Raise UserError for a `target_share` of the options that is no share."""
    if options.target_share is not None:
        check_at_least(options, 0, "target_share")


@torch.no_grad()
def own_shift(models: ModelSet, target: Target, share: float | None) -> Tensor | None:
    """`share` of the way from the mean w to the target's, the same in every layer [L, D]; None
    where there is none, or no picture. A share of None is what suits the image-text encoder.

    A small image-text encoder says little of what costs an identity much: glasses, age, sex. The
    inverter has seen it. It is added after learning, since the loss would take it back to have
    people less changed (docs/LOG.md, 2026-11-28).
    """
    if share is None:
        share = TAUGHT_SHARE if models.clip.name == TAUGHT else 0.0
    if not share or target.picture is None:
        return None
    # One look tells a type, and essences at once wait for it.
    centred = latent_of_target(models, target, passes=1) - models.generator.latent_avg
    return share * centred.mean(0, keepdim=True).expand_as(centred)


def with_own(b: Tensor, own: Tensor | None) -> Tensor:
    """An essence [L, D], whole: what a method found, and the target's own share."""
    return b if own is None else b + own


def without_own(models: ModelSet, start: Essence, target: Target) -> Tensor:
    """What a method found of an essence to go on from, [L, D]: one of the same target has the
    target's own share in it, if its options say so.
    """
    delta = start.delta.to(models.device)
    options = start.provenance.get("options", {})
    if start.name != target.name or "target_share" not in options:
        return delta
    own = own_shift(models, target, options["target_share"])
    return delta if own is None else delta - own
