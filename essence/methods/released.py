"""The optimiser of the authors' released code (TargetCLIP, 2022), its defects included.

It exists to reproduce the released numbers (docs/METHOD.md, section 1); `optimize` is the one to
use. What it does otherwise: renders reach CLIP in [-1, 1] through a box filter, without CLIP's mean
and deviation; the target goes through CLIP's own preprocessing; b starts as an absolute latent; the
coefficients' Adam is built anew for every step, so each c_i walks by the sign of its gradient; the
best step is chosen by the loss before the update and saved after it.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import UserError
from ..models.model_set import ModelSet
from ..pictures.tensors import resample, to_tensor, to_uint8
from ..runtime.files import timestamp
from ..runtime.memory import BatchHalving
from ..values import Essence, Source, Step, Target
from . import losses
from .base import check_at_least, check_loss, initial_direction, latents_of
from .batching import batch_for, render_and_embed
from .descent import schedule

# L2 on the c_i, which no paper mentions: found by comparing gradients with a recorded run.
COEFFICIENT_DECAY = 0.01


@dataclass(frozen=True)
class ReleasedOptions:
    steps: int = 1000
    seed: int = 0  # matters for start="random" alone
    start: str = "inverted"  # or "random": a truncated w
    lambda_transfer: float = 1.0
    lambda_consistency: float = 0.5
    learning_rate: float = 0.2
    weight_decay: float = 0.003  # L2 inside Adam, on b
    preview_every: int = 4

    def __post_init__(self) -> None:
        if self.start not in ("inverted", "random"):
            raise UserError(f"start must be inverted or random, not '{self.start}'.")
        check_at_least(self, 1, "steps", "preview_every")
        check_at_least(self, 0, "lambda_transfer", "lambda_consistency", "learning_rate")
        check_at_least(self, 0, "weight_decay")


def released(
    models: ModelSet,
    target: Target,
    sources: Sequence[Source],
    options: ReleasedOptions = ReleasedOptions(),  # noqa: B008 - frozen
    start: Essence | None = None,
) -> Iterator[Step]:
    """Learn an essence as the released code does; yields as `optimize` does."""
    if target.picture is None:
        raise UserError("The released method takes a picture as its target, not words.")
    z = latents_of(models, sources)
    if start is not None:
        start.check(models.latent_shape, models.id)

    def encode(images: Tensor) -> Tensor:
        with models.precision():
            return models.clip.encode_raw(resample(images, models.clip.size, "box"))

    batch = batch_for(models, len(z), models.size)
    with torch.no_grad():
        e = render_and_embed(models, z, models.size, batch, encode)[1]
        e_t = models.clip.encode_whole(to_tensor(target.picture).to(models.device))
    b = (
        start.delta.to(z)
        if start
        else initial_direction(models, target, options.start, options.seed)
    )
    b = b.clone().requires_grad_()
    c = torch.ones(len(z), 1, 1, device=z.device, requires_grad=True)
    adam = torch.optim.Adam([b], lr=options.learning_rate, weight_decay=options.weight_decay)

    def evaluate(batch: int) -> dict[str, Tensor]:
        b.grad = c.grad = None
        images, e_edited = render_and_embed(models, z + c * b, models.size, batch, encode)
        d = F.normalize(e_edited, dim=-1) - F.normalize(e, dim=-1)
        transfer, consistency = losses.transfer(e_edited, e_t), losses.consistency(d)
        total = options.lambda_transfer * transfer + options.lambda_consistency * consistency
        total.backward()
        return {"images": images, "total": total, "transfer": transfer, "consistency": consistency}

    in_batches = BatchHalving(batch)
    known = {"options": dataclasses.asdict(options), "seed": options.seed, "created": timestamp()}
    known |= {"continues": start.name if start else None, "loss_resolution": models.size}
    best, lowest = None, math.inf

    for i in range(options.steps):
        found = {name: value.detach() for name, value in in_batches(evaluate).items()}
        loss = {name: value.item() for name, value in found.items() if name != "images"}
        check_loss(loss["total"], best, target)
        adam.param_groups[0]["lr"] = options.learning_rate * schedule(i / options.steps)
        adam.step()
        with torch.no_grad():  # Adam's first step
            gradient = c.grad + COEFFICIENT_DECAY * c
            c -= options.learning_rate * gradient / (gradient.abs() + 1e-8)
        if loss["total"] < lowest:
            provenance = {**known, "losses": loss, "step": i + 1}
            best, lowest = (
                Essence(
                    b.detach().clone(),
                    target.name,
                    models.id,
                    "released",
                    provenance=provenance,
                    thumbnail=target.picture,
                ),
                loss["total"],
            )
        shown = i % options.preview_every == 0 or i + 1 == options.steps
        yield Step(i + 1, options.steps, best, loss, to_uint8(found["images"]) if shown else None)
