"""Files as tensors and text: read without running anything from them, written whole or not at
all.
"""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from ..errors import BadFile
from ..runtime.files import write_bytes

HEADER = "essence"  # the key of our JSON in a safetensors header
# A broken or hostile file fails in as many ways as its reader has lines, memory errors of a lying
# header included.
BROKEN = Exception
# Numbers of a tensor from which on its size is compared with what the file holds.
MANY = 1 << 24


def read_safetensors(path: str | Path) -> tuple[dict[str, Tensor], dict]:
    """Tensors and our header ({} where there is none)."""
    path = existing(path)
    try:
        with safe_open(path, framework="pt") as file:
            header = json.loads((file.metadata() or {}).get(HEADER, "{}"))
            names = file.keys()
            tensors = {name: file.get_tensor(name) for name in names}
    except BROKEN as error:
        raise BadFile(
            f"{path.name} is no intact safetensors file ({reason(error)}). "
            "Copy or download it again."
        ) from None
    if not isinstance(header, dict):
        raise BadFile(
            f"The header of {path.name} is damaged: "
            f"a {type(header).__name__} where a table should be."
        )
    return tensors, header


def write_safetensors(path: str | Path, tensors: Mapping[str, Tensor], header: Mapping) -> None:
    """Write beside `path` and rename, so that a full disk or a stop never leaves half a file."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    write_bytes(path, save(tensors, metadata={HEADER: json.dumps(header)}))


def read_torch(path: str | Path, lazily: bool = False) -> object:
    """A `.pt` file through torch's loader that accepts tensors and plain values only. `lazily`:
    numbers are read when they are used.
    """
    path = existing(path)
    try:
        zipped = zipfile.is_zipfile(path)
        if zipped and (size := unpacked(path)) > path.stat().st_size:
            raise ValueError(
                f"it holds {size / 1e6:.0f} MB squeezed into {path.stat().st_size / 1e6:.1f} MB"
            )
        value = torch.load(path, map_location="cpu", weights_only=True, mmap=lazily and zipped)
        for tensor in value.values() if isinstance(value, Mapping) else (value,):
            check_whole(tensor)
    except BROKEN as error:
        raise BadFile(
            f"{path.name} is no PyTorch file that can be read safely ({reason(error)})."
        ) from None
    return value


def unpacked(path: Path) -> int:
    """Bytes that a ZIP archive claims to hold; torch writes its own without compression."""
    with zipfile.ZipFile(path) as archive:
        return sum(entry.file_size for entry in archive.infolist())


def check_whole(tensor: object) -> None:
    """Raise ValueError for a tensor of more numbers than the file gives it: a few bytes can claim
    to be terabytes.
    """
    if not isinstance(tensor, Tensor):
        return
    if tensor.layout != torch.strided or tensor.is_meta:
        raise ValueError("one of its tensors is no plain table of numbers")
    if (
        tensor.numel() > MANY
        and tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes()
    ):
        raise ValueError(
            f"one of its tensors claims to be {list(tensor.shape)}, "
            "with fewer numbers than that in the file"
        )


def read_numpy(path: str | Path) -> Tensor:
    path = existing(path)
    try:
        array = np.load(path, allow_pickle=False)
        if not isinstance(array, np.ndarray) or array.dtype.kind not in "fiu":
            raise ValueError(f"it holds {getattr(array, 'dtype', 'an archive')}")
        return torch.from_numpy(np.asarray(array, dtype=np.float32))
    except BROKEN as error:
        raise BadFile(f"{path.name} is no NumPy array of numbers ({reason(error)}).") from None


def reason(error: Exception) -> str:
    """The first line of what a library says, or at least what kind of error it is; never its advice
    to load the file unsafely.
    """
    lines = str(error).strip().splitlines()
    if lines and re.search("pickle|weights.only", lines[0], re.IGNORECASE):
        return "it is another kind of file, or holds Python objects instead of numbers"
    return lines[0][:200] if lines else type(error).__name__


def read_latents(path: str | Path) -> Tensor:
    """Latents of one picture or of many, `.npy` or `.pt`: [L, D] or [N, L, D], to [N, L, D]
    float32. Raises BadFile.
    """
    path = Path(path)
    value = read_numpy(path) if path.suffix.lower() == ".npy" else read_torch(path)
    if isinstance(value, Mapping) and len(value) == 1:
        value = next(iter(value.values()))
    if not isinstance(value, Tensor) or value.ndim not in (2, 3) or not value.is_floating_point():
        shape = list(value.shape) if isinstance(value, Tensor) else type(value).__name__
        raise BadFile(
            f"{path.name} holds no latents [layers, width] or [pictures, layers, width]: {shape}."
        )
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
