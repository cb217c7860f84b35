"""The options of learning an essence by optimisation."""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import UserError
from .base import check_at_least, check_reach
from .own_share import check_share

SPACES = ("auto", "axes", "w+")
STARTS = ("zero", "centred", "inverted", "random", "mapper", "encoder")


@dataclass(frozen=True)
class OptimizeOptions:
    steps: int = 100
    seed: int = 0  # matters for start="random" alone; everything else is deterministic
    # "axes": b = (u + v) diag(sqrt l) U^T in the latents' own axes; "w+": b itself;
    # "auto": axes where the models bring them.
    space: str = "auto"
    # Of b: "zero", "centred" (the target's w minus the mean), "inverted" (its w, as released),
    # "random" (a truncated w, as released), "mapper" or "encoder" (their instant essence).
    start: str = "centred"
    # So many starts are learned from at once, and the best essence is kept (`methods.starts`).
    starts: int = 1
    lambda_transfer: float = 1.0
    lambda_consistency: float = 0.5
    # On the squared distance of the face network's descriptors of each person before and after
    # the edit, where the models bring one. Not in the paper: docs/LOG.md has what it is worth.
    lambda_identity: float = 0.5
    # Of the target's own w, less the mean, that is added to what is learned (`own_share`). None: as
    # suits the image-text encoder.
    target_share: float | None = None
    learning_rate: float = 0.05  # of b in w+
    axes_learning_rate: float = 0.06  # of u, shared by the layers
    layer_learning_rate: float = 0.02  # of v, one for each layer
    # On |u|^2 + layer_penalty * mean over layers of |v|^2; docs/LOG.md has what more and less do.
    penalty: float = 0.002
    layer_penalty: float = 15.0
    # Standard deviations of w along b at which a source stops (`LatentAxes.hold`); None: nowhere.
    reach: float | None = 3.5
    weight_decay: float = 0.0  # L2 inside Adam, on b in w+
    coefficients: bool = False  # learn a c_i for each source beside b
    unit_differences: bool = True  # d_i between unit embeddings; the paper has them raw
    # Side of the pictures that the loss sees: synthesis stops there. 0: the full one. None: the
    # smallest that covers CLIP's input, if the sources look the same to CLIP at it
    # (CLOSE_ENOUGH), else the full one. Previews are always full.
    loss_resolution: int | None = None
    preview_every: int = 4

    def __post_init__(self) -> None:
        for name, allowed in (("space", SPACES), ("start", STARTS)):
            if getattr(self, name) not in allowed:
                raise UserError(
                    f"{name} must be one of {', '.join(allowed)}, not '{getattr(self, name)}'."
                )
        check_at_least(self, 1, "steps", "starts", "preview_every")
        check_at_least(self, 0, "lambda_transfer", "lambda_consistency", "lambda_identity")
        check_at_least(self, 0, "learning_rate", "penalty", "weight_decay")
        check_share(self)
        check_reach(self.reach)
