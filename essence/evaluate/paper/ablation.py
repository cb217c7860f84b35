"""What each part of the method is worth: one option changed at a time."""

from __future__ import annotations

import dataclasses

from torch import Tensor
from tqdm import tqdm

from ...methods import PRESETS
from ...methods.base import adjusted
from .contenders import Contender
from .contents import Section, Table, spread
from .study import Study

STRENGTHS = (0.0, 0.5, 1.0)


def variants(study: Study) -> list[tuple[str, str, Contender]]:
    """What is changed, to what, and the contender; the default itself comes first in each group."""
    scale = study.scale
    few = scale.ablation_steps
    base = adjusted(PRESETS["essence"], steps=few, preview_every=few)
    free = dataclasses.replace(base, space="w+", learning_rate=0.05)
    groups: list[tuple[str, list[tuple[str, object, dict, int | None]]]] = [
        (
            "lambda of consistency",
            [(f"{v:g}", base, {"lambda_consistency": v}, None) for v in (0.5, 0.0, 0.25, 1.0)],
        ),
        (
            "lambda of identity",
            [(f"{v:g}", base, {"lambda_identity": v}, None) for v in (0.5, 0.0, 0.25, 1.0)],
        ),
        (
            "weight decay, b free in W+",
            [(f"{v:g}", free, {"weight_decay": v}, None) for v in (0.0, 0.001, 0.003, 0.007)],
        ),
        (
            "penalty, b in the axes",
            [(f"{v:g}", base, {"penalty": v}, None) for v in (0.002, 0.0, 0.008, 0.03)],
        ),
        ("start", [(s, base, {"start": s}, None) for s in starts(study)]),
        ("sources to learn on", [(str(n), base, {}, n) for n in (4, 1, 2, 6)]),
        (
            "steps",
            [
                (str(n), base, {"steps": n, "preview_every": n}, None)
                for n in dict.fromkeys((few, max(1, few // 10), max(1, few // 4), 2 * few))
            ],
        ),
    ]
    if study.models.latents is None:
        groups = [group for group in groups if "axes" not in group[0]]
    found = []
    for what, choices in groups:
        for value, options, changes, count in choices[: scale.ablation_values]:
            changed = adjusted(options, **changes)
            count = None if count == scale.learned_on else count
            # The default is learned once, for all groups.
            name = "default" if (changed, count) == (base, None) else f"{what} {value}"
            chosen = Contender(name, changed, STRENGTHS, scale.ablation_sources, count)
            found.append((what, value, chosen))
    return found


def starts(study: Study) -> list[str]:
    found = ["centred", "random", "inverted"]
    return [*found[:1], "mapper", *found[1:]] if "mapper" in study.models.extras else found


def ablation_section(study: Study) -> Section:
    """One row for each variant; the same targets and people in all of them."""
    chosen, rows = study.targets[: study.scale.ablation_targets], []
    found = variants(study)
    with tqdm(total=len(found) * len(chosen), desc="ablation") as bar:
        for what, value, contender in found:
            bar.set_postfix_str(contender.name)
            record = study.records(contender, chosen, bar.update)
            rows.append([what, value, *ablation_cells(record, contender.one)])
    columns = ["changed", "to", "similarity (encoder)", "similarity (judge)", "identity distance"]
    columns += ["consistency", "side effects", "seconds"]
    people = study.sources[: study.scale.ablation_sources]
    text = [
        f"{len(chosen)} targets, {len(people)} people who took no part, "
        f"{study.scale.ablation_steps} steps unless said, strength 1; mean ± deviation over the "
        "pairs. The first row of each group is the default, but for the free b, which is the "
        "paper's parametrisation.",
    ]
    table = Table("ablation", "One option changed at a time.", columns, rows)
    return Section("Ablation", text, [], [table])


def ablation_cells(record: dict[str, Tensor], one: int) -> list[str]:
    values = [record["encoder"][:, one], record["judge"][:, one], record["distance"][:, one]]
    values += [record["consistency"], record["side_effects"], record["seconds"]]
    return [spread(each) for each in values]
