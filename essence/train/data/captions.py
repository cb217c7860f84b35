"""Captions for the text side: facts read off attributes and labels, and sentences made of facts.

A fact is true (1), false (-1) or unclear (0) of a picture, so that a caption can be compared with
every picture of a batch: it matches where all its facts are true, contradicts where one is false,
and says nothing elsewhere.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ...models.vocabulary import BEFORE, BEHIND, NOUNS, OPENED, OPENINGS, PERSON, WITH
from .attributes import NAMES, OUTER

# Facts by the standardised attribute they are read from: (attribute, true above, false below); a
# minus sign turns the attribute round.
THRESHOLDS = {
    "smiling": ("smile", 0.5, -0.3),
    "serious": ("-smile", 0.6, -0.2),
    "mouth open": ("mouth open", 0.9, 0.1),
    "mouth closed": ("-mouth open", 0.45, 0.0),
    "teeth": ("teeth", 0.9, 0.1),
    "glasses": ("glasses", 1.4, 0.5),
    "no glasses": ("-glasses", -0.2, -0.9),
    "long hair": ("hair long", 0.8, -0.2),
    "short hair": ("-hair long", 0.5, -0.3),
    "fringe": ("fringe", 1.0, 0.2),
    "red lips": ("lip red", 1.1, 0.2),
    "thick brows": ("brow dark", 1.0, 0.1),
    "raised brows": ("brow height", 1.1, 0.2),
    "wide eyes": ("eye open", 1.1, 0.2),
    "narrow eyes": ("-eye open", 0.9, 0.0),
    "dark eyes": ("eye dark", 1.2, 0.2),
    "pale skin": ("skin light", 0.9, 0.1),
    "dark skin": ("-skin light", 1.1, 0.2),
    "dark background": ("-back light", 1.1, 0.2),
    "bright background": ("back light", 0.8, -0.1),
    "blue background": ("-back yellow", 1.3, 0.4),
    "busy background": ("back busy", 1.0, 0.0),
    "light from the right": ("light side", 1.1, 0.2),
    "light from the left": ("-light side", 1.1, 0.2),
    "warm light": ("warm", 1.1, 0.2),
    "cold light": ("-warm", 1.1, 0.2),
    "colourful": ("saturation", 1.1, 0.2),
    "colourless": ("-saturation", 1.2, 0.3),
    "dark picture": ("-light", 1.1, 0.2),
    "bright picture": ("light", 1.1, 0.2),
    "hard light": ("face contrast", 1.2, 0.2),
    "round face": ("-face long", 1.2, 0.2),
    "long face": ("face long", 1.2, 0.2),
    "wrinkles": ("wrinkles", 1.2, 0.2),
}
# Facts by the probe they are read from, which gives about -1 to 1: the same, in raw units.
LOOKS = {
    "moustache": ("moustached", 0.2, -0.3),
    "beard": ("bearded", 0.2, -0.3),
    "shaved": ("-bearded", 0.5, 0.0),
    "bald": ("bald head", 0.3, -0.2),
    "hat": ("hat", 0.2, -0.3),
    "headscarf": ("headscarf", 0.2, -0.3),
    "no hat": ("-headwear", 0.5, 0.0),
    "sunglasses": ("sunglasses", 0.3, -0.2),
    "make-up": ("make-up", 0.3, -0.4),
    "drawing": ("drawn", 0.3, -0.2),
    "photograph": ("-drawn", 0.5, 0.0),
}
# What a hat hides.
UNDER_HATS = ("long hair", "short hair", "fringe", "bald")
HAIR = ("black hair", "brown hair", "blond hair", "red hair", "grey hair")
PEOPLE = (
    "woman",
    "man",
    "baby",
    "child",
    "teenage",
    "young",
    "middle-aged",
    "old",
    "white",
    "black",
    "asian",
    "indian",
)
FACTS = (*THRESHOLDS, *LOOKS, *HAIR, *PEOPLE)
# Columns of the facts of a mirrored picture.
_SIDES = ("light from the right", "light from the left")
MIRRORED = [
    FACTS.index(_SIDES[1 - _SIDES.index(name)] if name in _SIDES else name) for name in FACTS
]
AGES = ("teenage", "young", "middle-aged", "old")

MOST_FACTS = 4  # beside the person's sex and age
MOST_USED = MOST_FACTS + 2


# ---- facts


def facts(scores: Tensor, raw: Tensor) -> Tensor:
    """int8 [N, len(FACTS)] in {-1, 0, 1}. `scores` [N, len(NAMES)] standardised, `raw` the same in
    raw units.
    """
    found = {}
    for table, values in ((THRESHOLDS, scores), (LOOKS, raw)):
        column = {name: values[:, i] for i, name in enumerate(NAMES)}
        column["headwear"] = torch.maximum(column["hat"], column["headscarf"])
        for fact, (source, high, low) in table.items():
            value = -column[source[1:]] if source.startswith("-") else column[source]
            # Exactly zero in raw units: no probe was fitted.
            known = 1 if table is THRESHOLDS else (value != 0)
            found[fact] = ((value > high).to(torch.int8) - (value < low).to(torch.int8)) * known
    bare = found["hat"].maximum(found["headscarf"]) < 0
    bare |= ~raw[:, [NAMES.index("hat"), NAMES.index("headscarf")]].any(1)
    for fact in UNDER_HATS:
        found[fact] = found[fact] * bare
    hair = hair_facts(scores, raw) * bare[:, None]
    return torch.cat([torch.stack(list(found.values()), 1), hair, people_facts(raw)], 1)


def exclusive(chosen: Tensor, clear: Tensor) -> Tensor:
    """[N, K] int8: 1 for the chosen one of K, -1 for the others; 0 in rows that are not `clear`."""
    return (chosen.to(torch.int8) * 2 - 1) * clear[:, None]


def hair_facts(scores: Tensor, raw: Tensor) -> Tensor:
    """Hair colour [N, 5] by the probe, where there is one, else by the median colour above the
    forehead (sRGB, 0 to 1); unclear on the bald.
    """
    has_hair = (scores[:, NAMES.index("bald")] < 0.8) & (raw[:, NAMES.index("bald head")] < 0.3)
    probes = raw[:, [NAMES.index(name) for name in HAIR]]
    best = probes.topk(2, dim=1).values
    probed = exclusive(probes == best[:, :1], (best[:, 0] - best[:, 1] > 0.2) & has_hair)

    light, red, yellow = (
        raw[:, NAMES.index(f"hair {channel}")] for channel in ("light", "red", "yellow")
    )
    tint = red / (light + 0.05)
    is_red = (tint > 0.42) & (light > 0.2) & (yellow > 0)
    is_grey = (light > 0.3) & (red.abs() < 0.05) & (yellow.abs() < 0.06)
    is_blond = (light > 0.36) & (yellow > 0.08) & ~is_red
    is_black = (light < 0.14) & ~is_red
    is_brown = (light > 0.16) & (light < 0.34) & (red > 0.03) & (yellow > 0.02) & ~is_red
    chosen = torch.stack([is_black, is_brown, is_blond, is_red, is_grey], 1)
    measured = exclusive(chosen, (chosen.sum(1) == 1) & has_hair)
    return torch.where(probes.any(dim=1, keepdim=True), probed, measured)


def people_facts(raw: Tensor) -> Tensor:
    """Sex, age (a share of 75 years) and groups from the probes, which give about -1 to 1."""
    female, age = raw[:, NAMES.index("female")], raw[:, NAMES.index("age")] * 75
    sex = exclusive(torch.stack([female > 0, female <= 0], 1), female.abs() > 0.25)
    # Years: true between the first two, false 5 below the first or above the third.
    ranges = {
        "baby": (-99, 3, 6),
        "child": (-99, 12, 18),
        "teenage": (12, 19, 24),
        "young": (19, 32, 38),
        "middle-aged": (33, 49, 57),
        "old": (51, 99, 99),
    }
    columns = []
    for low, high, beyond in ranges.values():
        inside, outside = (age > low) & (age < high), (age > beyond) | (age < low - 5)
        # An age of exactly zero: no probe was fitted.
        columns.append((inside.to(torch.int8) - outside.to(torch.int8)) * (age != 0))
    for name in ("white", "black", "asian", "indian"):
        value = raw[:, NAMES.index(name)]
        columns.append((value > 0.1).to(torch.int8) - (value < -0.4).to(torch.int8))
    return torch.cat([sex, torch.stack(columns, 1)], 1)


def without_outer_facts(table: Tensor, rows: Tensor) -> Tensor:
    """The facts [N, F]; on the given rows (bool [N]) those are unclear that a tight crop cannot
    show.
    """
    outer = [
        name in (*HAIR, "no hat")
        or (THRESHOLDS | LOOKS).get(name, ("",))[0].removeprefix("-") in OUTER
        for name in FACTS
    ]
    hidden = rows[:, None] & torch.tensor(outer, device=rows.device)
    return torch.where(hidden, torch.zeros_like(table), table)


# ---- sentences


def compose(true: Sequence[str], rng: random.Random) -> tuple[str, tuple[str, ...]]:
    """A sentence about some of the true facts, and the facts that it uses. The same `rng` state
    gives the same sentence.
    """
    pool = [fact for fact in true if fact not in NOUNS]
    rng.shuffle(pool)
    used = pool[: rng.randint(0, MOST_FACTS) or 1]
    # At most one adjective of age and one of group: `an old Asian man`, not more.
    for group in (AGES, ("white", "black", "asian", "indian"), tuple(OPENED)):
        several = [fact for fact in used if fact in group][1:]
        used = [fact for fact in used if fact not in several]
    person = [fact for fact in ("baby", "child", "woman", "man") if fact in true]
    if rng.random() >= 0.6 and used:
        person = []
    if not person:
        noun, people = rng.choice(PERSON), []
    elif person[0] == "child" and len(person) > 1:
        noun, people = {"woman": "girl", "man": "boy"}[person[1]], person[:2]
    else:
        noun, people = person[0], person[:1]
    return sentence(noun, used, rng), (*people, *used)


def sentence(noun: str, used: Sequence[str], rng: random.Random) -> str:
    """`a photo of a smiling woman with blond hair and glasses, lit from the left`."""
    before = [rng.choice(BEFORE[fact]) for fact in used if fact in BEFORE]
    having = [rng.choice(WITH[fact]) for fact in used if fact in WITH]
    behind = [rng.choice(BEHIND[fact]) for fact in used if fact in BEHIND]
    opened = [rng.choice(OPENED[fact]) for fact in used if fact in OPENED]
    if len(used) == 1 and having and noun in PERSON and rng.random() < 0.4:
        return having[0].removeprefix("a ").removeprefix("an ")
    words = " ".join([*before, noun])
    article = "an " if words[0].lower() in "aeiou" else "a "
    text = (opened or [rng.choice(OPENINGS)])[0] + article + words
    if having:
        *first, last = having
        text += " with " + (", ".join(first) + " and " if first else "") + last
    return text + "".join(f", {phrase}" for phrase in behind)


def true_facts(row: Tensor) -> list[str]:
    """Names of the facts that are true, from one row of `facts`."""
    return [name for name, value in zip(FACTS, row.tolist(), strict=True) if value > 0]


def indices(used: Sequence[str], count: int) -> list[int]:
    """The columns of the facts, filled up to `count` with one that is always true."""
    return [*(FACTS.index(name) for name in used), *[len(FACTS)] * count][:count]


def agreement(used: Tensor, table: Tensor) -> Tensor:
    """Captions (`indices` of their facts, [C, U]) against pictures (rows of `facts`): [C, N] int8,
    1 agrees, -1 contradicts, 0 unclear.
    """
    padded = F.pad(table, (0, 1), value=1)
    return torch.stack([padded[:, column] for column in used.T]).amin(0).T


def prompts(fact: str) -> list[str]:
    """Sentences that say one fact of anybody: the zero-shot prompts."""
    rng = random.Random(0)
    nouns, used = ([fact], []) if fact in NOUNS else (PERSON, [fact])
    return sorted({sentence(noun, used, rng) for noun in nouns for _ in range(12)})
