"""A model set by name or path to a `ModelSet`: files checked, networks loaded, the latents' axes
measured where nobody brought them.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Callable
from pathlib import Path

import torch

from .. import ops
from ..errors import BadFile, UserError
from ..models import latents
from ..models.clip import ImageText, import_open_clip
from ..models.e4e import Inverter, MeanInverter
from ..models.identity import face_descriptor
from ..models.latents import LatentAxes
from ..models.model_set import ModelSet
from ..models.stylegan2 import Generator
from ..runtime import folders
from . import checkpoints, download
from . import manifest
from .manifest import WEIGHTS, ModelSpec, ModelFile, model_sets, verified_path

Progress = Callable[[str, int, int], None]  # what is being done, how much of it, of how much
PUBLIC_CLIP = "ffhq"  # the set whose image-text encoder serves a model that brings none
log = logging.getLogger(__name__)


def default_model() -> str:
    """The model set where none is asked for: the public faces where a GPU and their files are, else
    the bundled one.
    """
    return "ffhq" if torch.cuda.is_available() and not model_sets()["ffhq"].missing else "mini"


def load_model_set(
    model: str | None = None,
    device: str | torch.device = "cpu",
    half: bool | None = None,
    progress: Progress | None = None,
) -> ModelSet:
    """A whole model set, by name or path. `half`: bfloat16 where it is safe; None: where it is
    faster. Raises UserError.
    """
    entry = manifest.find_model_set(model or default_model())
    if entry.missing and may_download(entry):
        download.download_files(entry, progress=progress)
        entry = manifest.find_model_set(entry.name)
    require_files(entry)
    import_open_clip()
    generator = checkpoints.load_generator(verified_path(entry.components["generator"])).to(device)
    mark = fingerprint(generator)
    half = ops.bfloat16_pays(device) if half is None else half
    clip, identity = (
        _clip(entry).to(device),
        face_descriptor().to(device) if entry.aligned == "face" else None,
    )
    models = ModelSet(
        entry.name,
        f"{entry.name}-{mark}",
        generator,
        _inverter(entry, generator).to(device),
        clip,
        identity,
        _latents(entry, generator, mark, progress),
        half,
        entry.deltas,
    )
    models.use_fast_layout()
    return models


def require_files(entry: ModelSpec) -> None:
    """Raise UserError unless what nobody can do without is here."""
    if "generator" not in entry.components:
        raise UserError(
            f"'{entry.name}' has no generator: name it generator.safetensors, .pt or .pkl."
        )
    if entry.missing_required:
        part = entry.missing_required[0]
        raise UserError(
            f"The {part} of '{entry.name}' is not here ({entry.components[part].path.name}): run `{entry.fetch_command}`."
        )


def may_download(entry: ModelSpec) -> bool:
    """Whether it may be fetched unasked."""
    return entry.fetch_on_space and bool(os.environ.get("SPACE_ID"))


def _inverter(entry: ModelSpec, generator: Generator) -> Inverter | MeanInverter:
    part, ours = entry.components.get("inverter"), entry.components["generator"]
    if (
        part is not None
        and part.present
        and (part.path != ours.path or checkpoints.holds_inverter(part.path))
    ):
        inverter = checkpoints.load_inverter(verified_path(part))
        got, wanted = (
            list(inverter.latent_avg.shape),
            [generator.config.layers, generator.config.style_dim],
        )
        if got != wanted:
            raise BadFile(
                f"The inverter of '{entry.name}' gives latents {got}; its generator takes {wanted}. They do not belong together."
            )
        return inverter
    log.warning(
        "'%s' has no inverter: photographs start from the mean picture and take more refinement (--refine 300).",
        entry.name,
    )
    return MeanInverter(generator.latent_avg)


def _clip(entry: ModelSpec) -> ImageText:
    part = entry.components.get("clip") or model_sets()[PUBLIC_CLIP].components["clip"]
    if not part.present:
        log.warning(
            "'%s' brings no image-text encoder: the bundled one, made for faces, serves. "
            "The public one comes with `python -m essence fetch %s --part clip`.",
            entry.name,
            PUBLIC_CLIP,
        )
        part = model_sets()["mini"].components["clip"]
    return checkpoints.load_clip(verified_path(part), part.open_clip)


def _latents(
    entry: ModelSpec, generator: Generator, mark: str, progress: Progress | None
) -> LatentAxes | None:
    """From the set's own file; else from 10^6 samples of the mapping network, kept beside the
    generator under the hash of its weights.
    """
    device = generator.latent_avg.device
    if "latents" in entry.components and entry.components["latents"].present:
        return checkpoints.load_latents(verified_path(entry.components["latents"])).to(device)
    if generator.config.n_mlp == 0:
        return None
    name = f"latents-{mark}.safetensors"
    beside, aside = entry.components["generator"].path.with_name(name), folders.cache_folder() / name
    kept = next((path for path in (beside, aside) if path.is_file()), None)
    if kept is None:
        kept = beside if folders.is_writable(beside) else aside
        _measure(generator, entry.name, kept, progress)
    return checkpoints.load_latents(kept).to(device)


def _measure(generator: Generator, name: str, path: Path, progress: Progress | None) -> None:
    def tell(done: int, total: int) -> None:
        if progress is not None:
            progress(f"measuring the latents of {name}, once", done, total)

    width, device = generator.config.style_dim, generator.latent_avg.device
    mean, covariance = latents.mean_and_covariance(generator.mapping, width, device, latents.SAMPLES, tell)
    checkpoints.save_latents(mean, covariance, path, latents.SAMPLES)


def fingerprint(generator: torch.nn.Module) -> str:
    """Eight digits that tell one generator's weights from another's, the same whether they were
    stored in full or half precision.
    """
    digest = hashlib.sha256()
    for name, value in sorted(generator.state_dict().items()):
        digest.update(f"{name}{tuple(value.shape)}".encode())
        digest.update(value.cpu().half().numpy().tobytes())
    return digest.hexdigest()[:8]
