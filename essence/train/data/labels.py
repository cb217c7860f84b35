"""What label files say of pictures, and probes fitted to it."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from ...errors import UserError
from .attributes import HAIRED, PROBED
from .probes import Probe, balanced_rows
from .tables import KINDS, Table

EYEWEAR = Path(__file__).with_name("eyewear.csv")  # file, glasses: labelled by hand
AGES = {
    "0-2": 1,
    "3-9": 6,
    "10-19": 15,
    "20-29": 25,
    "30-39": 35,
    "40-49": 45,
    "50-59": 55,
    "60-69": 65,
    "more than 70": 75,
}
GROUPS = {
    "white": "white",
    "caucasian": "white",
    "black": "black",
    "african": "black",
    "asian": "asian",
    "east asian": "asian",
    "southeast asian": "asian",
    "indian": "indian",
}


def read_labels(path: Path, names: Sequence[str]) -> list[dict[str, str]]:
    """Rows of a CSV with a column `file`, in the order of `names`; {} for a picture without a row.
    Raises UserError.
    """
    if not path.is_file():
        raise UserError(f"There is no file {path}: give a CSV with a column 'file', or none.")
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    if rows and "file" not in rows[0]:
        raise UserError(f"{path.name} has no column 'file' (its columns: {', '.join(rows[0])}).")
    by_name = {
        row["file"]: {key: value.strip() for key, value in row.items() if value and key}
        for row in rows
    }
    missing = sorted(set(by_name) - set(names))
    if missing:
        raise UserError(
            f"{path.name} names {len(missing)} pictures that are not there, such as {missing[0]}: "
            "give the CSV of this folder, or remove those rows."
        )
    return [by_name.get(name, {}) for name in names]


def known_attributes(row: dict[str, str]) -> dict[str, float]:
    """Values of PROBED that a row of labels gives: age as a share of 75 years, others -1 or 1."""
    found: dict[str, float] = {}
    if row.get("age") in AGES:
        found["age"] = AGES[row["age"]] / 75
    if sex := row.get("gender", "").lower():
        found["female"] = 2.0 * (sex == "female") - 1
    if group := row.get("race", row.get("group", "")).lower():
        for name in ("white", "black", "asian", "indian"):
            found[name] = 2.0 * (GROUPS.get(group) == name) - 1
    if "glasses" in row or "glasses" in row.get("text", "").lower():
        found["glasses"] = -1.0 if row.get("glasses") == "no" else 1.0
    return found


def probe_targets(rows: Sequence[dict[str, str]]) -> tuple[Tensor, Tensor]:
    """Values of PROBED and whether they are known, [N, len(PROBED)], from rows of labels."""
    columns = {name: k for k, name in enumerate(PROBED)}
    values = torch.zeros(len(rows), len(columns))
    known = torch.zeros(len(rows), len(columns), dtype=torch.bool)
    for i, row in enumerate(rows):
        for name, value in known_attributes(row).items():
            values[i, columns[name]], known[i, columns[name]] = value, True
    return values, known


def hair_scores(table: Table, rows: Sequence[dict[str, str]], free: Tensor) -> Tensor:
    """Scores of the hair colours [N, 5], about -1 to 1, by a probe fitted on the labelled pictures
    that are `free` (bool [N]); zeros without labels.
    """
    colours = [name.removesuffix(" hair") for name in HAIRED]
    indices = [colours.index(row["hair"]) if row.get("hair") in colours else -1 for row in rows]
    classes = torch.where(free, torch.tensor(indices), -1)
    if len(set(classes.tolist()) - {-1}) < 2:
        return torch.zeros(len(table), len(colours))
    chosen = balanced_rows(classes)

    def features(part: Tensor) -> Tensor:
        return torch.cat([table.outer[part].float(), table.measured[part]], 1)

    values = F.one_hot(classes[chosen], len(colours)).float() * 2 - 1
    probe = Probe.fit(features(chosen), values, torch.ones_like(values, dtype=torch.bool))
    found = torch.cat([probe(features(part)) for part in torch.arange(len(table)).split(2048)])
    return found * (table.kind != KINDS.index("tight"))[:, None]
