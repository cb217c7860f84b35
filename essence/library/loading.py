"""A model set by name or path to a `ModelSet`: files checked, networks loaded, the latents' axes
measured where nobody brought them.
"""

from __future__ import annotations

import os
from typing import Any

import torch

from .. import ops
from ..errors import UserError
from ..models.identity import face_descriptor
from ..models.model_set import CORE_COMPONENTS, ModelSet
from ..runtime.device_queue import in_background
from . import download, manifest
from .components import BUNDLED_SET, COMPONENTS, PUBLIC_SET, LoadContext, fingerprint
from .manifest import ModelSpec
from .model_files import Progress

__all__ = [
    "Progress",
    "default_model",
    "fingerprint",
    "load_model_set",
    "may_download",
    "require_files",
]

# What inverts photographs and edits pictures.
PICTURES_ALONE = ("generator", "finer", "inverter", "latents")


def default_model() -> str:
    """The model set where none is asked for: the public faces where a GPU and their files are, else
    the bundled one.
    """
    public = torch.cuda.is_available() and not manifest.model_sets()[PUBLIC_SET].missing
    return PUBLIC_SET if public else BUNDLED_SET


def load_model_set(
    model: str | None = None,
    device: str | torch.device = "cpu",
    half: bool | None = None,
    progress: Progress | None = None,
    pictures_alone: bool = False,
) -> ModelSet:
    """A model set, by name or path, on `device`.

    `half`: bfloat16 where it is safe; None: where it is faster. `progress(what, done, total)` is
    called during long work. `pictures_alone`: load no more than inverting and editing take. Raises
    UserError.
    """
    spec = manifest.find_model_set(model or default_model())
    if spec.missing and may_download(spec):
        download.download_files(spec, progress=progress)
        spec = manifest.find_model_set(spec.name)
    require_files(spec)
    if torch.device(device).type == "cuda":
        in_background(ops.compile_kernels)  # meanwhile; who needs them first waits for them
    published = {name: other.components for name, other in manifest.model_sets().items()}
    generator_path = spec.components["generator"].path
    context = LoadContext(spec.name, generator_path, published, progress)
    for kind in PICTURES_ALONE if pictures_alone else COMPONENTS:
        component = _load_component(kind, spec, context)
        if component is not None:
            context.loaded[kind] = component.to(device)
    loaded = context.loaded
    if "finer" in loaded:
        context.generator.grow(loaded["finer"])
    models = ModelSet(
        name=spec.name,
        id=f"{spec.name}-{context.fingerprint}",
        **{kind: loaded.get(kind) for kind in CORE_COMPONENTS},
        identity=face_descriptor().to(device) if spec.aligned == "face" else None,
        half=ops.bfloat16_pays(device) if half is None else half,
        deltas=spec.deltas,
        extras={kind: value for kind, value in loaded.items() if kind not in CORE_COMPONENTS},
    )
    models.use_fast_layout()
    return models


def require_files(spec: ModelSpec) -> None:
    """Raise UserError unless what the set cannot do without is on this machine."""
    for kind, component in COMPONENTS.items():
        if component.required and component.stand_in is None and kind not in spec.components:
            raise UserError(
                f"'{spec.name}' has no {kind}: name it {kind}.safetensors, .pt or .pkl."
            )
    for kind in spec.missing_required:
        file = spec.components[kind].path.name
        raise UserError(
            f"The {kind} of '{spec.name}' is not here ({file}): run `{spec.fetch_command}`."
        )


def may_download(spec: ModelSpec) -> bool:
    """Whether its files may be downloaded unasked."""
    return spec.fetch_on_space and bool(os.environ.get("SPACE_ID"))


def _load_component(kind: str, spec: ModelSpec, context: LoadContext) -> Any:
    """From the set's own file, else what stands in for it; None where nothing does."""
    component, file = COMPONENTS[kind], spec.components.get(kind)
    present = file is not None and file.present
    if present and kind != "generator" and file.path == context.generator_path:
        # One checkpoint for several: whether this kind is inside shows only when it is read.
        present = component.found_in is not None and component.found_in(file.path)
    if not present:
        return component.stand_in(context) if component.stand_in else None
    value = component.load(file.verified_path(), file)
    if component.check is not None:
        component.check(value, context)
    return value
