"""Folders of this installation and of its user."""

from __future__ import annotations

import importlib.util
import os
import stat
import tempfile
from functools import lru_cache
from pathlib import Path

from ..errors import BadFile

PACKAGE = Path(__file__).resolve().parents[1]


def data_folder(name: str) -> Path:
    """`weights` or `assets`: inside an installed package, beside the package in a checkout."""
    inside = PACKAGE / name
    return inside if inside.is_dir() else PACKAGE.parent / name


WEIGHTS, ASSETS = data_folder("weights"), data_folder("assets")


def cache_folder() -> Path:
    """The user's folder for what cannot lie in weights/; ESSENCE_CACHE names another one. It need
    not be there, nor be writable: see `writable_cache_folder`.
    """
    from platformdirs import user_cache_path

    if own := os.environ.get("ESSENCE_CACHE"):
        return Path(own)
    # Without HOME, and with a user id that the system does not know: an error, or from older
    # versions a literal "~".
    try:
        folder = user_cache_path("essence", appauthor=False)
    except RuntimeError:
        return temporary_folder()
    return folder if folder.is_absolute() else temporary_folder()


def writable_cache_folder() -> Path:
    """The cache folder, or a temporary one where nothing can be written there."""
    folder = cache_folder()
    return folder if is_writable(folder / "file") else temporary_folder()


@lru_cache
def temporary_folder() -> Path:
    """A folder that serves instead of the cache, for this user alone: code is loaded from it. The
    same for all processes, unless somebody else holds its name.
    """
    user = os.getuid() if hasattr(os, "getuid") else "user"
    folder = Path(tempfile.gettempdir()) / f"essence-cache-{user}"
    try:
        folder.mkdir(0o700, exist_ok=True)
        found = folder.lstat()
        own = not hasattr(os, "getuid") or (
            found.st_uid == user and stat.S_ISDIR(found.st_mode) and not found.st_mode & 0o022
        )
    except OSError:
        own = False
    return folder if own else Path(tempfile.mkdtemp(prefix="essence-cache-"))


def is_writable(path: Path) -> bool:
    """Whether a file could be made at `path`: the nearest thing above it that is there is a folder
    that may be written to.
    """
    folder = next(parent for parent in path.absolute().parents if parent.exists())
    return folder.is_dir() and os.access(folder, os.W_OK | os.X_OK)


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
