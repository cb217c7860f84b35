"""Where in a checkpoint a network's tensors are.

Training scripts wrap a state dict in tables ("g_ema", "g", "state_dict") and its names in prefixes
("module.", "generator.", "decoder."). With all names written out, as "g_ema.module.conv1...", both
are a prefix, and a tensor that only one kind of network has shows which.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from ..errors import BadFile
from ..models.style_layers import BLUR
from .safe_files import check_finite, file_format, read_safetensors, read_torch

# The tensor that shows a network, in the names of the common checkpoints.
GENERATOR, ENCODER = "input.input", "styles.0.convs.0.weight"
MEAN = "latent_avg"
MOST_ENTRIES = 100_000  # of a checkpoint; a hostile one may hold itself
NAMED = 6  # tensors that an error message names

log = logging.getLogger(__name__)


def read_tensors(path: Path, lazily: bool = False) -> dict[str, Tensor]:
    """All tensors of a safetensors or torch file, by dotted names. Raises BadFile."""
    if file_format(path) == "safetensors":
        return read_safetensors(path)[0]
    content = read_torch(path, lazily)
    if not isinstance(content, Mapping):
        raise BadFile(
            f"{path.name} holds a {type(content).__name__} where a table of tensors was expected."
        )
    return _flat(content, path.name)


def find_prefix(names: Iterable[str], tensor: str) -> str | None:
    """What stands before the names of the network that has this `tensor`: "" for a bare state
    dict, None where there is no such network. Averaged weights come first.
    """
    found = [name.removesuffix(tensor) for name in names if f".{name}".endswith(f".{tensor}")]
    return min(found, key=lambda prefix: "ema" not in prefix.lower(), default=None)


def network_state(tensors: Mapping[str, Tensor], prefix: str, name: str) -> dict[str, Tensor]:
    """The tensors under a prefix, without it, floats as float32. Raises BadFile where one holds
    NaN.
    """
    own = {key: value for key, value in tensors.items() if key.startswith(prefix)}
    check_finite(own, name)
    return {
        key[len(prefix) :]: value.float() if value.is_floating_point() else value
        for key, value in own.items()
    }


def mean_beside(tensors: Mapping[str, Tensor], prefix: str, name: str) -> Tensor | None:
    """The mean latent of a checkpoint, the nearest to the network with this prefix."""
    keys = [key for key in tensors if f".{key}".endswith(f".{MEAN}")]
    if not keys:
        return None
    key = min(keys, key=lambda key: (not key.startswith(prefix), len(key)))
    check_finite({key: tensors[key]}, name)
    return tensors[key].float()


def generator_state(
    tensors: Mapping[str, Tensor], name: str
) -> tuple[dict[str, Tensor], Tensor | None]:
    """A generator's state dict out of a checkpoint's tensors, with the buffers that some leave
    out; and the mean latent where there is one. Raises BadFile.
    """
    prefix = find_prefix(tensors, GENERATOR)
    if prefix is None:
        raise BadFile(
            f"{name} holds no StyleGAN2 generator in a form that is known here: no tensor is named "
            f"'...{GENERATOR}'. It has {_listed(tensors)}."
        )
    if prefix.split(".")[0] == "g":
        log.warning("%s has no averaged generator (g_ema): the trained one (g) serves.", name)
    state = network_state(tensors, prefix, name)
    state.pop(MEAN, None)
    return _completed(state), mean_beside(tensors, prefix, name)


def _completed(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """With noise and filters where they are missing: noise is as random as anywhere, but the same
    for every load, so that an essence still belongs to this generator.
    """
    taps = torch.tensor(BLUR)
    blocks = sum(key.startswith("to_rgbs.") and key.endswith(".conv.weight") for key in state)
    for i in range(blocks):
        for key in (f"convs.{2 * i}.conv.blur.kernel", f"to_rgbs.{i}.upsample.kernel"):
            state.setdefault(key, torch.outer(taps, taps))
    random = torch.Generator().manual_seed(0)
    for i in range(2 * blocks + 1):
        side = 4 << (i + 1) // 2
        if f"noises.noise_{i}" not in state:
            state[f"noises.noise_{i}"] = torch.randn(1, 1, side, side, generator=random)
    return state


def _flat(content: Mapping, name: str) -> dict[str, Tensor]:
    """The tensors in tables within tables, by dotted names; a table that has two names, as "g" and
    "g_ema" may be one, under both.
    """
    found: dict[str, Tensor] = {}
    todo, entries = [("", content)], 0
    while todo:
        prefix, table = todo.pop(0)
        entries += len(table)
        if entries > MOST_ENTRIES:
            raise BadFile(f"{name} holds tables within tables without end; it is no checkpoint.")
        for key, value in table.items():
            if isinstance(value, Tensor):
                found[f"{prefix}{key}"] = value
            elif isinstance(value, Mapping):
                todo.append((f"{prefix}{key}.", value))
    return found


def _listed(names: Iterable[str]) -> str:
    names = list(names)
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more if names else "no tensors at all"
