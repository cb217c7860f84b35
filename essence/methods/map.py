"""An essence at once: the embedding mapped to a shift of w (docs/METHOD.md, section 3)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import UserError
from ..models.mapper import Mapper
from ..models.model_set import ModelSet
from ..values import Essence, Source, Step, Target
from .base import check_at_least, check_reach, instant_step
from .own_share import check_share, own_shift, with_own

# A mapper's shift turns the mean face into the target's double: at this share others come about as
# far from themselves as in a hundred steps of `optimize` (docs/LOG.md).
DOUBLE_SHARE = 0.55
# The essences' head has learned from pictures, beside which a sentence says little: taken so many
# times, words move people as far as pictures do, and look more like them than the double's share
# at the same distance (docs/LOG.md, 2026-11-27).
EMPHASIS = 2.0
# And so does the little by which two sentences differ. With this share of the shift that it maps to
# people change more in what was asked, and less in the rest, than by either alone.
PAIR_EMPHASIS = 1.5
PAIR_SHIFT = 0.33


@dataclass(frozen=True)
class MapOptions:
    steps: int = 1  # there is one
    seed: int = 0  # and nothing random in it
    # Of what is mapped. None: all of it from a mapper that has learned essences, else DOUBLE_SHARE.
    factor: float | None = None
    # Of the target's own w that is added to it (`own_share`); None: as suits.
    target_share: float | None = None
    # Standard deviations of w along b at which a source stops (`LatentAxes.hold`); None: nowhere.
    reach: float | None = 3.0
    preview_every: int = 1

    def __post_init__(self) -> None:
        check_at_least(self, 1, "steps", "preview_every")
        if self.factor is not None:
            check_at_least(self, 0, "factor")
        check_reach(self.reach)
        check_share(self)


def map_target(
    models: ModelSet,
    target: Target,
    sources: Sequence[Source] = (),
    options: MapOptions = MapOptions(),  # noqa: B008 - frozen
    start: Essence | None = None,
) -> Iterator[Step]:
    """Yield one `Step` with the mapped essence; it looks at no sources, and starts from nothing.
    Raises UserError for models without a mapper.
    """
    own = own_shift(models, target, options.target_share)
    b = with_own(mapped_essence(models, target, options.factor), own)
    yield instant_step(models, target, b, "map", options)


@torch.no_grad()
def mapped_essence(models: ModelSet, target: Target, factor: float | None = None) -> Tensor:
    """The instant essence of a target, b [L, D], the same in every layer; `factor` as in
    `MapOptions`. Raises UserError for models without a mapper.
    """
    mapper = mapper_of(models)
    residual = residual_of(mapper, target)
    whole = 1.0
    if not mapper.config.essences:
        b, whole = mapper.shift(residual), DOUBLE_SHARE
    elif target.direction is not None:
        b = mapper.essence(PAIR_EMPHASIS * residual) + PAIR_SHIFT * mapper.shift(residual)
    else:
        b = mapper.essence((EMPHASIS if target.picture is None else 1.0) * residual)
    return ((whole if factor is None else factor) * b).expand(models.latent_shape)


def residual_of(mapper: Mapper, target: Target) -> Tensor:
    """What the mapper takes of a target, [E]: what it says beyond the mean picture, or of a pair of
    texts the one beyond the other.
    """
    if target.direction is not None:
        return target.direction.to(mapper.centre)
    return mapper.residual(target.embedding.to(mapper.centre))


def mapper_of(models: ModelSet) -> Mapper:
    """Raises UserError, which says how to get one, where the models have none."""
    mapper = models.extras.get("mapper")
    if mapper is None:
        raise UserError(
            f"The model set '{models.name}' has no mapper, which this needs: "
            "`python -m essence train mapper --help` says how to make one in minutes; "
            "or use --method optimize."
        )
    return mapper
