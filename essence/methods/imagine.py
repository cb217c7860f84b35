"""Faces from words: random faces that the mapper turns into what a text says, and some steps of
gradient descent for the rest.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..models.model_set import ModelSet
from ..pictures.tensors import to_pil, to_uint8
from ..values import Step, Target
from .base import check_at_least
from .batching import batch_for, render_and_embed
from .invert import source_of, with_fine_picture
from .map import mapper_of
from .refine import round_axes

CANDIDATES = 8  # random faces for each that is made
# A sentence lies further from the mean picture than pictures do. At this share of their distance
# faces show the words as often, with fewer of the flaws that the generator has far out
# (docs/LOG.md).
WORDS_REACH = 0.8


@dataclass(frozen=True)
class ImagineOptions:
    count: int = 4
    seed: int = 0
    variety: float = 0.4  # how much of random faces is in them: 0 is always the same one
    truncation: float = 0.8  # draws them towards the mean face: with 1 some glow at the edges
    steps: int = 15  # of refinement; 0: the mapper alone
    learning_rate: float = 0.05  # of u, in standard deviations
    penalty: float = 0.002  # on |u|^2: how far a face goes for the words
    preview_every: int = 5

    def __post_init__(self) -> None:
        check_at_least(self, 1, "count", "preview_every")
        check_at_least(
            self, 0, "steps", "seed", "variety", "truncation", "learning_rate", "penalty"
        )


def imagine(
    models: ModelSet,
    target: Target,
    options: ImagineOptions = ImagineOptions(),  # noqa: B008 - frozen
) -> Iterator[Step]:
    """Make faces that look like the target, a text mostly. The first `Step` is the mapper's answer,
    then comes one for each refinement; `result` is a tuple with the best of each `Source` so far.
    "total" is the mean over the faces of 1 - cos between a face's embedding and its goal, which has
    all of the target and keeps what is the face's own. Raises UserError for models without a
    mapper.
    """
    axes = models.latents or round_axes(models)
    w, goal = mapped_faces(models, target, options)
    batch = batch_for(models, len(w), models.size)
    u = torch.zeros(len(w), 1, len(axes.axes), device=w.device, requires_grad=True)
    adam = torch.optim.Adam([u], lr=options.learning_rate)
    sources, lowest = [], torch.full((len(w),), torch.inf)

    for i in range(options.steps + 1):
        moved = w + axes.shift(u, u.new_zeros(()))
        images, e = render_and_embed(models, moved, models.size, batch)
        each = 1 - F.cosine_similarity(e, goal, dim=1)
        loss = each + options.penalty * u.square().sum((1, 2))
        adam.zero_grad(set_to_none=True)
        loss.sum().backward()
        adam.step()
        for n, value in enumerate(loss.tolist()):
            if i == 0:
                name = f"{target.name} {n + 1}"
                sources.append(source_of(models, moved[n], name))
            elif value < lowest[n]:
                latents, picture = moved[n].detach().cpu(), to_pil(images[n].detach())
                sources[n] = dataclasses.replace(
                    sources[n], w=latents, inversion=picture, crop=picture, fine=None
                )
            lowest[n] = min(lowest[n], value)
        shown = i % options.preview_every == 0 or i == options.steps
        preview = to_uint8(images.detach()) if shown else None
        total = each.mean().item()
        del moved, images, e, each, loss  # the graph is not kept while the caller has us
        if i == options.steps:
            sources = [with_fine_picture(models, source) for source in sources]
        yield Step(i + 1, options.steps + 1, tuple(sources), {"total": total}, preview)


@torch.no_grad()
def mapped_faces(
    models: ModelSet, target: Target, options: ImagineOptions
) -> tuple[Tensor, Tensor]:
    """w+ [N, L, D] of faces around the mapped target, and the embeddings [N, E] that they should
    have.

    Each starts from a random face, that of a few which is nearest to the target. What its embedding
    has beside the target is the face's own, and so is what no embedding says of its w; `variety` is
    how much of both is kept.
    """
    mapper, generator = mapper_of(models), models.generator
    random = torch.Generator().manual_seed(options.seed)
    z = torch.randn(options.count * CANDIDATES, models.latent_shape[1], generator=random)
    w = generator.mapping(z.to(models.device))
    pictures = (models.images(part) for part in generator.repeat(w).split(models.render_batch))
    own = mapper.residual(torch.cat([models.encode(part).float() for part in pictures]))  # [M, E]
    wanted = mapper.residual(target.embedding.to(own))
    if target.picture is None:
        wanted = wanted * (WORDS_REACH * mapper.spread / wanted.norm()).clamp(max=1)
    along = F.normalize(wanted, dim=0)
    near = (F.normalize(own, dim=1) @ along).view(options.count, CANDIDATES).argmax(1)
    chosen = near + CANDIDATES * torch.arange(options.count, device=near.device)
    w, own = w[chosen], own[chosen]

    beside = own - (own @ along)[:, None] * along
    mean = generator.latent_avg.mean(0)
    unsaid = w - mean - mapper(own)
    goal = wanted + options.variety * beside
    w = mean + options.truncation * (mapper(goal) + options.variety * unsaid)
    return generator.repeat(w), mapper.centre + goal
