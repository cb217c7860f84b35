"""Where results go: looked at before the work, and never lost after it."""

from __future__ import annotations

import errno
import io
import os
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from torch import Tensor

from ..errors import UserError
from ..pictures.saving import FORMATS
from ..runtime import folders
from ..runtime.files import is_stream, write_bytes
from ..values import Essence, Pictures

PICTURES = tuple(FORMATS)
ESSENCE = ".safetensors"
KEPT = "kept"  # folder, in the cache, of results that could not be saved where they should be


def check_output(path: Path, suffixes: Sequence[str], flag: str = "--out") -> None:
    """Raise UserError for a path that could not be written once the work is done."""
    if path.is_dir():
        inside = path / f"result{suffixes[0]}"
        raise UserError(f"{flag} {path} is a folder: name a file in it, such as {inside}.")
    if not is_stream(path):
        check_suffix(path, suffixes, flag)
    try:
        try_to_write(path if is_stream(path) else Path(os.path.realpath(path)))
    except OSError as error:
        raise UserError(f"{flag} {path} cannot be written: {error.strerror or error}.") from None


def try_to_write(path: Path) -> None:
    """Raise OSError where a file cannot be written, leaving everything as it is: that tells more
    than permissions do, of a read-only disk or to root.
    """
    if is_stream(path) or path.exists():
        if not os.access(path, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    else:
        folder = next(parent for parent in path.parents if parent.exists())
        with tempfile.TemporaryFile(dir=folder):
            pass


def check_suffix(path: Path, suffixes: Sequence[str], flag: str = "--out") -> None:
    if path.suffix.lower() not in suffixes:
        *most, last = suffixes
        allowed = f"{', '.join(most)} or {last}" if most else last
        raise UserError(f"{flag} takes a {allowed} file, not '{path.name}'.")


def write_latents(w: Tensor, path: Path) -> None:
    """w+ [L, D], or [N, L, D] of several pictures, as .npy."""
    buffer = io.BytesIO()
    np.save(buffer, w.numpy())
    write_bytes(path, buffer.getvalue())


def save_or_keep(result: Essence | Pictures, path: Path) -> None:
    """Save a result; where that fails, in the cache, or wherever it can be. Raises UserError that
    says where.
    """
    try:
        result.save(path)
    except OSError as error:
        suffix = PICTURES[0] if isinstance(result, Pictures) else ESSENCE
        name = f"{path.stem or 'result'}-{time.strftime('%Y%m%d-%H%M%S')}{suffix}"
        reason = f"{path} cannot be written ({error.strerror or error})"
        for folder in (folders.writable_cache_folder, folders.temporary_folder):
            try:
                kept = folder() / KEPT / name
                result.save(kept)
            except OSError:
                continue
            raise UserError(f"{reason}; the result is kept in {kept}.") from error
        raise UserError(f"{reason}, nor can anything be kept elsewhere.") from error


def output_for_each(out: Path, names: Sequence[str]) -> list[Path]:
    """OUT for one result, OUT-NAME for each of several; where OUT is a folder, files in it."""
    if out.is_dir():
        stems, folder, suffix = list(names), out, ESSENCE
    elif len(names) == 1:
        return [out]
    else:
        stems, folder, suffix = [f"{out.stem}-{name}" for name in names], out.parent, out.suffix
    taken: list[str] = []
    for stem in stems:
        same = sum(each == stem or each.startswith(f"{stem}~") for each in taken)
        taken.append(f"{stem}~{same + 1}" if same else stem)
    return [folder / f"{stem}{suffix}" for stem in taken]
