"""The kinds of component that a model set is made of, in one table.

The manifest, folders of one's own, downloads, `convert`, loading and `fetch --part` all follow
`COMPONENTS`: a new kind of model is one entry here.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import nn

from ..errors import BadFile
from ..models import latents
from ..models.clip import ImageText
from ..models.e4e import EssenceEncoder, Inverter, MeanInverter
from ..models.finer_level import FinerLevel
from ..models.latents import LatentAxes
from ..models.mapper import Mapper
from ..models.stylegan2 import Generator
from ..runtime import folders
from . import checkpoints, clip_files
from .model_files import ModelFile, Progress

# Whose image-text encoder serves a set that brings none: the public one, else the bundled one.
PUBLIC_SET, BUNDLED_SET = "ffhq", "mini"

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class LoadContext:
    """What a component may need to know of the others while its model set is loaded."""

    # Of the model set.
    name: str
    generator_path: Path
    # The files of the manifest's model sets: set -> kind -> file.
    published: Mapping[str, Mapping[str, ModelFile]] = field(default_factory=dict)
    progress: Progress | None = None
    # Kind -> component, on the device, in the order of COMPONENTS.
    loaded: dict[str, Any] = field(default_factory=dict)

    @property
    def generator(self) -> Generator:
        return self.loaded["generator"]

    @cached_property
    def fingerprint(self) -> str:
        """Of the generator."""
        return fingerprint(self.generator)


@dataclass(frozen=True)
class Component:
    """How one kind of component is read, written, checked, and replaced where a set has none."""

    # A file to the component, frozen, on the CPU; raises BadFile for any other file. It also
    # decides whether a download without a published hash is what it should be.
    load: Callable[[Path, ModelFile], Any]
    # The component, as `load` gave it, to a .safetensors file; True: in 16 bits where the
    # numbers bear it.
    save: Callable[[Any, Path, bool], None]
    # A set that names a file of this kind cannot be loaded without that file.
    required: bool = False
    # For kinds that share a public checkpoint: whether this one is inside. Such a checkpoint
    # can be converted. Raises BadFile.
    found_in: Callable[[Path], bool] | None = None
    # Whether it belongs to the components before it. Raises BadFile.
    check: Callable[[Any, LoadContext], None] | None = None
    # What serves where the set brings none; None: the set goes without it.
    stand_in: Callable[[LoadContext], Any] | None = None


def _check_inverter(inverter: Inverter, context: LoadContext) -> None:
    config = context.generator.config
    given, wanted = list(inverter.latent_avg.shape), [config.layers, config.style_dim]
    if given != wanted:
        raise BadFile(
            f"The inverter of '{context.name}' gives latents {given}; its generator takes "
            f"{wanted}. They do not belong together."
        )


def _mean_inverter(context: LoadContext) -> MeanInverter:
    log.warning(
        "'%s' has no inverter: photographs start from the mean picture and take more refinement "
        "(--refine 300).",
        context.name,
    )
    return MeanInverter(context.generator.latent_avg)


def _save_clip(clip: ImageText, path: Path, half: bool) -> None:
    clip_files.save_clip(clip.config, clip.model.state_dict(), path, half, clip.name)


def _shared_clip(context: LoadContext) -> ImageText:
    """The public encoder where it is on this machine, else the bundled one."""
    file = context.published[PUBLIC_SET]["clip"]
    if not file.present:
        log.warning(
            "'%s' brings no image-text encoder: the bundled one, made for faces, serves. "
            "The public one comes with `python -m essence fetch %s --part clip`.",
            context.name,
            PUBLIC_SET,
        )
        file = context.published[BUNDLED_SET]["clip"]
    return clip_files.load_clip(file.verified_path(), file.open_clip)


def _save_axes(axes: LatentAxes, path: Path, half: bool) -> None:
    checkpoints.save_latents(axes.mean, axes.axes.T @ axes.axes, path, samples=0)


def _measured_axes(context: LoadContext) -> LatentAxes | None:
    """From 10^6 samples of the mapping network, kept beside the generator (or in the cache) under
    the hash of its weights. None for a generator without a mapping network.
    """
    generator = context.generator
    if generator.config.n_mlp == 0:
        return None
    name = f"latents-{context.fingerprint}.safetensors"
    beside, writable = context.generator_path.with_name(name), folders.writable_cache_folder()
    places = (beside, folders.cache_folder() / name, writable / name)
    path = next((place for place in places if place.is_file()), None)
    if path is None:
        path = beside if folders.is_writable(beside) else writable / name

        def tell(done: int, total: int) -> None:
            if context.progress is not None:
                context.progress(f"measuring the latents of {context.name}, once", done, total)

        mean, covariance = latents.mean_and_covariance(
            generator.mapping,
            generator.config.style_dim,
            generator.latent_avg.device,
            latents.SAMPLES,
            tell,
        )
        checkpoints.save_latents(mean, covariance, path, latents.SAMPLES)
    return checkpoints.load_latents(path)


def _check_bound(
    name: str, recipe: str, component: Mapper | EssenceEncoder | FinerLevel, context: LoadContext
) -> None:
    """What was trained with one generator, and with one image-text encoder's image side where it
    says so, works with those alone. The text side may be taught anew.
    """
    bound = [("generator", context.generator, component.generator)]
    if wanted := getattr(component, "clip", ""):
        bound.append(("image-text encoder", context.loaded["clip"].model.visual, wanted))
    for kind, network, wanted in bound:
        found = fingerprint(network)
        if wanted and wanted != found:
            raise BadFile(
                f"The {name} of '{context.name}' was trained for another {kind} ({wanted}; this "
                f"one is {found}): train one for it (`python -m essence train {recipe}`)."
            )


def _check_finer(level: FinerLevel, context: LoadContext) -> None:
    if level.config != context.generator.config.finer(level.config.channels):
        raise BadFile(
            f"The finer level of '{context.name}' makes pictures of {level.config.size} pixels on "
            "another generator's feature maps. They do not belong together."
        )
    _check_bound("finer level", "finer", level, context)


def _check_mapper(mapper: Mapper, context: LoadContext) -> None:
    _check_bound("mapper", "mapper", mapper, context)


def _check_essence(essence: EssenceEncoder, context: LoadContext) -> None:
    config, wanted = essence.encoder.config, context.generator.config
    if (config.layers, config.style_dim) != (wanted.layers, wanted.style_dim):
        raise BadFile(
            f"The essence encoder of '{context.name}' gives essences "
            f"{[config.layers, config.style_dim]}; its generator takes "
            f"{[wanted.layers, wanted.style_dim]}. They do not belong together."
        )
    _check_bound("essence encoder", "essence", essence, context)


# In the order in which they are loaded: the generator first, since the others must fit it.
COMPONENTS: dict[str, Component] = {
    "generator": Component(
        load=lambda path, file: checkpoints.load_generator(path),
        save=checkpoints.save_generator,
        required=True,
        found_in=checkpoints.holds_generator,
    ),
    "finer": Component(
        load=lambda path, file: checkpoints.load_finer_level(path),
        save=checkpoints.save_finer_level,
        check=_check_finer,
    ),
    "inverter": Component(
        load=lambda path, file: checkpoints.load_inverter(path),
        save=checkpoints.save_inverter,
        found_in=checkpoints.holds_inverter,
        check=_check_inverter,
        stand_in=_mean_inverter,
    ),
    "clip": Component(
        load=lambda path, file: clip_files.load_clip(path, file.open_clip),
        save=_save_clip,
        required=True,
        stand_in=_shared_clip,
    ),
    "latents": Component(
        load=lambda path, file: checkpoints.load_latents(path),
        save=_save_axes,
        stand_in=_measured_axes,
    ),
    "mapper": Component(
        load=lambda path, file: checkpoints.load_mapper(path),
        save=checkpoints.save_mapper,
        check=_check_mapper,
    ),
    "essence": Component(
        load=lambda path, file: checkpoints.load_essence_encoder(path),
        save=checkpoints.save_essence_encoder,
        check=_check_essence,
    ),
    # Judges essences, and takes no part in learning them.
    "judge": Component(
        load=lambda path, file: checkpoints.load_judge(path),
        save=checkpoints.save_judge,
    ),
}


def fingerprint(network: nn.Module) -> str:
    """Eight digits that tell one network's weights from another's, the same whether they were
    stored in full or half precision.
    """
    digest = hashlib.sha256()
    for name, value in sorted(network.state_dict().items()):
        digest.update(f"{name}{tuple(value.shape)}".encode())
        digest.update(value.cpu().half().numpy().tobytes())
    return digest.hexdigest()[:8]
