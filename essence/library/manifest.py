"""Which model sets there are and where their files lie: weights/manifest.toml, a folder of one's
own, or one checkpoint.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from ..errors import BadFile, UserError
from ..runtime import folders
from .components import COMPONENTS
from .model_files import Mirror, ModelFile

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ALIGNED = ("face", "square")
CHECKPOINTS = (".safetensors", ".pt", ".pth", ".ckpt", ".pkl")


@dataclass(frozen=True)
class ModelSpec:
    """A model set before it is loaded: its files by kind (see `COMPONENTS`) and its settings."""

    name: str
    components: Mapping[str, ModelFile]
    # "face": pictures are cut around a face; "square": the centred square, and nobody is described.
    aligned: str = "face"
    title: str = ""
    # How much of the inverter's differences between layers refinement starts with.
    deltas: float = 1.0
    # A Hugging Face Space may download it when it starts.
    fetch_on_space: bool = False
    # Kinds whose file was not here when this was read.
    missing: tuple[str, ...] = field(init=False, default=())

    def __post_init__(self) -> None:
        if self.aligned not in ALIGNED:
            raise BadFile(
                f"The model set '{self.name}' is aligned = '{self.aligned}'; "
                f"it must be one of {', '.join(ALIGNED)}."
            )
        missing = tuple(kind for kind, file in self.components.items() if not file.present)
        object.__setattr__(self, "missing", missing)

    @property
    def missing_required(self) -> tuple[str, ...]:
        """Missing kinds that nothing can stand in for."""
        return tuple(kind for kind in self.missing if COMPONENTS[kind].required)

    @property
    def unique_files(self) -> dict[ModelFile, list[str]]:
        """Each file once, with the kinds that it holds: a checkpoint may hold several."""
        kinds: dict[ModelFile, list[str]] = {}
        for kind, file in self.components.items():
            kinds.setdefault(file, []).append(kind)
        return kinds

    @property
    def licence_terms(self) -> dict[str, list[str]]:
        """What the licences mean, in plain words: each meaning with the kinds that it covers."""
        terms: dict[str, list[str]] = {}
        for kind, file in self.components.items():
            if file.means:
                terms.setdefault(file.means, []).append(kind)
        return terms

    @property
    def fetch_command(self) -> str:
        """The command that downloads what is missing."""
        return f"python -m essence fetch {self.name}"


def model_sets(path: Path | None = None) -> dict[str, ModelSpec]:
    """Every model set of the manifest by name. Raises BadFile."""
    path = path or folders.WEIGHTS / "manifest.toml"
    with open(path, "rb") as file:
        try:
            return {name: _read_spec(name, table) for name, table in tomllib.load(file).items()}
        except (tomllib.TOMLDecodeError, TypeError, AttributeError) as error:
            raise BadFile(f"{path.name} is no manifest of model sets: {error}") from None


def find_model_set(model: str) -> ModelSpec:
    """A model set by name, or from a path: a folder, or a checkpoint that holds at least a
    generator. Raises UserError.
    """
    sets, path = model_sets(), Path(model)
    if model in sets:
        return sets[model]
    if path.is_dir():
        return _read_folder(path.resolve())
    if path.is_file():
        return _read_checkpoint(path.resolve())
    raise UserError(
        f"There is no model set '{model}', and no such folder or file. "
        f"There are: {', '.join(sets)}."
    )


def _read_spec(name: str, table: Mapping, root: Path = Path()) -> ModelSpec:
    """A table of the manifest, or of a `model.toml` whose files lie in `root`."""
    components: dict[str, ModelFile] = {}
    for kind in COMPONENTS:
        if kind not in table:
            continue
        values = dict(table[kind])
        if "same_as" in values:
            components[kind] = components[values["same_as"]]
            continue
        values["sources"] = tuple(Mirror(**source) for source in values.get("sources", ()))
        file = ModelFile(**values)
        components[kind] = replace(file, file=str(root / file.file)) if root != Path() else file
    settings = ("aligned", "title", "deltas", "fetch_on_space")
    return ModelSpec(name, components, **{key: table[key] for key in settings if key in table})


def _read_folder(path: Path) -> ModelSpec:
    """A folder with a `model.toml` (one set, as in the manifest), or with files named after the
    kinds of component.
    """
    if (path / "model.toml").is_file():
        with open(path / "model.toml", "rb") as file:
            try:
                return _read_spec(path.name, tomllib.load(file), path)
            except (tomllib.TOMLDecodeError, TypeError, AttributeError, KeyError) as error:
                raise BadFile(
                    f"{path.name}/model.toml is no description of a model set: {error}"
                ) from None
    components: dict[str, ModelFile] = {}
    for kind in COMPONENTS:
        named = [path / (kind + suffix) for suffix in CHECKPOINTS]
        if present := [file for file in named if file.is_file()]:
            components[kind] = ModelFile(str(present[0]))
    if components:
        return ModelSpec(path.name, components)
    checkpoints = sorted(file for file in path.iterdir() if file.suffix in CHECKPOINTS)
    if len(checkpoints) != 1:
        raise UserError(
            f"The folder {path} holds {len(checkpoints)} checkpoints, none of them named after its "
            "part: name them generator, inverter and clip (.safetensors, .pt or .pkl), or describe "
            "them in a model.toml (see docs/MODELS.md)."
        )
    return _read_checkpoint(checkpoints[0])


def _read_checkpoint(path: Path) -> ModelSpec:
    """One checkpoint: the generator, and what else is inside, which shows when it is read."""
    kinds = [kind for kind, component in COMPONENTS.items() if component.found_in]
    return ModelSpec(path.stem, {kind: ModelFile(str(path)) for kind in kinds})
