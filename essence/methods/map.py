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


@dataclass(frozen=True)
class MapOptions:
    steps: int = 1  # there is one
    seed: int = 0  # and nothing random in it
    # Of the mapped shift, which turns the mean face into the target's double: at this share others
    # come about as far from themselves as in a hundred steps of `optimize` (docs/LOG.md).
    factor: float = 0.55
    # Standard deviations of w along b at which a source stops (`LatentAxes.hold`); None: nowhere.
    reach: float | None = 3.0
    preview_every: int = 1

    def __post_init__(self) -> None:
        check_at_least(self, 1, "steps", "preview_every")
        check_at_least(self, 0, "factor")
        check_reach(self.reach)


def map_target(
    models: ModelSet,
    target: Target,
    sources: Sequence[Source] = (),
    options: MapOptions = MapOptions(),  # noqa: B008 - frozen
    start: Essence | None = None,
) -> Iterator[Step]:
    """Yield one `Step` with the mapped essence; it looks at no sources, and starts from nothing.
    "total" is 1 - cos between the embeddings of the target and of the mean face that becomes its
    double. Raises UserError for models without a mapper.
    """
    with torch.no_grad():
        shift = mapped_shift(models, target)
    double = models.generator.latent_avg + shift
    b = (options.factor * shift).expand(models.latent_shape)
    yield instant_step(models, target, b, double, "map", options)


def mapped_shift(models: ModelSet, target: Target) -> Tensor:
    """The mapped target minus the mapped centre, [D]; of a pair of texts what their difference
    maps to. Raises UserError for models without a mapper.
    """
    mapper = mapper_of(models)
    if target.direction is not None:
        return mapper.shift(target.direction.to(mapper.centre))
    return mapper.shift(mapper.residual(target.embedding.to(mapper.centre)))


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
