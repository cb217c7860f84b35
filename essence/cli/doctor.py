"""Versions, device, models."""

from __future__ import annotations

import argparse
import platform
from importlib import metadata

import torch

from .. import ops
from ..library import loading, manifest
from ..runtime import hardware
from .inputs import add_model_arguments

PACKAGES = ("torch", "gradio", "open_clip_torch", "face_recognition_models", "pillow", "numpy")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_model_arguments(parser)


def run(arguments: argparse.Namespace) -> dict:
    device = hardware.device(arguments.device)
    device_name = device
    if device.startswith("cuda") and torch.cuda.is_available():
        device_name = f"cuda ({torch.cuda.get_device_name()})"
    sets = manifest.model_sets()
    if arguments.model and arguments.model not in sets:
        sets[arguments.model] = manifest.find_model_set(arguments.model)
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "device": device_name,
        "precision": "bfloat16" if ops.bfloat16_pays(device) else "float32",
        "ops": ops.backend(),
        **{package: package_version(package) for package in PACKAGES},
        "dlib": package_version("dlib-bin") or package_version("dlib"),
        "default model": loading.default_model(),
        **{
            f"{name}.{part}": describe_file(file, name)
            for name, models in sets.items()
            for part, file in models.components.items()
        },
    }


def describe_file(file: manifest.ModelFile, name: str) -> str:
    """Whether the file of the model set `name` is here and checked, or where it would come from."""
    if not file.present:
        first = file.sources[0].address if file.sources else "nowhere known"
        return f"not here; `python -m essence fetch {name}` would get it from {first}"
    checked = "sha256 unknown"
    if file.sha256:
        checked = "sha256 in the manifest"
    elif file.recorded_sha256:
        checked = "sha256 as seen when fetched"
    return f"present, {file.file}, {file.path.stat().st_size / 1e6:.1f} MB, {checked}"


def package_version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
