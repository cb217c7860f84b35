"""Who judges an essence: a network that took no part in learning it."""

from __future__ import annotations

import copy
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import UserError
from ..library import manifest
from ..library.components import BUNDLED_SET, COMPONENTS
from ..models.clip import ImageText
from ..models.judge import Judge
from ..models.model_set import ModelSet
from ..pictures.tensors import from_uint8
from ..train.data.judged import JUDGED, judged_attributes
from .essence_measures import target_similarity
from .held_out import at_side, to_channels

LIMIT = 3.0  # standard deviations: beyond, one attribute says no more than at it


class Juror(Protocol):
    """What the report asks."""

    name: str
    # Names of the columns, where they are attributes in standard deviations; else empty.
    attributes: tuple[str, ...]

    def describe(self, pictures: np.ndarray) -> Tensor:
        """uint8 [N, H, W, 3] to [N, K]."""
        ...

    def similarity(self, described: Tensor, target: Tensor) -> Tensor:
        """[N, K] and [K] to [N]; 1 is as like as can be."""
        ...


class FaceJuror:
    """The judge's attributes and those that landmarks and colours measure, in standard deviations
    over people; similarity is their cosine, each weighted by its reliability.
    """

    def __init__(self, judge: Judge):
        # On the CPU, where landmarks are found, wherever the models are.
        self.judge, self.name = copy.deepcopy(judge).cpu(), "judge"
        self.attributes = tuple(judge.config.names)
        if self.attributes != JUDGED:
            raise UserError(
                "The judge was made for other attributes than these: make it again "
                "(`python -m essence train judge`)."
            )
        self.weights = self.judge.reliability

    def describe(self, pictures: np.ndarray) -> Tensor:
        raw = judged_attributes(self.judge, at_side(to_channels(pictures)))
        scores = (raw - self.judge.centre) / self.judge.scale
        return LIMIT * torch.tanh(scores / LIMIT)

    def similarity(self, described: Tensor, target: Tensor) -> Tensor:
        return target_similarity(described * self.weights, target * self.weights)


class EncoderJuror:
    """A second image-text encoder than the one that was optimised."""

    attributes: tuple[str, ...] = ()

    def __init__(self, encoder: ImageText):
        self.encoder, self.name = encoder, encoder.name

    @torch.no_grad()
    def describe(self, pictures: np.ndarray) -> Tensor:
        parts = from_uint8(pictures).split(32)
        return F.normalize(torch.cat([self.encoder.encode(part) for part in parts]), dim=1)

    def similarity(self, described: Tensor, target: Tensor) -> Tensor:
        return target_similarity(described, target)


def juror_for(models: ModelSet, name: str = "") -> Juror | None:
    """An open_clip model by name ("ViT-B-16-SigLIP/webli"; downloaded where it is not here), else
    the set's judge, or the bundled one, for faces; None for pictures of other things. Raises
    UserError.
    """
    if name:
        return EncoderJuror(open_clip_encoder(name))
    if not models.has_faces:
        return None
    judge = models.extras.get("judge")
    if judge is None:
        file = manifest.model_sets()[BUNDLED_SET].components.get("judge")
        if file is None or not file.present:
            return None
        judge = COMPONENTS["judge"].load(file.verified_path(), file)
    return FaceJuror(judge)


def open_clip_encoder(name: str) -> ImageText:
    """An open_clip model "ARCHITECTURE/WEIGHTS" as open_clip itself finds and preprocesses it.
    Raises UserError.
    """
    import open_clip

    architecture, _, weights = name.partition("/")
    if (architecture, weights) not in open_clip.list_pretrained():
        raise UserError(
            f"open_clip knows no model '{name}': name one of open_clip.list_pretrained() as "
            "ARCHITECTURE/WEIGHTS, such as ViT-B-16-SigLIP/webli."
        )
    try:
        model = open_clip.create_model(architecture, pretrained=weights)
        tokenizer = open_clip.get_tokenizer(architecture)
    except Exception as error:  # of the hub, of the network, of the disk: all mean the same here
        raise UserError(f"The model '{name}' cannot be had: {error}") from None
    visual = model.visual
    encoder = ImageText(model, tokenizer, name, visual.image_mean, visual.image_std)
    return encoder.eval().requires_grad_(False)
