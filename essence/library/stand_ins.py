"""What stands in for the objects of others in pickles: NumPy's values, and the options of a
training run.

NumPy's own constructors can be led astray by what a file hands them (a dtype that lies about its
layout), so that they are never called with it: the classes here keep plain bytes and shapes, and
build the array themselves.
"""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

PLAIN_DTYPE = re.compile(r"[<>|=]?(b1|[iu][1248]|f[248])")


class Options:
    """Stands for an `argparse.Namespace`: accepted, and not kept."""

    def __setstate__(self, state: object) -> None:
        pass


class Dtype:
    """Stands for `numpy.dtype`."""

    def __init__(self, name: object, *_ignored: object):
        self.name = str(name)

    def __setstate__(self, state: object) -> None:
        if isinstance(state, tuple) and len(state) > 1 and state[1] in ("<", ">", "|", "="):
            self.name = state[1] + self.name.lstrip("<>|=")


class Array:
    """Stands for `numpy.ndarray`, and for the function that makes an empty one."""

    def __init__(self, *_ignored: object):
        self.tensor: Tensor | None = None

    def __setstate__(self, state: object) -> None:
        """(version, shape, dtype, whether columns lie together, bytes)"""
        if not isinstance(state, tuple) or len(state) != 5:
            raise ValueError("one of its arrays has no numbers")
        _, shape, dtype, columns, data = state
        flat = _numbers(dtype, data)
        array = flat.reshape(shape, order="F" if columns else "C")
        self.tensor = torch.from_numpy(array.astype(array.dtype.newbyteorder("="), order="C"))


def scalar(dtype: object, data: object = b"") -> object:
    """One number of NumPy's as one of Python's."""
    return _numbers(dtype, data)[0].item()


def _numbers(dtype: object, data: object) -> np.ndarray:
    if not (isinstance(dtype, Dtype) and isinstance(data, bytes)) or (
        not PLAIN_DTYPE.fullmatch(dtype.name)
    ):
        raise ValueError("one of its numbers is none")
    return np.frombuffer(data, np.dtype(dtype.name))


# The names of NumPy's in pickles; the module of the second kind has been called so since NumPy 2.
NUMPY: dict[str, Callable] = {
    "numpy.dtype": Dtype,
    "numpy.ndarray": Array,
    "numpy.core.multiarray._reconstruct": Array,
    "numpy._core.multiarray._reconstruct": Array,
    "numpy.core.multiarray.scalar": scalar,
    "numpy._core.multiarray.scalar": scalar,
}
