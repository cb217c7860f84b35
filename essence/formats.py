"""Files as tensors and text: read without running anything from them, written whole or not at all."""

from __future__ import annotations

import json
import os
import pickle
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from .errors import BadFile

HEADER = "essence"  # the key of our JSON in a safetensors header


def read_safetensors(path: str | Path) -> tuple[dict[str, Tensor], dict]:
    """Tensors and our header ({} where there is none)."""
    path = existing(path)
    try:
        with safe_open(path, framework="pt") as file:
            header = json.loads((file.metadata() or {}).get(HEADER, "{}"))
            return {name: file.get_tensor(name) for name in file.keys()}, header  # noqa: SIM118 - not a dict
    except (SafetensorError, ValueError, OSError) as error:
        raise BadFile(f"{path.name} is no intact safetensors file ({error}). Copy or download it again.") from None


def write_safetensors(path: str | Path, tensors: Mapping[str, Tensor], header: Mapping) -> None:
    """Write beside `path` and rename, so that a full disk or a stop never leaves half a file."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    write_bytes(path, save(tensors, metadata={HEADER: json.dumps(header)}))


def write_bytes(path: str | Path, data: bytes) -> None:
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, beside = tempfile.mkstemp(dir=path.parent, prefix=path.name, suffix=".part")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        os.chmod(beside, 0o666 & ~_umask())  # mkstemp makes files for the owner alone
        os.replace(beside, path)
    finally:
        Path(beside).unlink(missing_ok=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def read_torch(path: str | Path, lazily: bool = False) -> object:
    """A `.pt` file through torch's loader that accepts tensors and plain values only. `lazily`: numbers are read when they are used."""
    path = existing(path)
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=lazily and zipfile.is_zipfile(path))
    except (pickle.UnpicklingError, RuntimeError, EOFError, KeyError, zipfile.BadZipFile, OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise BadFile(f"{path.name} is no PyTorch file that can be read safely ({reason}).") from None


def read_numpy(path: str | Path) -> Tensor:
    path = existing(path)
    try:
        array = np.load(path, allow_pickle=False)
        return torch.from_numpy(np.asarray(array, dtype=np.float32))
    except (ValueError, OSError, EOFError, TypeError, AttributeError) as error:
        raise BadFile(f"{path.name} is no NumPy array of numbers ({error}).") from None


def read_latents(path: str | Path) -> Tensor:
    """Latents of one picture or of many, `.npy` or `.pt`: [L, D] or [N, L, D], to [N, L, D] float32. Raises BadFile."""
    path = Path(path)
    value = read_numpy(path) if path.suffix.lower() == ".npy" else read_torch(path)
    if isinstance(value, Mapping) and len(value) == 1:
        value = next(iter(value.values()))
    if not isinstance(value, Tensor) or value.ndim not in (2, 3) or not value.is_floating_point():
        shape = list(value.shape) if isinstance(value, Tensor) else type(value).__name__
        raise BadFile(f"{path.name} holds no latents [layers, width] or [pictures, layers, width]: {shape}.")
    if not torch.isfinite(value).all():
        raise BadFile(f"{path.name} holds numbers that are not finite.")
    return value.detach().float().reshape(-1, *value.shape[-2:])


def existing(path: str | Path) -> Path:
    """The path of a file that is there and not empty. Raises BadFile."""
    path = Path(path)
    if not path.is_file():
        raise BadFile(f"There is no file {path}.")
    if path.stat().st_size == 0:
        raise BadFile(f"{path.name} is empty (0 bytes). Copy or download it again.")
    return path
