"""Several starts at once, and the best of what comes of them: initialisations sometimes fail, and
users of the released code learned four to eight by hand (docs/METHOD.md, section 1).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from contextlib import closing

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..models.model_set import ModelSet
from ..values import Essence, Source, Step, Target
from .base import initial_direction, latents_of
from .directions import uses_axes
from .encode import encoded_direction
from .map import mapped_essence
from .optimize import optimize, optimize_together
from .optimize_options import OptimizeOptions

RANDOM_SHARE = 0.5  # of the way from the mean face to a random one
STRENGTHS = (0.0, 0.4, 0.7, 1.0, 1.3)  # at which the results are compared


def optimize_best(
    models: ModelSet,
    target: Target,
    sources: Sequence[Source],
    options: OptimizeOptions = OptimizeOptions(),  # noqa: B008 - frozen
    start: Essence | None = None,
) -> Iterator[Step]:
    """`optimize` from `options.starts` starts at once. Until the last step the `result` is that of
    the start with the lowest loss so far; in the last it is the one whose edits are most like the
    target where all of them leave the sources equally far from themselves, its provenance says how
    the others did, and `choices` has them all. Raises UserError.
    """
    if options.starts == 1:
        yield from optimize(models, target, sources, options, start)
        return
    begun = several_starts(models, target, options, start)
    same = [target] * len(begun)
    with closing(optimize_together(models, same, sources, options, begun)) as rounds:
        for steps in rounds:
            best = min(steps, key=lambda step: step.result.provenance["losses"]["total"])
            if best.index == best.total:
                ranked = ranking(models, target, sources, [step.result for step in steps])
                best = dataclasses.replace(best, result=ranked[0], choices=ranked)
            yield best


def several_starts(
    models: ModelSet, target: Target, options: OptimizeOptions, start: Essence | None = None
) -> list[Essence]:
    """`start`, or the instant essence where the models have one; zero; and random ones."""
    zero = torch.zeros_like(models.generator.latent_avg)
    directions = {} if start is None else {start.name: start.delta}
    if start is None and "essence" in models.extras and target.picture is not None:
        directions["encoder"] = encoded_direction(models, target)
    elif start is None and "mapper" in models.extras:
        directions["mapper"] = mapped_essence(models, target)
    directions["zero"] = zero
    for i in range(options.starts - len(directions)):
        directions[f"random {i}"] = random_direction(models, target, options, i)
    named = list(directions.items())[: options.starts]
    return [Essence(direction, name, models.id) for name, direction in named]


def random_direction(
    models: ModelSet, target: Target, options: OptimizeOptions, number: int
) -> Tensor:
    """In W+ as released, a truncated w itself; in the axes half the way to it from the mean."""
    w = initial_direction(models, target, "random", options.seed + number)
    return RANDOM_SHARE * (w - models.generator.latent_avg) if uses_axes(models, options) else w


def ranking(
    models: ModelSet, target: Target, sources: Sequence[Source], essences: Sequence[Essence]
) -> tuple[Essence, ...]:
    """The essences, those first whose edits of the sources are most like the target at one distance
    from the sources, the least that any of them has at strength 1.
    """
    curves = [strength_curve(models, target, sources, essence) for essence in essences]
    at_one = STRENGTHS.index(1.0)
    distance = min(float(far[at_one]) for far, _ in curves)
    found = [float(np.interp(distance, far, similarity)) for far, similarity in curves]
    compared = [
        {"start": essence.provenance["continues"], "similarity": round(similarity, 4)}
        for essence, similarity in zip(essences, found, strict=True)
    ]
    known = {"starts": compared, "compared_at_distance": round(distance, 4)}
    ranked = [
        dataclasses.replace(essences[i], provenance={**essences[i].provenance, **known})
        for i in np.argsort([-value for value in found], kind="stable")
    ]
    return tuple(ranked)


@torch.no_grad()
def strength_curve(
    models: ModelSet, target: Target, sources: Sequence[Source], essence: Essence
) -> tuple[np.ndarray, np.ndarray]:
    """For each of STRENGTHS the mean distance of the edited sources to themselves, by the face
    network or, without faces, 1 - cos of their embeddings, which only grows; and the mean cosine
    to the target.
    """
    w = latents_of(models, sources)
    distances, similarities, start = [], [], None
    for strength in STRENGTHS:
        edited = essence.apply(w, strength, models.id, models.latents)
        images = torch.cat([models.images(part) for part in edited.split(models.render_batch)])
        e = F.normalize(torch.cat([models.encode(p) for p in images.split(models.render_batch)]))
        own = models.describe(images) if models.has_faces else e
        start = own if start is None else start
        far = (own - start).norm(dim=1) if models.has_faces else 1 - (own * start).sum(1)
        distances.append(far.mean().item())
        similarities.append((e @ F.normalize(target.embedding.to(e), dim=0)).mean().item())
    return np.maximum.accumulate(distances), np.array(similarities)
