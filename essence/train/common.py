"""What the recipes share: pictures and the hold-out rule, options from the command line,
checkpoints and logs, schedules, averages and losses.
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
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from ..errors import UserError
from ..models.identity import FaceDescriptor
from ..pictures.loading import load_image
from ..pictures.tensors import resize, square_crop, to_tensor
from ..runtime.hardware import bfloat16_pays
from .parallel import rank

# Stems of file names, one a line.
HELD_OUT = Path(__file__).parent / "data" / "held_out.txt"
SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp"}
PHOTOGRAPHS = "congress"  # prefix of the file names that are photographs by real cameras
HELD_PHOTOGRAPHS, HELD_OTHERS = 40, 100
STEP_SEEDS = 1_000_003
# Steps between two lines of a log, on a CPU and on a GPU, which would have to be waited for.
LOG_EVERY = (1, 25)
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
            f"{folder} holds no pictures ({', '.join(sorted(SUFFIXES))}): give the folder of the "
            "training pictures."
        )
    return paths


def held_out(names: Sequence[str]) -> set[str]:
    """The file names that no recipe trains on: those in `data/held_out.txt`, which no bundled
    model has seen, whatever their suffix. Of pictures of which none is listed there the first 40
    photographs by name, and 100 others drawn with seed 0; of a small folder at most a tenth of each
    kind, so that something is left to train on.
    """
    listed = set(HELD_OUT.read_text().split())
    if found := {name for name in names if Path(name).stem in listed}:
        return found
    photographs = sorted(name for name in names if name.startswith(PHOTOGRAPHS))
    others = sorted(name for name in names if not name.startswith(PHOTOGRAPHS))
    drawn = random.Random(0).sample(others, min(HELD_OTHERS, len(others) // 10))
    return {*photographs[: min(HELD_PHOTOGRAPHS, math.ceil(len(photographs) / 10))], *drawn}


def list_training_pictures(folder: str | Path) -> list[Path]:
    """`list_pictures` without the held-out ones."""
    paths = list_pictures(folder)
    held = held_out([path.name for path in paths])
    return [path for path in paths if path.name not in held]


def photograph_weights(paths: Sequence[Path], weight: float) -> Tensor:
    """Sampling weights [N]: `weight` for photographs, 1 for other pictures."""
    return torch.tensor([weight if path.name.startswith(PHOTOGRAPHS) else 1.0 for path in paths])


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


def described(default: Any, text: str) -> Any:
    """An option's field with a default and its words for --help."""
    return dataclasses.field(default=default, metadata={"help": text})


def parse_options(
    kind: type[T],
    argv: Sequence[str] | None = None,
    description: str | None = None,
    presets: Mapping[str, Mapping[str, object]] | None = None,
) -> T:
    """A dataclass of options from the command line: the field `some_name` is `--some-name`; fields
    without a default are required. With `presets`, by name what each sets, `--preset` chooses what
    the others start from: the first one, where it is not given.
    """
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    hints = typing.get_type_hints(kind)
    for field in dataclasses.fields(kind):
        hint, required = hints[field.name], field.default is dataclasses.MISSING
        settings: dict[str, Any] = {"help": field.metadata.get("help", " ")}
        settings["default"] = None if required else field.default
        if hint is bool:
            settings |= {"action": argparse.BooleanOptionalAction}
        elif typing.get_origin(hint) is tuple:
            count = "+" if typing.get_args(hint)[-1] is ... else len(field.default)
            settings |= {"type": int, "nargs": count}
        else:
            plain = next((arg for arg in typing.get_args(hint) if arg is not type(None)), hint)
            settings |= {"type": plain, "required": required}
        parser.add_argument("--" + field.name.replace("_", "-"), **settings)
    if presets:
        first = argparse.ArgumentParser(add_help=False)
        for each in (first, parser):
            each.add_argument("--preset", choices=presets, default=next(iter(presets)))
        parser.set_defaults(**presets[first.parse_known_args(argv)[0].preset])
    values = vars(parser.parse_args(argv))
    values.pop("preset", None)
    return kind(**{k: tuple(v) if isinstance(v, list) else v for k, v in values.items()})


# ---- checkpoints and logs


def save_atomic(state: Any, path: Path) -> None:
    """torch.save to a temporary file beside `path`, then rename: an interrupted or failed write
    leaves the previous file whole. Raises UserError.
    """
    temporary = path.with_name(path.name + ".part")
    try:
        torch.save(state, temporary)
        os.replace(temporary, path)
    except (OSError, RuntimeError) as error:  # torch reports a full disk as RuntimeError
        temporary.unlink(missing_ok=True)
        raise UserError(
            f"The checkpoint {path} could not be written ({error}). Free some space and start "
            "again: the previous checkpoint is intact."
        ) from error


def cached_on_disk(path: Path, compute: Callable[[], T], length: int | None = None) -> T:
    """What `compute` gives, kept at `path` for a run that is resumed; computed again where the
    file's content has another `length`.
    """
    if path.exists():
        value = torch.load(path, weights_only=True)
        if length in (None, len(value)):
            return value
    value = compute()
    save_atomic(value, path)
    return value


def load_checkpoint(path: Path, architecture: dict) -> dict | None:
    """The checkpoint to resume from, or None where there is none. Raises UserError for another
    architecture or a broken file.
    """
    if not path.exists():
        return None
    broken = (OSError, RuntimeError, KeyError, EOFError, ValueError, TypeError)
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        found = state["architecture"]
    except (*broken, pickle.UnpicklingError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"{path} is no checkpoint of this recipe ({reason}). Move it away or choose another "
            "--out."
        ) from error
    changed = [
        f"{name} {found.get(name)} there, {value} here"
        for name, value in architecture.items()
        if found.get(name) != value
    ]
    if changed:
        raise UserError(
            f"{path} holds another architecture ({'; '.join(changed)}). Use the same widths, or "
            "another --out."
        )
    return state


class CsvLog:
    """Appends rows of numbers to a file; a resumed run drops the rows after its checkpoint."""

    def __init__(self, path: Path, columns: Sequence[str], from_step: int = 0):
        self.path, self.columns = path, list(columns)
        rows: list[list[str]] = []
        if path.exists():
            with path.open(newline="") as file:
                rows = [row for row in csv.reader(file) if row and row[0].isdigit()]
        kept = [row for row in rows if int(row[0]) <= from_step]
        with path.open("w", newline="") as file:
            csv.writer(file).writerows([self.columns, *kept])

    def write(self, values: dict[str, float] | dict[str, float | Tensor]) -> None:
        """`values` by column; the first column is the step."""
        row = [values[self.columns[0]]] + [f"{values[name]:.5g}" for name in self.columns[1:]]
        with self.path.open("a", newline="") as file:
            csv.writer(file).writerow(row)


# ---- training


def step_generator(seed: int, step: int, device: str | torch.device = "cpu") -> torch.Generator:
    """Random numbers of one step: a resumed run sees what an uninterrupted one would have seen."""
    return torch.Generator(device).manual_seed((seed * 1000 + rank()) * STEP_SEEDS + step)


def precision(device: str | torch.device, half: bool = True) -> torch.autocast:
    """bfloat16 where it is wanted and the machine multiplies it itself: elsewhere it is many times
    slower than single precision.
    """
    enabled = half and bfloat16_pays(device)
    return torch.autocast(torch.device(device).type, torch.bfloat16, enabled=enabled)


@torch.no_grad()
def update_average(average: nn.Module, model: nn.Module, step: int, decay: float) -> None:
    """Exponential moving average of weights and buffers, in place; over fewer steps at first, so
    that the random start is soon forgotten.

    Not torch's `AveragedModel`: its first update copies the model, it hands the integer buffers of
    batch norms to the averaging function, and its state holds a counter and prefixed names. To get
    these averages and checkpoints out of it takes more lines than it saves.
    """
    decay = min(decay, (1 + step) / (10 + step))
    pairs = list(zip(average.state_dict().values(), model.state_dict().values(), strict=True))
    floats = [(kept, new) for kept, new in pairs if kept.dtype.is_floating_point]
    torch._foreach_lerp_(*map(list, zip(*floats, strict=True)), 1 - decay)  # one launch, not 150
    for kept, new in pairs:
        if not kept.dtype.is_floating_point:
            kept.copy_(new)


def warm_cosine(progress: float, step: int, warmup: int, last: float) -> float:
    """Factor of the learning rate: a linear ramp over `warmup` steps, then a cosine from 1 to
    `last` as progress goes from 0 to 1.
    """
    cosine = last + (1 - last) * (0.5 + 0.5 * math.cos(math.pi * min(progress, 1.0)))
    return cosine * min(1.0, (step + 1) / warmup)


def descend(optimizer: torch.optim.Optimizer, loss: Tensor, max_norm: float | None = None) -> None:
    """One step of the optimiser on `loss`; `max_norm` clips the gradient of all its parameters."""
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    if max_norm is not None:
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        nn.utils.clip_grad_norm_(parameters, max_norm)
    optimizer.step()


def face_losses(
    network: FaceDescriptor, maps: Sequence[Tensor], goals: Sequence[Tensor]
) -> dict[str, Tensor]:
    """Of feature maps of the face network against those of the goal: `features`, their mean
    absolute difference relative to the goal's mean, averaged over the stages; `descriptor`, the
    squared distance of the descriptors.
    """
    relative = [
        (a.float() - b.float()).abs().mean() / b.float().abs().mean()
        for a, b in zip(maps, goals, strict=True)
    ]
    difference = network.describe(maps) - network.describe(goals)
    return {
        "features": torch.stack(relative).mean(),
        "descriptor": difference.square().sum(1).mean(),
    }
