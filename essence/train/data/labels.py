"""What label files say of pictures, and probes fitted to it."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from ...errors import UserError
from .attributes import HAIRED, LOOKED, OUTER, PROBED
from .drawings import random_look
from .probes import balanced_probe, class_probe
from .tables import CARTOON, KINDS, PAINTED, Table

# What was seen on pictures of ../shared by eye: file, hat, headscarf, glasses, sunglasses, beard,
# moustache, bald, makeup, drawing (yes, no or nothing) and hair (a colour). The second file's
# pictures take part in no training.
SEEN = Path(__file__).with_name("looks.csv")
SEEN_HELD_OUT = Path(__file__).with_name("looks_held_out.csv")
COLUMN_OF = {  # of LOOKED, where the column is called otherwise
    "bearded": "beard",
    "moustached": "moustache",
    "make-up": "makeup",
    "drawn": "drawing",
    "bald head": "bald",
}
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
# Of whom one says that they are a child or elderly.
CHILD = {"0-2": 1.0, "3-9": 1.0, "10-19": 0.2, "20-29": -0.6}
ELDERLY = {"40-49": -0.4, "50-59": 0.4, "60-69": 1.0, "more than 70": 1.0}
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


def seen_by_eye(names: Sequence[str], path: Path = SEEN) -> list[dict[str, str]]:
    """Rows of one of this package's own label files for those of `names` that it has, whatever
    their suffix.
    """
    with path.open(newline="", encoding="utf-8") as file:
        rows = {Path(row["file"]).stem: row for row in csv.DictReader(file)}
    found = [_seen(name, rows) for name in names]
    return [{key: value for key, value in row.items() if value} for row in found]


def _seen(name: str, rows: dict[str, dict[str, str]]) -> dict[str, str]:
    """A photograph's row; of a drawn picture what is known because we drew it."""
    if name.startswith(CARTOON):
        return random_look(int(name.removeprefix(CARTOON)))[1]
    row = rows.get(Path(name.removeprefix(PAINTED)).stem, {})
    return row | {"drawing": "yes"} if name.startswith(PAINTED) else row


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


def known_looks(row: dict[str, str]) -> dict[str, float]:
    """Values of LOOKED that a row of labels gives, -1 to 1."""
    found: dict[str, float] = {}
    if row.get("age") in AGES:
        found["child"] = CHILD.get(row["age"], -1.0)
        found["elderly"] = ELDERLY.get(row["age"], -1.0)
    for name in LOOKED:
        if answer := row.get(COLUMN_OF.get(name, name)):
            found[name] = 1.0 if answer == "yes" else -1.0
    return found


def look_scores(table: Table, rows: Sequence[dict[str, str]], free: Tensor) -> Tensor:
    """Scores of LOOKED [N, K], about -1 to 1, by probes fitted on the labelled pictures that are
    `free` (bool [N]); zeros where there are no labels of both kinds, and for what a tight crop
    cannot show.
    """
    known = [known_looks(row) for row in rows]
    scores = torch.zeros(len(table), len(LOOKED))
    whole = table.kind != KINDS.index("tight")

    def features(part: Tensor, outer: bool) -> Tensor:
        inner = table.features[part].float()
        if not outer:
            return inner
        return torch.cat([inner, table.outer[part].float(), table.measured[part]], 1)

    for column, name in enumerate(LOOKED):
        outer = name in OUTER
        usable = free & (whole if outer else torch.ones_like(whole))
        labelled = torch.tensor([name in row for row in known]) & usable
        chosen = labelled.nonzero()[:, 0]
        values = torch.tensor([known[i][name] for i in chosen.tolist()])
        if not len(chosen) or values.min() > 0 or values.max() < 0:
            continue
        chosen, values = thinned(chosen, values)
        probe = balanced_probe(features(chosen, outer), values)
        parts = torch.arange(len(table)).split(2048)
        scores[:, column] = torch.cat([probe(features(part, outer))[:, 0] for part in parts])
        if outer:
            scores[:, column] *= whole
    return scores


def thinned(chosen: Tensor, values: Tensor, most: int = 4000) -> tuple[Tensor, Tensor]:
    """At most `most` rows, half of them with positive values where there are so many."""
    rng = torch.Generator().manual_seed(0)
    order = torch.randperm(len(chosen), generator=rng)
    yes = order[values[order] > 0][: most // 2]
    no = order[values[order] <= 0][: most - len(yes)]
    kept = torch.cat([yes, no])
    return chosen[kept], values[kept]


def with_known(
    probed: Tensor,
    rows: Sequence[dict[str, str]],
    free: Tensor,
    share: float = 0.7,
) -> Tensor:
    """`probed` [N, PROBED + HAIRED + LOOKED] with a `share` of what the labels say where they say
    anything, on the `free` rows: a probe guesses again what is known.
    """
    names = (*PROBED, *HAIRED, *LOOKED)
    probed = probed.clone()
    for i in free.nonzero()[:, 0].tolist():
        known = known_attributes(rows[i]) | known_looks(rows[i])
        if (colour := f"{rows[i].get('hair')} hair") in HAIRED:
            known |= {name: 1.0 if name == colour else -0.6 for name in HAIRED}
        for name, value in known.items():
            column = names.index(name)
            probed[i, column] = share * value + (1 - share) * probed[i, column]
    return probed


def hair_scores(table: Table, rows: Sequence[dict[str, str]], free: Tensor) -> Tensor:
    """Scores of the hair colours [N, 5], about -1 to 1, by a probe fitted on the labelled pictures
    that are `free` (bool [N]); zeros without labels.
    """
    colours = [name.removesuffix(" hair") for name in HAIRED]
    indices = [colours.index(row["hair"]) if row.get("hair") in colours else -1 for row in rows]
    classes = torch.where(free, torch.tensor(indices), -1)
    if len(set(classes.tolist()) - {-1}) < 2:
        return torch.zeros(len(table), len(colours))
    chosen = (classes >= 0).nonzero()[:, 0]

    def features(part: Tensor) -> Tensor:
        return torch.cat([table.outer[part].float(), table.measured[part]], 1)

    values = F.one_hot(classes[chosen], len(colours)).float() * 2 - 1
    probe = class_probe(features(chosen), values, classes[chosen])
    found = torch.cat([probe(features(part)) for part in torch.arange(len(table)).split(2048)])
    return found * (table.kind != KINDS.index("tight"))[:, None]
