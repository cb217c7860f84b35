"""Files as tensors and text: read without running anything from them, written whole or not at
all.
"""

from __future__ import annotations

import json
import re
import threading
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from ..errors import BadFile
from ..runtime.files import write_bytes
from .stand_ins import NUMPY, Array, Options

HEADER = "essence"  # the key of our JSON in a safetensors header
# A broken or hostile file fails in as many ways as its reader has lines, memory errors of a lying
# header included.
BROKEN = Exception
# Numbers of a tensor from which on its size is compared with what the file holds.
MANY = 1 << 24
LARGEST_ARCHIVE = 1 << 30  # bytes that an .npz may unpack to
NUMBERS = "fiu"  # kinds of NumPy's dtypes
# How torch files began before they were ZIP archives: a number, pickled.
TORCH_MAGIC = bytes.fromhex("6cfc9c46f9206aa85019")
BY_SUFFIX = {".safetensors": "safetensors", ".npy": "npy", ".npz": "npz", ".pkl": "pickle"}
# What torch's loader accepts beside its own values, all of it ours.
ACCEPTED = [(Options, "argparse.Namespace"), *((make, name) for name, make in NUMPY.items())]
_accepting = threading.Lock()


def file_format(path: str | Path) -> str:
    """ "safetensors", "torch", "npy", "npz" or "pickle", by a file's bytes, whatever its name is;
    by its name where they say nothing. Raises BadFile.
    """
    path = existing(path)
    with open(path, "rb") as file:
        start = file.read(64)
    if start.startswith(b"PK") and zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            return "npz" if all(n.endswith(".npy") for n in archive.namelist()) else "torch"
    if start.startswith(b"\x93NUMPY"):
        return "npy"
    if start[8:9] == b"{":
        return "safetensors"
    if start.startswith(b"\x80"):
        return "torch" if TORCH_MAGIC in start else "pickle"
    return BY_SUFFIX.get(path.suffix.lower(), "torch")


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
    """A `.pt` file through torch's loader that accepts tensors and plain values only; NumPy's
    arrays become tensors, and the options of a training run are left out. `lazily`: numbers are
    read when they are used.
    """
    path = existing(path)
    try:
        zipped = zipfile.is_zipfile(path)
        if zipped and (size := unpacked(path)) > path.stat().st_size:
            raise ValueError(
                f"it holds {size / 1e6:.0f} MB squeezed into {path.stat().st_size / 1e6:.1f} MB"
            )
        with _stand_ins():
            value = torch.load(path, map_location="cpu", weights_only=True, mmap=lazily and zipped)
        return _settled(value)
    except BROKEN as error:
        raise BadFile(
            f"{path.name} is no PyTorch file that can be read safely ({reason(error)})."
        ) from None


@contextmanager
def _stand_ins() -> Iterator[None]:
    """torch's loader takes `ACCEPTED` as well. Its list belongs to the whole process: one thread at
    a time, and what a host program has put there stays as it is.
    """
    with _accepting:
        theirs = torch.serialization.get_safe_globals()
        with (
            torch.serialization.safe_globals([one for one in ACCEPTED if one not in theirs]),
            warnings.catch_warnings(),
        ):
            warnings.simplefilter("ignore", UserWarning)  # a word on the pickle's protocol
            yield


def _settled(value: object) -> object:
    """Every tensor in tables and lists checked, every array a tensor, in place."""
    whole = {"": value}
    todo: list[dict | list] = [whole]
    seen = {id(whole)}
    while todo:
        table = todo.pop()
        for key, inner in table.items() if isinstance(table, dict) else enumerate(table):
            if isinstance(inner, Array):
                table[key] = inner = inner.tensor
            if isinstance(inner, Tensor):
                check_whole(inner)
            elif isinstance(inner, (dict, list)) and id(inner) not in seen:
                seen.add(id(inner))
                todo.append(inner)
    return whole[""]


def unpacked(path: Path) -> int:
    """Bytes that a ZIP archive claims to hold; torch writes its own without compression."""
    with zipfile.ZipFile(path) as archive:
        return sum(entry.file_size for entry in archive.infolist())


def check_whole(tensor: Tensor) -> None:
    """Raise ValueError for a tensor of more numbers than the file gives it: a few bytes can claim
    to be terabytes.
    """
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


def read_numpy(path: str | Path) -> Tensor | dict[str, Tensor]:
    """A `.npy` file, or the arrays of numbers in an `.npz` archive by their names; float32."""
    path = existing(path)
    try:
        if file_format(path) == "npz" and (size := unpacked(path)) > LARGEST_ARCHIVE:
            raise ValueError(f"unpacked it would be {size / 1e6:.0f} MB")
        content = np.load(path, allow_pickle=False)
        if isinstance(content, np.ndarray):
            return _as_float32(content)
        with content:
            arrays = {name: content[name] for name in content.files}
        return {name: _as_float32(a) for name, a in arrays.items() if a.dtype.kind in NUMBERS}
    except BROKEN as error:
        raise BadFile(f"{path.name} is no NumPy array of numbers ({reason(error)}).") from None


def _as_float32(array: np.ndarray) -> Tensor:
    if array.dtype.kind not in NUMBERS:
        raise ValueError(f"it holds {array.dtype}")
    with np.errstate(over="ignore"):  # what is too large becomes infinite, and is refused as such
        return torch.from_numpy(np.asarray(array, dtype=np.float32))


def check_finite(tensors: Mapping[str, Tensor], name: str) -> None:
    """Raise BadFile for the first of the tensors in the file `name` that holds NaN or infinity."""
    for key, tensor in tensors.items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            bad = int((~torch.isfinite(tensor)).sum())
            raise BadFile(
                f"{name} is broken: {bad} of the {tensor.numel()} numbers of '{key}' are not "
                "finite (NaN or infinity). Take an earlier checkpoint, or copy it again."
            )


def reason(error: Exception) -> str:
    """The first line of what a library says, or at least what kind of error it is; never its advice
    to load the file unsafely.
    """
    lines = str(error).strip().splitlines()
    if found := re.search(r"GLOBAL (\S+) (was not an allowed|whose module)", str(error)):
        return f"it holds a {found[1]}, which could run code; nothing of it was run"
    if lines and re.search("pickle|weights.only", lines[0], re.IGNORECASE):
        return "it is another kind of file, or holds Python objects instead of numbers"
    return lines[0][:200] if lines else type(error).__name__


def existing(path: str | Path) -> Path:
    """The path of a file that is there and not empty. Raises BadFile."""
    path = Path(path)
    if not path.is_file():
        raise BadFile(f"There is no file {path}.")
    if path.stat().st_size == 0:
        raise BadFile(f"{path.name} is empty (0 bytes). Copy or download it again.")
    return path
