"""Folders of this installation and of its user."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

from ..errors import BadFile

PACKAGE = Path(__file__).resolve().parents[1]


def data_folder(name: str) -> Path:
    """`weights` or `assets`: inside an installed package, beside the package in a checkout."""
    inside = PACKAGE / name
    return inside if inside.is_dir() else PACKAGE.parent / name


WEIGHTS, ASSETS = data_folder("weights"), data_folder("assets")


def cache_folder() -> Path:
    """The user's folder for what cannot lie in weights/; ESSENCE_CACHE names another one."""
    from platformdirs import user_cache_path

    own = os.environ.get("ESSENCE_CACHE")
    return Path(own) if own else user_cache_path("essence", appauthor=False)


def is_writable(path: Path) -> bool:
    """Whether a file could be made at `path`: the nearest folder above it that is there may be
    written to.
    """
    folder = next(parent for parent in path.parents if parent.exists())
    return os.access(folder, os.W_OK)


def package_file(name: str) -> Path:
    """A model file of the `face_recognition_models` package, found without importing it (its import
    needs the removed pkg_resources).
    """
    spec = importlib.util.find_spec("face_recognition_models")
    path = Path(spec.origin).parent / "models" / name if spec and spec.origin else None
    if path is None or not path.is_file():
        raise BadFile(f"{name} is missing: run `pip install face_recognition_models`.")
    return path


def bundled(kind: str) -> list[Path]:
    """Example files in assets/: "sources", "targets" or "essences"."""
    return sorted(path for path in (ASSETS / kind).glob("*") if not path.name.startswith("."))
