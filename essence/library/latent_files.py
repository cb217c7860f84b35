"""Latents and directions in the files of others: `.npy`, the `.npz` of NVIDIA's projector, torch
files of one table, of many, or of named ones, as rosinality's projector writes them.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TypeGuard

import torch
from torch import Tensor

from ..errors import BadFile, UserError
from .safe_files import file_format, read_numpy, read_torch

# Under which name a projector puts its latents beside pictures and noise.
KEYS = ("w", "latent", "latents", "w_plus")
# No network has numbers of this size in its latents: those of faces end at about ten.
LARGEST = 1e4
NAMED = 12  # names that an error message lists

log = logging.getLogger(__name__)


def split_choice(path: str | Path) -> tuple[Path, str]:
    """FILE#NAME as the file and the name in it; a file's own name comes first."""
    text = str(path)
    places = [i for i, letter in enumerate(text) if letter == "#"]
    if Path(text).exists() or not places:
        return Path(text), ""
    cut = next((i for i in places if Path(text[:i]).is_file()), places[0])
    return Path(text[:cut]), text[cut + 1 :]


def read_latents(path: str | Path) -> dict[str, Tensor]:
    """The latents in a file by names, each [L, D], or [1, D] where they are the same for every
    layer; float32. Of FILE#NAME only that one. Raises BadFile, UserError.
    """
    file, choice = split_choice(path)
    tables = _tables(file)
    if not tables:
        raise BadFile(
            f"{file.name} holds no latents [layers, width] or [pictures, layers, width], and no "
            "table of them by names."
        )
    if choice:
        name = _chosen(list(tables), choice)
        if name is None:
            raise UserError(f"There is no '{choice}' in {file}. {_which_one(file, tables)}")
        tables = {name: tables[name]}
    single, found = len(tables) == 1 and not choice, {}
    for name, table in tables.items():
        table = table.detach().float()
        check_latents(table, file.name if single else f"'{name}' in {file.name}")
        title = f"{file.stem}-{name}" if name.isdecimal() else name
        found[file.stem if single or not name else title] = table
    return found


def read_one(path: str | Path) -> tuple[Tensor, str]:
    """The only latents or direction in a file, [L, D] or [1, D], and their name. Raises BadFile,
    also where there are several and FILE#NAME has to say which.
    """
    found = read_latents(path)
    if len(found) > 1:
        raise BadFile(_which_one(Path(path), _tables(Path(path))))
    name, table = next(iter(found.items()))
    return table, name


def check_latents(w: Tensor, what: str) -> None:
    """Raise BadFile for latents that hold nothing, NaN or infinity, or numbers of another world."""
    if w.numel() == 0:
        raise BadFile(f"{what} holds no latents [layers, width]: its shape is {list(w.shape)}.")
    if not torch.isfinite(w).all():
        raise BadFile(f"{what} holds numbers that are not finite (NaN or infinity).")
    if (largest := float(w.abs().max())) > LARGEST:
        raise BadFile(
            f"{what} holds numbers up to {largest:.3g}; latents stay below {LARGEST:.0f}. "
            "The file is damaged, or holds something else."
        )


def over_layers(w: Tensor, layers: int, name: str) -> Tensor:
    """[D] or [1, D], the same for every layer, as [L, D], which is said; [1, L, D] without its
    first axis; others as they are.
    """
    if w.ndim == 3 and len(w) == 1:
        w = w[0]
    elif w.ndim == 1:
        w = w[None]
    if w.ndim != 2 or len(w) != 1 or layers == 1:
        return w
    log.warning("'%s' is one row of %d numbers: it serves all %d layers.", name, w.shape[1], layers)
    return w.expand(layers, -1).contiguous()


def _tables(file: Path) -> dict[str, Tensor]:
    """What a file holds, by names: none ("") where it is one, numbers where they have none."""
    kind = file_format(file)
    if kind not in ("npy", "npz", "torch"):
        raise BadFile(f"{file.name} holds no latents: it is a {kind} file. Use .npy, .npz or .pt.")
    return dict(_split(_named(read_torch(file) if kind == "torch" else read_numpy(file))))


def _named(content: object) -> dict[str, Tensor]:
    """Latents of a tensor (named ""), a list or a table; empty where it is something else, such as
    a network's weights.
    """
    if isinstance(content, list):
        content = dict(enumerate(content))
    if not isinstance(content, Mapping):
        return {"": content} if _may_be_latents(content) else {}
    own = _under_key(content)
    if own is not None:
        return {"": own}
    found: dict[str, Tensor] = {}
    for name, inner in content.items():
        table = _under_key(inner) if isinstance(inner, Mapping) else inner
        if _may_be_latents(table):
            found[str(name)] = table
    return found if len({table.shape[-1] for table in found.values()}) == 1 else {}


def _under_key(content: Mapping) -> Tensor | None:
    return next(filter(_may_be_latents, map(content.get, KEYS)), None)


def _may_be_latents(value: object) -> TypeGuard[Tensor]:
    return isinstance(value, Tensor) and value.is_floating_point() and 1 <= value.ndim <= 3


def _split(found: Mapping[str, Tensor]) -> Iterable[tuple[str, Tensor]]:
    """[D] as [1, D], [1, L, D] as [L, D], and [N, L, D] as N tables."""
    for name, table in found.items():
        if table.ndim < 3:
            yield name, table[None] if table.ndim == 1 else table
        elif len(table) == 1:
            yield name, table[0]
        elif len(table) == 0:
            yield name, table
        else:
            for i, each in enumerate(table):
                yield f"{name}-{i}" if name else str(i), each


def _which_one(file: Path, tables: Mapping[str, Tensor]) -> str:
    """Asks for FILE#NAME."""
    names, first = list(tables), next(iter(tables.values()))
    if names == [""]:
        return f"It holds one alone: leave the #... away, {file}."
    if names == [str(i) for i in range(len(names))]:
        shape = [len(names), *first.shape]
        return (
            f"{file} holds the latents of {len(names)} pictures, {shape}: "
            f"name one as {file}#0 ... {file}#{len(names) - 1}."
        )
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    listed = ", ".join(name or file.stem for name in names[:NAMED]) + more
    return (
        f"{file} holds {len(names)} latents by name: {listed}. Name one, as in {file}#{names[0]}."
    )


def _chosen(names: list[str], choice: str) -> str | None:
    """The name that is meant: whole, as a file's name without its folder or suffix, or by number
    from 0.
    """
    for meant in (lambda n: n, lambda n: Path(n).name, lambda n: Path(n).stem):
        fitting = [name for name in names if meant(name) == choice]
        if len(fitting) == 1:
            return fitting[0]
    number = int(choice) if choice.isdecimal() else len(names)
    return names[number] if number < len(names) else None
