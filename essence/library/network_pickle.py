"""NVIDIA's network pickles read as data: no name in the file is ever imported, no code in it ever
runs (docs/METHOD.md, section 6).

Such a file holds objects that recreate themselves from a table {type, module_src, class_name,
state}: source code and a module's `__dict__`. The reader here maps the handful of names that these
files need to constructors of its own, which only keep their arguments, and refuses every other
name. What comes out are plain values, tensors, and `Record`s: a class name with the attributes it
had.
"""

from __future__ import annotations

import io
import pickle
import warnings
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from ..errors import BadFile
from .safe_files import existing
from .stand_ins import NUMPY


@dataclass
class Record:
    """What was an object of a class that is never looked up."""

    class_name: str
    attributes: dict = field(default_factory=dict)

    def table(self, name: str) -> Mapping:
        """An attribute that is a table, {} where there is none: `_parameters`, `_buffers`,
        `_modules`.
        """
        value = self.attributes.get(name)
        return value if isinstance(value, Mapping) else {}

    def tensors(self) -> dict[str, Tensor]:
        """Its parameters and buffers, and those of the records inside, by dotted names."""
        own = {**self.table("_parameters"), **self.table("_buffers")}
        found = {name: value for name, value in own.items() if isinstance(value, Tensor)}
        for name, inner in self.table("_modules").items():
            if isinstance(inner, Record):
                found |= {f"{name}.{key}": value for key, value in inner.tensors().items()}
        return found

    def inner(self, path: str) -> Record:
        """The record at a dotted path of `_modules`. Raises KeyError."""
        record = self
        for name in path.split("."):
            record = record.table("_modules")[name]
        return record


def read_pickle(path: str | Path) -> object:
    """The pickle as plain values, tensors and `Record`s. Raises BadFile for any name that is not
    known to be harmless.
    """
    path = existing(path)
    try:
        with open(path, "rb") as file:
            return _Reader(file).load()
    except _Refused as refused:
        raise BadFile(
            f"{path.name} was refused: {refused} Nothing in it was run. Use a copy from its makers."
        ) from None
    except Exception as error:
        # A broken or hostile stream fails in as many ways as there are opcodes.
        raise BadFile(
            f"{path.name} is no intact network pickle ({type(error).__name__}: {str(error)[:200]})."
        ) from None


class _Refused(Exception):
    pass


class _Reader(pickle.Unpickler):
    """The standard machine with its only two ways out closed: names, and persistent ids (refused by
    the base class).
    """

    def find_class(self, module: str, name: str) -> object:
        make = _KNOWN.get(f"{module.removeprefix('stylegan2_ada_pytorch.')}.{name}")
        if make is None:
            if module.startswith("dnnlib.tflib"):
                raise _Refused(
                    "it is a TensorFlow network; "
                    "only the pickles of the PyTorch versions can be read."
                )
            raise _Refused(f"it wants to call {module}.{name}, which no network needs.")
        return _Inert(make) if not isinstance(make, type) else make


class _Inert:
    """A name of the file: can be called, and nothing else. The file cannot change it (BUILD would
    otherwise set attributes).
    """

    __slots__ = ("_make",)

    def __init__(self, make: Callable):
        object.__setattr__(self, "_make", make)

    def __call__(self, *arguments: object) -> object:
        return self._make(*arguments)

    def __setattr__(self, name: str, value: object) -> None:
        raise _Refused("it tries to change what its names mean.")

    def __setstate__(self, state: object) -> None:
        raise _Refused("it tries to change what its names mean.")


class _Attributes(dict):
    """A dict with attribute access, there; a dict, here."""

    def __setstate__(self, state: object) -> None:
        # Also keeps BUILD off the class itself, where `self` is missing.
        if isinstance(state, dict):
            self.update(state)


def _object(meta: object) -> Record:
    if not isinstance(meta, Mapping) or not isinstance(meta.get("state"), Mapping):
        raise _Refused("one of its objects has no table of attributes.")
    return Record(str(meta.get("class_name")), dict(meta["state"]))


def _storage(data: bytes) -> torch.UntypedStorage | torch.TypedStorage:
    """A nested file of one storage. The original calls torch.load without restrictions; this one
    has them.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        storage = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    if not isinstance(storage, torch.TypedStorage):
        raise _Refused("one of its tensors holds something else than numbers.")
    return storage


def _tensor(storage: object, offset: int, size: tuple, stride: tuple, *_ignored: object) -> Tensor:
    if not isinstance(storage, torch.TypedStorage):
        raise _Refused("one of its tensors has no numbers.")
    return torch.empty(0, dtype=storage.dtype).set_(storage._untyped_storage, offset, size, stride)


def _parameter(data: object, *_ignored: object) -> object:
    return data


def _encoded(text: object, encoding: object = "latin1") -> bytes:
    if not isinstance(text, str) or encoding != "latin1":
        raise _Refused("one of its byte strings is none.")
    return text.encode("latin1")


def _ordered(*arguments: object) -> OrderedDict:
    return OrderedDict(*arguments)


def _set(*arguments: object) -> set:
    return set(*arguments)


_KNOWN: dict[str, Callable] = {
    "torch_utils.persistence._reconstruct_persistent_obj": _object,
    "dnnlib.util.EasyDict": _Attributes,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_parameter": _parameter,
    "torch.storage._load_from_bytes": _storage,
    "collections.OrderedDict": _ordered,
    "builtins.set": _set,
    "__builtin__.set": _set,
    "_codecs.encode": _encoded,
    **NUMPY,
}
