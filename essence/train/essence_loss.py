"""What an essence encoder is trained against: the frozen networks and the losses of the paper."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..library.checkpoints import load_generator, load_latents
from ..library.clip_files import load_clip
from ..library.components import fingerprint
from ..methods import losses
from ..models.clip import import_open_clip
from ..models.e4e import MeanInverter
from ..models.identity import CHIP, face_chip, face_descriptor
from ..models.latents import LatentAxes, move
from ..models.model_set import ModelSet
from ..ops import bfloat16_pays
from .essence_data import Batch, EssenceOptions
from .inverter_encoder import rooted_basis

TERMS = ("total", "transfer", "consistency", "identity", "norm", "penalty", "distance")


def load_models(options: EssenceOptions, device: str) -> tuple[ModelSet, dict[str, str]]:
    """The frozen networks that the losses are measured with, and the fingerprints of generator and
    image-text encoder.
    """
    import_open_clip()
    generator = load_generator(options.generator).to(device)
    clip = load_clip(options.clip).to(device)
    bound = {"generator": fingerprint(generator), "clip": fingerprint(clip.model.visual)}
    models = ModelSet(
        "training",
        bound["generator"],
        generator,
        MeanInverter(generator.latent_avg),
        clip,
        face_descriptor().to(device) if options.lambda_identity else None,
        load_latents(options.latents).to(device),
        half=options.half and bfloat16_pays(device),
    )
    models.use_fast_layout()
    return models, bound


def basis(options: EssenceOptions, axes: LatentAxes) -> Tensor | None:
    """What the network's numbers count along, [K, D]; None: it speaks in W+."""
    return None if options.space == "w+" else rooted_basis(axes)


class EssenceLoss:
    """The losses of the paper's two variants (eq. 6-8) for B targets, each with N sources of its
    own.
    """

    def __init__(self, options: EssenceOptions, models: ModelSet):
        self.options, self.models = options, models
        least = max(models.clip.size, CHIP if models.has_faces else 0)
        sides = models.generator.config.resolutions
        self.resolution = next((side for side in sides if side >= least), models.size)
        self.basis = basis(options, models.latents)

    def essence(self, raw: Tensor) -> Tensor:
        """What the network says, [B, L, K] along the basis or [B, L, D], as b [B, L, D]."""
        return raw if self.basis is None else raw @ self.basis

    def __call__(self, raw: Tensor, batch: Batch) -> Tensor:
        """The terms of the loss, one for each of TERMS."""
        options, models, b = self.options, self.models, self.essence(raw)
        z = models.generator.repeat(batch.w)  # [P, L, D]
        with torch.no_grad():
            e_t = models.encode(batch.picture)
            e, descriptors = self.look(z)
        edited = move(z[batch.chosen], b[:, None], models.latents, options.reach or None)
        e_edited, descriptors_edited = self.look(edited.flatten(0, 1))
        count = options.sources
        goals = e_t[:, None].expand(-1, count, -1).flatten(0, 1)
        transfer = losses.transfer(e_edited, goals)
        e_edited = F.normalize(e_edited, dim=-1).unflatten(0, (-1, count))
        consistency = losses.consistency(e_edited - F.normalize(e, dim=-1)[batch.chosen])
        identity = distance = transfer.new_zeros(())
        if descriptors is not None:
            moved = descriptors_edited.unflatten(0, (-1, count)) - descriptors[batch.chosen]
            distance = moved.norm(dim=-1)
            identity = F.relu(distance - options.distance).square().mean()
        norm, penalty = b.flatten(1).norm(dim=1).mean(), self.penalty(b)
        total = (
            options.lambda_transfer * transfer
            + options.lambda_consistency * consistency
            + options.lambda_identity * identity
            + options.lambda_norm * norm
            + options.penalty * penalty
        )
        terms = [total, transfer, consistency, identity, norm, penalty, distance.mean()]
        return torch.stack(terms)

    def look(self, w: Tensor) -> tuple[Tensor, Tensor | None]:
        """Embeddings [N, E] and face descriptors [N, 128] of the pictures of w+ [N, L, D]."""
        models = self.models
        images = models.images(w, self.resolution)
        if models.identity is None:
            return models.encode(images), None
        with models.precision():
            return models.encode(images), models.identity(face_chip(images))

    def penalty(self, b: Tensor) -> Tensor:
        """|u|^2 + layer_penalty * mean over layers of |v|^2, u + v split as is cheapest; the mean
        over the targets (docs/METHOD.md, section 8).
        """
        options = self.options
        coordinates = self.models.latents.coordinates(b)
        share = options.layer_penalty / (1 + options.layer_penalty)
        u = share * coordinates.mean(1, keepdim=True)
        return losses.deviation(u, coordinates - u, options.layer_penalty).mean()
