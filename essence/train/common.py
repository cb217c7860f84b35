"""What the recipes share: the pictures and the hold-out rule, options from the command line,
checkpoints, logs, moving averages.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import math
import os
import pickle
import random
import typing
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from ..errors import UserError
from ..pictures.loading import load_image
from ..pictures.tensors import resize, square_crop, to_tensor
from ..runtime.hardware import bfloat16_pays

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp"}
PHOTOGRAPHS = "congress"  # prefix of the file names that are photographs by real cameras
HELD_PHOTOGRAPHS, HELD_OTHERS = 40, 100
T = TypeVar("T")


# ---- pictures


def list_pictures(folder: str | Path) -> list[Path]:
    """The pictures of a folder, sorted by name. Raises UserError where there is none."""
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"There is no folder {folder}: give the folder of the training pictures.")
    paths = sorted(p for p in folder.iterdir() if p.suffix.lower() in SUFFIXES)
    if not paths:
        raise UserError(
            f"{folder} holds no pictures ({', '.join(sorted(SUFFIXES))}): give the folder of the training pictures."
        )
    return paths


def held_out(names: Sequence[str]) -> set[str]:
    """The file names that no recipe ever trains on: the first 40 photographs by name, and 100
    others drawn with seed 0.

    A small folder gives at most a tenth of its pictures of each kind, so that something is left to
    train on.
    """
    photographs = sorted(name for name in names if name.startswith(PHOTOGRAPHS))
    others = sorted(name for name in names if not name.startswith(PHOTOGRAPHS))
    drawn = random.Random(0).sample(others, min(HELD_OTHERS, len(others) // 10))
    return {*photographs[: min(HELD_PHOTOGRAPHS, math.ceil(len(photographs) / 10))], *drawn}


def load_pictures(paths: Sequence[Path], size: int) -> Tensor:
    """uint8 [N, 3, size, size]: the centred square of each picture."""

    def load(path: Path) -> Tensor:
        return to_uint8(to_tensor(resize(square_crop(load_image(path)), size)))[0]

    with ThreadPoolExecutor(2) as pool:
        return torch.stack(list(pool.map(load, paths)))


def to_uint8(images: Tensor) -> Tensor:
    """[-1, 1] to uint8, the layout kept: a quarter of the memory."""
    return images.float().add(1).mul(127.5).round_().clamp_(0, 255).to(torch.uint8)


def to_float(pictures: Tensor) -> Tensor:
    """uint8 to [-1, 1]."""
    return pictures.float().div_(127.5).sub_(1)


# ---- options


def parse_options(
    kind: type[T], argv: Sequence[str] | None = None, description: str | None = None
) -> T:
    """A dataclass of options from the command line: field `some_name` is `--some-name`; fields
    without default are required.
    """
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    hints = typing.get_type_hints(kind)
    for field in dataclasses.fields(kind):
        required = field.default is dataclasses.MISSING
        default = None if required else field.default
        name, help_text = "--" + field.name.replace("_", "-"), field.metadata.get("help", " ")
        hint = hints[field.name]
        if hint is bool:
            parser.add_argument(
                name, action=argparse.BooleanOptionalAction, default=default, help=help_text
            )
        elif typing.get_origin(hint) is tuple:
            count = "+" if typing.get_args(hint)[-1] is ... else len(default)
            parser.add_argument(name, type=int, nargs=count, default=default, help=help_text)
        else:
            plain = next((arg for arg in typing.get_args(hint) if arg is not type(None)), hint)
            parser.add_argument(
                name, type=plain, required=required, default=default, help=help_text
            )
    values = vars(parser.parse_args(argv))
    return kind(
        **{
            name: tuple(value) if isinstance(value, list) else value
            for name, value in values.items()
        }
    )


# ---- checkpoints and logs


def save_atomic(state: Any, path: Path) -> None:
    """torch.save to a temporary file beside `path`, then rename: an interrupted or failed write
    leaves the previous file whole.
    """
    temporary = path.with_name(path.name + ".part")
    try:
        torch.save(state, temporary)
        os.replace(temporary, path)
    except (OSError, RuntimeError) as error:  # torch reports a full disk as RuntimeError
        temporary.unlink(missing_ok=True)
        raise UserError(
            f"The checkpoint {path} could not be written ({error}). Free some space and start again: "
            "the previous checkpoint is intact."
        ) from error


def load_resume(path: Path, architecture: dict) -> dict | None:
    """The checkpoint to go on from, or None where there is none. Raises UserError for another
    architecture or a broken file.
    """
    if not path.exists():
        return None
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        found = state["architecture"]
    except (
        OSError,
        RuntimeError,
        KeyError,
        EOFError,
        ValueError,
        TypeError,
        pickle.UnpicklingError,
    ) as error:
        raise UserError(
            f"{path} is no checkpoint of this recipe ({_first_line(error)}). Move it away or choose another --out."
        ) from error
    changed = [
        f"{name} {found.get(name)} there, {value} here"
        for name, value in architecture.items()
        if found.get(name) != value
    ]
    if changed:
        raise UserError(
            f"{path} holds another architecture ({'; '.join(changed)}). Use the same widths, or another --out."
        )
    return state


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


class CsvLog:
    """Appends rows of numbers; a resumed run drops the rows written after its checkpoint."""

    def __init__(self, path: Path, columns: Sequence[str], from_step: int = 0):
        self.path, self.columns = path, list(columns)
        rows = [row for row in _rows(path) if row and row[0].isdigit() and int(row[0]) <= from_step]
        with path.open("w", newline="") as file:
            csv.writer(file).writerows([self.columns, *rows])

    def write(self, values: dict[str, float]) -> None:
        """`values` by column, the first one the step."""
        row = [values[self.columns[0]]] + [f"{values[name]:.5g}" for name in self.columns[1:]]
        with self.path.open("a", newline="") as file:
            csv.writer(file).writerow(row)


def _rows(path: Path) -> list[list[str]]:
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return list(csv.reader(file))


# ---- training


def precision(device: str | torch.device, half: bool = True) -> torch.autocast:
    """bfloat16 where it is asked for and the machine multiplies it itself: elsewhere it is many
    times slower than single precision.
    """
    return torch.autocast(
        torch.device(device).type, torch.bfloat16, enabled=half and bfloat16_pays(device)
    )


@torch.no_grad()
def average_into(average: nn.Module, model: nn.Module, step: int, decay: float) -> None:
    """Exponential moving average of weights and buffers; shorter at first, so that the random start
    is soon forgotten.
    """
    decay = min(decay, (1 + step) / (10 + step))
    for kept, new in zip(average.state_dict().values(), model.state_dict().values(), strict=True):
        if kept.dtype.is_floating_point:
            kept.lerp_(new, 1 - decay)
        else:
            kept.copy_(new)


def warm_cosine(progress: float, step: int, warmup: int, last: float) -> float:
    """Factor of the learning rate: a linear ramp over `warmup` steps, then a cosine from 1 to
    `last` as progress goes from 0 to 1.
    """
    cosine = last + (1 - last) * (0.5 + 0.5 * math.cos(math.pi * min(progress, 1.0)))
    return cosine * min(1.0, (step + 1) / warmup)
