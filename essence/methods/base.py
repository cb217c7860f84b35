"""The protocol that every method follows, and what methods share.

A method is a generator function: given models, a target and sources it yields `Step`s, each with
the best result so far. Register it in `methods.METHODS`; the page, the command line and the tests
find it there.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import EssenceMismatch, UserError
from ..models.model_set import ModelSet
from ..pictures.tensors import to_tensor
from ..runtime.files import timestamp
from ..values import Essence, Pictures, Source, Step, Target


class Learn(Protocol):
    def __call__(
        self,
        models: ModelSet,
        target: Target,
        sources: Sequence[Source],
        options: Any,
        start: Essence | None = None,
    ) -> Iterator[Step]:
        """Yield a `Step` after each step; `result` is the best `Essence` so far, or `Pictures`
        from a method that has no direction. `start` is an essence to continue from. Closing the
        generator stops the work. Raises UserError.
        """


@dataclass(frozen=True)
class Method:
    """One way from a target to an essence. Its options are a frozen dataclass with at least the
    fields `steps`, `seed` and `preview_every`; `presets` names the settings worth a name.
    """

    title: str
    learn: Learn
    presets: Mapping[str, Any]
    # What its steps have as their result, where that is known before the first one.
    result: type[Essence] | type[Pictures] | None = None
    # The kind of component that it cannot do without and some model sets do; empty: none.
    needs: str = ""
    # Made to be compared with: the page does not offer it among the ways to learn.
    baseline: bool = False

    @property
    def options(self) -> Any:
        """The defaults: the first preset."""
        return next(iter(self.presets.values()))


def adjusted(options: Any, **changes: object) -> Any:
    """The options with those changes that they have a field for."""
    fields = {field.name for field in dataclasses.fields(options)}
    return dataclasses.replace(
        options, **{name: value for name, value in changes.items() if name in fields}
    )


def check_at_least(options: object, least: float, *names: str) -> None:
    """Raise UserError for a field of `options` that is below `least`, infinite or not a number."""
    for name in names:
        value = getattr(options, name)
        if not least <= value < float("inf"):
            bound = "zero or more" if least == 0 else f"at least {least:g}"
            raise UserError(f"{name} must be {bound}, not {value}.")


def check_reach(reach: float | None) -> None:
    """Raise UserError for a number of standard deviations that is none."""
    if reach is not None and not 0 < reach < math.inf:
        raise UserError(f"reach must be more than zero, or None, not {reach}.")


def check_loss(total: float, best: object | None, target: Target) -> None:
    """Raise UserError for a first loss that is no number: no later one would be."""
    if best is None and not math.isfinite(total):
        raise UserError(
            f"The essence of '{target.name}' cannot be learned: its loss is {total} from the first "
            "step on. Something in it is no number: the models' weights, the sources' latents or "
            "the essence that it starts from. In half precision try ESSENCE_PRECISION=full."
        )


def provenance(options: Any) -> dict[str, Any]:
    """What a result remembers of how it was made."""
    return {"options": dataclasses.asdict(options), "created": timestamp()}


def instant_step(models: ModelSet, target: Target, b: Tensor, method: str, options: Any) -> Step:
    """The only step of a method that knows the essence b [L, D] at once. It has no losses: nothing
    was minimised, and a face to measure it on takes longer than all the rest. Raises UserError for
    a b that is not finite.
    """
    if not torch.isfinite(b).all():
        raise UserError(
            f"The essence of '{target.name}' has numbers in it that are none (not finite): "
            "something is wrong with the models' weights. In half precision try "
            "ESSENCE_PRECISION=full."
        )
    essence = Essence(
        b,
        target.name,
        models.id,
        method,
        provenance=provenance(options),
        thumbnail=target.picture,
        reach=options.reach,
        text=target.text,
        neutral=target.neutral,
    )
    return Step(1, 1, essence, {})


def latents_of(models: ModelSet, sources: Sequence[Source]) -> Tensor:
    """w+ [N, L, D] of the sources, on the device. Raises UserError for none, EssenceMismatch for
    another generator's.
    """
    if not sources:
        raise UserError("Add at least one source first: an essence is learned on faces.")
    for source in sources:
        models.check(source.w, f"The latents of '{source.name}'")
        if source.model != models.id:
            raise EssenceMismatch(
                f"The source '{source.name}' was inverted with the generator {source.model}; "
                f"this one is {models.id}."
            )
    return torch.stack([source.w for source in sources]).to(models.device)


def edited_latents(
    models: ModelSet,
    sources: Sequence[Source],
    essences: Sequence[Essence],
    strengths: Sequence[Any],
) -> Tensor:
    """Every essence at its strength on every source: w+ [T S, L, D], a row of sources for each
    essence. A strength may be a tensor [S]. Raises as `latents_of`, and EssenceMismatch.
    """
    w = latents_of(models, sources)
    rows = [
        essence.apply(w, strength, models.id, models.latents)
        for essence, strength in zip(essences, strengths, strict=True)
    ]
    return torch.cat([w[:0], *rows])


def initial_direction(models: ModelSet, target: Target, start: str, seed: int) -> Tensor:
    """b to start from, [L, D]: "zero"; "inverted", the target's w as the released code has it;
    "centred", its w minus the mean; "random", a truncated random w. Targets without a picture
    start from zero where an inversion is asked for.
    """
    mean = models.generator.latent_avg
    if start == "random":
        z = torch.randn(1, mean.shape[-1], generator=torch.Generator().manual_seed(seed)).to(mean)
        return models.generator.repeat(models.generator.mapping(z, truncation=0.7))[0].clone()
    if start == "zero" or target.picture is None:
        return torch.zeros_like(mean)
    w = latent_of_target(models, target)
    return w - mean if start == "centred" else w


def latent_of_target(models: ModelSet, target: Target, passes: int | None = None) -> Tensor:
    """The encoder's w [L, D] of the target's picture; `passes` as in `ModelSet.invert`."""
    size = (models.inverter.input_size,) * 2
    picture = to_tensor(target.picture).to(models.device)
    small = F.interpolate(picture, size=size, mode="bilinear", antialias=True)
    return models.invert(small, passes)[0]
