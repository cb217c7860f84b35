"""Which model sets there are and where their files lie: weights/manifest.toml, a folder of one's
own, or one checkpoint.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path

from ..errors import BadFile, UserError
from ..runtime import folders
from ..runtime.folders import WEIGHTS

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

COMPONENTS = ("generator", "inverter", "clip", "latents")
NEEDED = ("generator", "clip")
ALIGNED = ("face", "square")
HUB = "https://huggingface.co"
CHECKPOINTS = (".safetensors", ".pt", ".pth", ".pkl")


@dataclass(frozen=True)
class Mirror:
    """Where a file can be had: a URL, or a file of a hub repository at a pinned revision ("main"
    where no pin is known).
    """

    url: str = ""
    hub: str = ""
    revision: str = "main"
    file: str = ""

    @property
    def address(self) -> str:
        return (
            self.url
            or f"{os.environ.get('HF_ENDPOINT', HUB)}/{self.hub}/resolve/{self.revision}/{self.file}"
        )


@dataclass(frozen=True)
class ModelFile:
    """One file of a model set."""

    file: str = ""  # relative to weights/, or absolute
    sha256: str = ""  # empty where it is not known
    size: int = 0  # bytes; 0 where not known
    open_clip: str = ""  # "architecture/pretrained": what the file holds, by open_clip's names
    sources: tuple[Mirror, ...] = ()  # tried in order
    licence: str = ""
    means: str = ""  # what the licence means, in plain words

    @property
    def path(self) -> Path:
        """In weights/, or else in the user's cache; the place where it would be put if it is in
        neither.
        """
        places = [WEIGHTS / self.file, folders.cache_folder() / self.file]
        return next(
            (place for place in places if place.is_file()),
            places[0] if folders.is_writable(places[0]) else places[1],
        )

    @property
    def present(self) -> bool:
        return bool(self.file) and self.path.is_file()

    @property
    def record(self) -> Path:
        """Beside the file: what was seen when a file without a known hash was taken in."""
        return self.path.with_name(self.path.name + ".json")


@dataclass(frozen=True)
class ModelSpec:
    """A model set before it is loaded."""

    name: str
    components: Mapping[str, ModelFile]
    # "face": pictures are cut around a face; "square": the centred square, and nobody is described
    aligned: str = "face"
    title: str = ""
    deltas: float = (
        1.0  # how much of the inverter's differences between layers refinement starts with
    )
    fetch_on_space: bool = False  # a Hugging Face Space may fetch it when it starts
    missing: tuple[str, ...] = field(init=False, default=())

    def __post_init__(self) -> None:
        if self.aligned not in ALIGNED:
            raise BadFile(
                f"The model set '{self.name}' is aligned = '{self.aligned}'; it must be one of {', '.join(ALIGNED)}."
            )
        object.__setattr__(
            self, "missing", tuple(part for part, entry in self.components.items() if not entry.present)
        )

    @property
    def missing_required(self) -> tuple[str, ...]:
        """Missing parts that nothing can stand in for."""
        return tuple(part for part in self.missing if part in NEEDED)

    @property
    def unique_files(self) -> tuple[ModelFile, ...]:
        """Each file once: two parts may lie in one."""
        return tuple({part.file: part for part in self.components.values()}.values())

    @property
    def licence_terms(self) -> dict[str, list[str]]:
        """What the licences mean, in plain words: each meaning with the names of its parts."""
        found: dict[str, list[str]] = {}
        for name, part in self.components.items():
            if part.means:
                found.setdefault(part.means, []).append(name)
        return found

    @property
    def fetch_command(self) -> str:
        """Gets what is missing."""
        return f"python -m essence fetch {self.name}"


def model_sets(path: Path | None = None) -> dict[str, ModelSpec]:
    """Every model set of the manifest by name."""
    path = path or WEIGHTS / "manifest.toml"
    with open(path, "rb") as file:
        try:
            return {name: _entry(name, table) for name, table in tomllib.load(file).items()}
        except (tomllib.TOMLDecodeError, TypeError, AttributeError) as error:
            raise BadFile(f"{path.name} is no manifest of model sets: {error}") from None


def _entry(name: str, table: Mapping, root: Path = Path()) -> ModelSpec:
    known = {
        key: table[key] for key in ("aligned", "title", "deltas", "fetch_on_space") if key in table
    }
    parts: dict[str, ModelFile] = {}
    for part in COMPONENTS:
        if part not in table:
            continue
        values = dict(table[part])
        if "same_as" in values:
            parts[part] = parts[values["same_as"]]
            continue
        values["sources"] = tuple(Mirror(**source) for source in values.get("sources", ()))
        parts[part] = ModelFile(**values)
    if root != Path():
        parts = {part: replace(value, file=str(root / value.file)) for part, value in parts.items()}
    return ModelSpec(name, parts, **known)


def find_model_set(model: str) -> ModelSpec:
    """A model set by name, or from a path: a folder, or a checkpoint that holds at least a
    generator. Raises UserError.
    """
    sets, path = model_sets(), Path(model)
    if model in sets:
        return sets[model]
    if path.is_dir():
        return _folder(path.resolve())
    if path.is_file():
        return _lone(path.resolve())
    raise UserError(
        f"There is no model set '{model}', and no such folder or file. There are: {', '.join(sets)}."
    )


def _folder(path: Path) -> ModelSpec:
    """A folder with a `model.toml` (one set, as in the manifest), or with files named after the
    parts.
    """
    if (path / "model.toml").is_file():
        with open(path / "model.toml", "rb") as file:
            try:
                return _entry(path.name, tomllib.load(file), path)
            except (tomllib.TOMLDecodeError, TypeError, AttributeError, KeyError) as error:
                raise BadFile(
                    f"{path.name}/model.toml is no description of a model set: {error}"
                ) from None
    names = {
        part: next(
            (path / (part + end) for end in CHECKPOINTS if (path / (part + end)).is_file()), None
        )
        for part in COMPONENTS
    }
    parts = {part: ModelFile(str(file)) for part, file in names.items() if file is not None}
    if parts:
        return ModelSpec(path.name, parts)
    checkpoints = sorted(file for file in path.iterdir() if file.suffix in CHECKPOINTS)
    if len(checkpoints) != 1:
        raise UserError(
            f"The folder {path} holds {len(checkpoints)} checkpoints, none of them named after its part: name them generator, inverter and "
            "clip (.safetensors, .pt or .pkl), or describe them in a model.toml (see docs/MODELS.md)."
        )
    return _lone(checkpoints[0])


def _lone(path: Path) -> ModelSpec:
    """One checkpoint: the generator, and the inverter if there is one inside, which shows when it
    is read.
    """
    return ModelSpec(path.stem, {"generator": ModelFile(str(path)), "inverter": ModelFile(str(path))})


def verified_path(part: ModelFile) -> Path:
    """The part's file, after comparing its sha256 where the manifest, or the record of its taking
    in, knows it. Raises BadFile.
    """
    known = part.sha256 or recorded_sha256(part)
    if known and sha256(part.path) != known:
        raise BadFile(
            f"{part.path.name} is not the file that the manifest names (its sha256 differs). Copy or download it again."
        )
    return part.path


def recorded_sha256(part: ModelFile) -> str:
    """The sha256 seen when a file whose hash nobody had published was taken in; empty where there
    is no record.
    """
    try:
        return str(json.loads(part.record.read_text())["sha256"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def sha256(path: Path) -> str:
    status = path.stat()
    return _sha256(str(path), status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=64)
def _sha256(path: str, size: int, changed: int) -> str:
    """Once for each state of a file: a gigabyte takes seconds."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 22):
            digest.update(block)
    return digest.hexdigest()
