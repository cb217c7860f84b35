"""An essence at once, from the target's picture: the feed-forward variant of the paper (ECCV 2022;
docs/METHOD.md, section 2).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import UserError
from ..models.e4e import EssenceEncoder
from ..models.model_set import ModelSet
from ..pictures.tensors import to_tensor
from ..values import Essence, Source, Step, Target
from .base import check_at_least, check_reach, instant_step
from .own_share import check_share, own_shift, with_own


@dataclass(frozen=True)
class EncodeOptions:
    steps: int = 1  # there is one
    seed: int = 0  # and nothing random in it
    # Of what the encoder says: it has learned how far a face may go.
    factor: float = 1.0
    # Of the target's own w that is added to it (`own_share`); None: as suits.
    target_share: float | None = None
    # Standard deviations of w along b at which a source stops (`LatentAxes.hold`); None: nowhere.
    reach: float | None = 3.5
    preview_every: int = 1

    def __post_init__(self) -> None:
        check_at_least(self, 1, "steps", "preview_every")
        check_at_least(self, 0, "factor")
        check_reach(self.reach)
        check_share(self)


def encode_target(
    models: ModelSet,
    target: Target,
    sources: Sequence[Source] = (),
    options: EncodeOptions = EncodeOptions(),  # noqa: B008 - frozen
    start: Essence | None = None,
) -> Iterator[Step]:
    """Yield one `Step` with the encoded essence; it looks at no sources, and starts from nothing.
    Raises UserError for a target in words, and for models without an essence encoder.
    """
    own = own_shift(models, target, options.target_share)
    b = with_own(options.factor * encoded_direction(models, target), own)
    yield instant_step(models, target, b, "encode", options)


@torch.no_grad()
def encoded_direction(models: ModelSet, target: Target) -> Tensor:
    """What the essence encoder says of the target's picture, b [L, D]. Raises UserError for a
    target in words, and for models without an essence encoder.
    """
    encoder = essence_encoder_of(models)
    if target.picture is None:
        raise UserError(
            f"'{target.name}' is words, and the essence encoder reads pictures: use --method map, "
            "or --method optimize without --start encoder."
        )
    size = (encoder.input_size,) * 2
    picture = to_tensor(target.picture).to(models.device)
    picture = F.interpolate(picture, size=size, mode="bilinear", antialias=True)
    with models.precision():
        return encoder(picture)[0]


def essence_encoder_of(models: ModelSet) -> EssenceEncoder:
    """Raises UserError, which says how to get one, where the models have none."""
    encoder = models.extras.get("essence")
    if encoder is None:
        raise UserError(
            f"The model set '{models.name}' has no essence encoder, which this needs: "
            "`python -m essence train essence --help` says how to make one; "
            "or use --method optimize."
        )
    return encoder
