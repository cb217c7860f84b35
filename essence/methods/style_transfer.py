"""Style transfer by Gatys, Ecker and Bethge (2016, CVPR, "Image Style Transfer Using Convolutional
Neural Networks"): the rival of the paper's figure 1 that knows no generator.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor, nn

from ..errors import UserError
from ..models.identity import face_descriptor
from ..models.model_set import ModelSet
from ..pictures.tensors import resample, to_tensor, to_uint8
from ..values import Essence, Pictures, Source, Step, Target
from .base import check_at_least, check_loss, latents_of, provenance
from .blends import falling, require_picture

NETWORKS = ("auto", "vgg19", "face")
# Layers of torchvision's VGG-19 behind whose ReLU maps are taken: conv1_1, 2_1, 3_1, 4_1, 5_1 for
# the style, conv4_2 for the content (paper, section 3).
VGG_STYLE, VGG_CONTENT = (1, 6, 11, 20, 29), 22
FACE_CONTENT = 2  # the stage of the face network that is about as deep as conv4_2
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
PICTURES_AT_ONCE = 8

# Pictures [B, 3, H, W] in [-1, 1] to the maps of the style and the map of the content.
Maps = Callable[[Tensor], tuple[list[Tensor], Tensor]]


@dataclass(frozen=True)
class GatysOptions:
    steps: int = 60
    seed: int = 0  # nothing is random in it: it starts from the source, as the paper's code does
    # "vgg19": torchvision's, downloaded where it is not here. "face": dlib's face network, which is
    # always here and no published baseline. "auto": VGG-19 where its weights are on this machine.
    network: str = "auto"
    style: float = 30.0  # weight of the style against the content's 1
    learning_rate: float = 0.02  # of pixels in [-1, 1]
    preview_every: int = 10

    def __post_init__(self) -> None:
        if self.network not in NETWORKS:
            raise UserError(f"network must be one of {', '.join(NETWORKS)}, not '{self.network}'.")
        check_at_least(self, 1, "steps", "preview_every")
        check_at_least(self, 0, "style", "learning_rate")


def gatys(
    models: ModelSet,
    target: Target,
    sources: Sequence[Source],
    options: GatysOptions = GatysOptions(),  # noqa: B008 - frozen
    start: Essence | None = None,
) -> Iterator[Step]:
    """Move each source's pixels until the Gram matrices of their feature maps are the target's
    while one deep map stays. Both losses are relative to the norm of what they compare with, so
    that every layer and every network counts alike; Adam instead of L-BFGS, for a batch. "total"
    is content + style * Gram loss, the mean over the sources. Raises UserError for a target of
    words, or without VGG-19's weights where they are asked for.
    """
    picture = require_picture(target, "Style transfer")
    name, maps_of = feature_maps(options.network, models)
    known = provenance(options) | {"network": name}
    with torch.no_grad():
        z = latents_of(models, sources)
        photos = torch.cat([models.images(part) for part in z.split(models.render_batch)])
        painting = resample(to_tensor(picture).to(photos), models.size, "antialias")
        styles = [gram(each) for each in maps_of(painting)[0]]
        contents = torch.cat([maps_of(part)[1] for part in photos.split(PICTURES_AT_ONCE)])
    x = photos.clone().requires_grad_()
    adam = torch.optim.Adam([x], lr=options.learning_rate)

    for i in range(options.steps):
        total = 0.0
        for rows in torch.arange(len(x)).split(PICTURES_AT_ONCE):
            maps, content = maps_of(x[rows])
            kept = relative(content, contents[rows])
            worn = torch.stack([relative(gram(m), g) for m, g in zip(maps, styles, strict=True)])
            loss = (kept + options.style * worn.mean(0)).sum()
            loss.backward()
            total += loss.item() / len(x)
        check_loss(total, None, target)
        adam.param_groups[0]["lr"] = options.learning_rate * falling(i / options.steps)
        adam.step()
        adam.zero_grad(set_to_none=True)
        with torch.no_grad():
            x.clamp_(-1, 1)
        shown = i % options.preview_every == 0 or i + 1 == options.steps
        if shown:
            images = to_uint8(x)
            result = Pictures(images, target.name, "gatys", known, target.picture)
        yield Step(i + 1, options.steps, result, {"total": total}, images if shown else None)


def gram(maps: Tensor) -> Tensor:
    """Gram matrices [B, C, C] of maps [B, C, H, W], means over space (paper eq. 3)."""
    flat = maps.flatten(2)
    return flat @ flat.transpose(1, 2) / flat.shape[2]


def relative(found: Tensor, wanted: Tensor) -> Tensor:
    """|found - wanted|^2 / |wanted|^2 of each picture, [B]; `wanted` has one row for all, or one
    for each.
    """
    missed = (found - wanted).flatten(1).square().sum(1)
    return missed / wanted.flatten(1).square().sum(1).clamp(min=1e-12)


# ---- feature maps


def network_name(network: str = "auto") -> str:
    """One of NETWORKS as it belongs beside every figure: "VGG-19", or "face network", which is no
    published baseline.
    """
    vgg = network == "vgg19" or (network == "auto" and vgg19_file().is_file())
    return "VGG-19" if vgg else "face network"


def feature_maps(network: str, models: ModelSet) -> tuple[str, Maps]:
    """The name of one of NETWORKS and its maps. Raises UserError where "vgg19" cannot be had."""
    name = network_name(network)
    if name == "VGG-19":
        return name, vgg19_maps(vgg19())

    faces = models.identity or face_descriptor().to(models.device)

    def maps(images: Tensor) -> tuple[list[Tensor], Tensor]:
        stages = faces.features(images)
        return stages, stages[FACE_CONTENT]

    return name, maps


def vgg19_maps(features: nn.Sequential) -> Maps:
    """Maps of torchvision's `vgg19().features`."""

    def maps(images: Tensor) -> tuple[list[Tensor], Tensor]:
        mean, std = (
            torch.tensor(v).to(images).view(3, 1, 1) for v in (IMAGENET_MEAN, IMAGENET_STD)
        )
        x, found = ((images + 1) / 2 - mean) / std, {}
        for i, layer in enumerate(features[: VGG_STYLE[-1] + 1].to(images.device)):
            x = found[i] = layer(x)
        return [found[i] for i in VGG_STYLE], found[VGG_CONTENT]

    return maps


def vgg19_file() -> Path:
    """Where torchvision keeps VGG-19's weights on this machine."""
    from torchvision.models import VGG19_Weights  # heavy

    url = VGG19_Weights.IMAGENET1K_V1.url
    return Path(torch.hub.get_dir()) / "checkpoints" / url.rpartition("/")[2]


@lru_cache(maxsize=1)
def vgg19() -> nn.Sequential:
    """VGG-19's convolutions with ImageNet's weights (549 MB, once), frozen. Raises UserError."""
    from torchvision.models import VGG19_Weights
    from torchvision.models import vgg19 as build

    try:
        network = build(weights=VGG19_Weights.IMAGENET1K_V1)
    except (OSError, RuntimeError) as error:
        raise UserError(
            f"VGG-19's weights cannot be had ({error}): put torchvision's file at {vgg19_file()}, "
            "or take network='face'."
        ) from None
    for layer in network.features:
        if isinstance(layer, nn.ReLU):
            layer.inplace = False  # maps are kept
    return network.features.eval().requires_grad_(False)
