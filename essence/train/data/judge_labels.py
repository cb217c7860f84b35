"""What label files say of the faces that the judge learns from."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from ...models.judge import GROUPS, OLDEST, READ
from .labels import AGES, read_labels
from .labels import GROUPS as NAMES_OF_GROUPS

OTHER_GROUPS = {"latino_hispanic": "latino", "latino": "latino", "middle eastern": "middle eastern"}


@dataclass
class JudgeLabels:
    """Of N faces; what is not `known` is zero."""

    age: Tensor  # [N] years
    female: Tensor  # [N] 0 or 1
    group: Tensor  # [N], an index into GROUPS
    known: Tensor  # bool [N, 3]: age, female, group

    def rows(self, rows: Tensor) -> JudgeLabels:
        return JudgeLabels(*(getattr(self, f.name)[rows] for f in dataclasses.fields(self)))

    def join(self, other: JudgeLabels) -> JudgeLabels:
        """These faces, then the others."""
        names = [field.name for field in dataclasses.fields(self)]
        return JudgeLabels(
            *(torch.cat([getattr(self, name), getattr(other, name)]) for name in names)
        )

    def attributes(self) -> Tensor:
        """As the judge would say it: the attributes READ, [N, 6]."""
        groups = F.one_hot(self.group, len(GROUPS)).float()[:, : len(READ) - 2]
        return torch.cat([(self.age / OLDEST)[:, None], self.female[:, None], groups], 1)


def read_judge_labels(path: Path, names: Sequence[str]) -> JudgeLabels:
    """From a CSV with a column `file`, and `age`, `gender`, and `race` or `group` where it has
    them. Raises UserError.
    """
    rows = read_labels(path, names)
    ages = [float(AGES.get(row.get("age", ""), -1)) for row in rows]
    sexes = [row.get("gender", "").lower() for row in rows]
    groups = []
    for row in rows:
        said = row.get("race", row.get("group", "")).lower()
        group = NAMES_OF_GROUPS.get(said, OTHER_GROUPS.get(said))
        groups.append(GROUPS.index(group) if group else -1)
    age, group = torch.tensor(ages), torch.tensor(groups)
    known = torch.stack(
        [age >= 0, torch.tensor([s in ("female", "male") for s in sexes]), group >= 0], 1
    )
    female = torch.tensor([float(sex == "female") for sex in sexes])
    return JudgeLabels(age.clamp(min=0), female, group.clamp(min=0), known)
