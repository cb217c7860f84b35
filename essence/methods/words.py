"""Words as a target: a sentence's place among the embeddings of pictures."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import UserError
from ..models.model_set import ModelSet
from ..pictures.tensors import to_tensor
from ..values import Essence, Target
from .batching import early_resolution

# Texts that say nothing of anybody. Their mean is where texts begin, as the mean embedding of
# pictures is where pictures do; the two are far apart, and to take the one for the other breaks
# every mapped face (docs/METHOD.md, section 3).
NEUTRAL = ("a person", "a face", "a photo of a person", "a portrait of a person")
NEUTRAL_PICTURE = ("a picture", "a photo", "an image", "a picture of something")
CENTRE_SAMPLES = 128
# What a pair of texts is put into, so that their difference is what they mean by themselves: what a
# sentence brings along only beside these words is averaged out (as StyleCLIP's global directions
# are, arXiv 2103.17249, section 6).
CONTEXTS = (
    "{}",
    "a photo of {}",
    "{}, smiling",
    "{}, with brown hair",
    "{}, lit from the left",
    "{}, in front of a dark background",
)
PICTURE_CONTEXTS = ("{}", "a photo of {}", "a picture of {}", "an image of {}")


def text_target(models: ModelSet, text: str, neutral: str = "", name: str = "") -> Target:
    """A target from a sentence: the mean picture's embedding plus what the sentence says more than
    neutral ones do, as a unit vector. With a `neutral` sentence of one's own the difference between
    the two, in the mean over contexts, is kept as a `direction` too. Raises UserError for an empty
    text.
    """
    text, neutral = " ".join(text.split()), " ".join(neutral.split())
    if not text:
        raise UserError("Say what the target looks like: the text is empty.")
    everybody, contexts = NEUTRAL, CONTEXTS
    if not models.has_faces:
        everybody, contexts = NEUTRAL_PICTURE, PICTURE_CONTEXTS
    with torch.no_grad():
        if neutral:
            said, others = (
                models.clip.embed_texts([context.format(one) for context in contexts])
                for one in (text, neutral)
            )
        else:
            said, others = models.clip.embed_texts([text, *everybody]).split([1, len(everybody)])
        direction = said.mean(0) - others.mean(0)
        if direction.norm() < 1e-4:
            raise UserError(f"'{text}' says nothing that '{neutral or everybody[0]}' does not.")
        embedding = F.normalize(picture_centre(models) + direction, dim=0)
    return Target(
        name or text,
        embedding.float().cpu(),
        text=text,
        neutral=neutral,
        direction=direction.float().cpu() if neutral else None,
    )


@torch.no_grad()
def remembered_target(models: ModelSet, essence: Essence) -> Target | None:
    """The target of an essence by what its file keeps of it: its words, or a small picture."""
    if essence.text:
        return text_target(models, essence.text, essence.neutral, essence.name)
    if essence.thumbnail is None:
        return None
    embedding = models.encode(to_tensor(essence.thumbnail))[0]
    return Target(essence.name, embedding.float().cpu(), essence.thumbnail)


def picture_centre(models: ModelSet) -> Tensor:
    """Mean unit embedding [E] of the generator's pictures: the mapper's, else of a few random
    ones.
    """
    if "mapper" in models.extras:
        return models.extras["mapper"].centre

    def compute() -> Tensor:
        side = early_resolution(models)
        z = torch.randn(
            CENTRE_SAMPLES, models.latent_shape[1], generator=torch.Generator().manual_seed(0)
        )
        w = models.generator.repeat(models.generator.mapping(z.to(models.device)))
        parts = [models.encode(models.images(part, side)) for part in w.split(models.render_batch)]
        return F.normalize(torch.cat(parts).float(), dim=1).mean(0)

    return models.cached(("picture centre",), compute)
