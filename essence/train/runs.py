"""Runs of recipes that rest on one another: what has been made from the same inputs and options is
not made again, and what was interrupted goes on.
"""

from __future__ import annotations

import csv
import dataclasses
import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..runtime.files import write_bytes
from .common import list_pictures

NOT_STATED = ("", "none stated", "none", "unknown")
DONE = "done.json"  # in the folder of a finished recipe: its inputs and options
# Options that change how fast something is made, not what.
HOW = ("out", "threads", "device", "half")


def content(value: object) -> object:
    """What an option stands for: a file its bytes, a folder its files' names and sizes."""
    if not isinstance(value, str) or not value or not (path := Path(value)).exists():
        return value
    if path.is_file():
        return hashlib.sha256(path.read_bytes()).hexdigest()
    files = sorted(each for each in path.rglob("*") if each.is_file())
    listed = [(str(each.relative_to(path)), each.stat().st_size) for each in files]
    return hashlib.sha256(repr(listed).encode()).hexdigest()


def digest(name: str, values: Mapping[str, object]) -> str:
    """Of a recipe's name, its inputs and its options."""
    known = {key: content(value) for key, value in values.items() if key not in HOW}
    text = json.dumps([name, known], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


class Runs:
    """The folder of all runs. `settings` has the options of each recipe beside its inputs; `how`
    those that change nothing but how fast it goes.
    """

    def __init__(
        self, out: Path, settings: Mapping[str, Mapping[str, Any]], how: Mapping[str, Any]
    ):
        self.out, self.settings, self.how = out, settings, how
        self.made: list[str] = []  # in this call

    def once(self, name: str, values: Mapping[str, Any], make: Callable[[Path], None]) -> Path:
        """The folder in which `make` made something from `values`, now or earlier."""
        folder = self.out / f"{name}-{digest(name, values)[:8]}"
        if (folder / DONE).is_file():
            print(f"{name}: as it was ({folder.name})", flush=True)
            return folder
        print(f"{name}: {folder.name}", flush=True)
        folder.mkdir(parents=True, exist_ok=True)
        make(folder)
        known = json.dumps({key: str(value) for key, value in values.items()}, indent=1)
        write_bytes(folder / DONE, known.encode())
        self.made.append(name)
        return folder

    def recipe(self, name: str, train: Callable, kind: type, **inputs: str) -> Path:
        """The folder of a recipe's run: `train` with options of its `kind`; inputs that are empty
        are left to their defaults.
        """
        fields = {each.name for each in dataclasses.fields(kind)}
        values = {key: value for key, value in inputs.items() if value} | self.settings[name]
        how = {key: value for key, value in self.how.items() if key in fields}
        return self.once(name, values, lambda folder: train(kind(out=str(folder), **values, **how)))


# ---- what the recipes read


def chosen_pictures(
    runs: Runs, source: str, most: int = 0, allowed: set[str] | None = None
) -> Path:
    """A folder with links to the pictures of a folder: those whose names are `allowed`, `most` of
    them if not zero. Raises UserError where none is.
    """
    paths = list_pictures(source)
    if allowed is not None:
        paths = [path for path in paths if path.name in allowed]
        if not paths:
            raise UserError(f"The index states no licence for any picture of {source}.")
    if most:
        paths = paths[:: max(1, len(paths) // most)][:most]
    names = repr([(path.name, path.stat().st_size) for path in paths])

    def link(folder: Path) -> None:
        for path in paths:
            place = folder / path.name
            place.unlink(missing_ok=True)
            place.symlink_to(path.resolve())

    return runs.once("pictures", {"names": hashlib.sha256(names.encode()).hexdigest()}, link)


def stated_licences(index: Path) -> set[str]:
    """Names of the pictures whose licence the index gives. Raises UserError."""
    try:
        with index.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        known = {row["file"]: (row["licence"] or "").strip().lower() for row in rows}
    except (OSError, KeyError) as error:
        raise UserError(f"{index} is no index with the columns file and licence: {error}") from None
    return {name for name, licence in known.items() if licence not in NOT_STATED}


def labels_of(runs: Runs, table: str, pictures: Path) -> str:
    """The rows of a CSV that are about the pictures of a folder, as a file; "" without a CSV."""
    if not table:
        return ""
    names = {path.name for path in list_pictures(pictures)}
    with Path(table).open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        rows = [row for row in reader if row.get("file") in names]
        columns = reader.fieldnames or []

    def write(folder: Path) -> None:
        with (folder / "labels.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, columns)
            writer.writeheader()
            writer.writerows(rows)

    known = {"pictures": pictures.name, "table": table}
    return str(runs.once("labels", known, write) / "labels.csv")
