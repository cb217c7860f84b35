"""The paper's other figures: drawn and painted targets (3a), two pictures of one person (3b), and
churches (2, 3c).
"""

from __future__ import annotations

from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from ...errors import UserError
from ...library import manifest
from ...studio import Studio
from ...values import Target
from ..bootstrap import mean_interval
from ..essence_measures import target_consistency
from .contenders import Contender, Scale
from .contents import NOT_KNOWN, Figure, Section, Table, labelled_grid, spread
from .study import SHOWN, Study

PERSONS_SHOWN = 4
WANTED = 0.8  # share of triples


def essence_sheet(
    study: Study, contender: Contender, targets: list[Target], strength: float = 1.0
) -> Image.Image:
    """Sources on top, targets left."""
    sources = study.sources[:SHOWN]
    rows: list[list[Image.Image | None]] = [[None, *(source.inversion for source in sources)]]
    for target in targets:
        cells = study.studio.blend(sources, [study.essence(contender, target)], [strength])[0]
        rows.append([target.picture, *map(Image.fromarray, cells)])
    labels = ["sources", *(target.name for target in targets)]
    return labelled_grid(rows, labels, min(study.models.size, 128))


def drawn_section(study: Study, ours: Contender) -> Section:
    """Figure 3a."""
    title = "Figure 3a: drawn and painted targets"
    drawn = [target for target in study.targets if target.name.startswith("drawn")]
    if not drawn:
        return Section(title, ["Skipped: no drawings among the targets."])
    sheet = essence_sheet(study, ours, drawn)
    caption = "Targets drawn by code, as cartoon, pencil and oil; people who took no part."
    return Section(title, [], [Figure("figure-3a", caption, sheet)])


# ---- two pictures of one person


def persons_section(study: Study, methods: list[Contender]) -> Section:
    """Figure 3b, and target consistency."""
    title = "Figure 3b: two pictures of one person as targets"
    persons = study.targets[: study.scale.persons]
    if len(persons) < 2:
        return Section(title, ["Skipped: it takes two targets."])
    rows, figures = [], []
    with tqdm(total=len(methods) * len(persons) * 2, desc="persons") as bar:
        for contender in methods:
            pair = []
            for targets in (persons, study.second_pictures):
                found = []
                for target in targets:
                    found.append(study.essence(contender, target).delta)
                    bar.update()
                pair.append(torch.stack(found))
            rows.append([contender.name, *consistency_cells(study, *pair)])
    shown = [target for both in zip(persons, study.second_pictures, strict=True) for target in both]
    sheet = essence_sheet(study, methods[0], shown[: 2 * PERSONS_SHOWN])
    caption = "Two pictures of each person, one below the other, as targets."
    figures.append(Figure("figure-3b", caption, sheet))
    text = [
        "The second picture of a generated person is mirrored, lit otherwise (exposure, colour, a "
        "lamp at one side) and turned, scaled and shifted a little; a drawn one is drawn again "
        "with other strokes, which is nearly the same picture. A triple is a person's two essences "
        "and another person's: are the two the more alike? The light belongs to what an essence "
        "carries, so that this asks much. "
        f"Wanted: at least {WANTED:.0%} of triples.",
    ]
    columns = ["method", "share of triples, cosine of b in W+", "generated persons alone"]
    columns += ["in the latents' own axes", "generated persons alone"]
    columns += ["cosine of a person's two", "of two persons'"]
    table = Table("target-consistency", "Mean [95 % interval] over persons.", columns, rows)
    return Section(title, text, figures, [table])


def consistency_cells(study: Study, first: Tensor, second: Tensor) -> list[str]:
    """Target consistency of b [P, L, D] of P persons' two pictures, and the cosines behind it."""
    spaces = {"W+": (first.flatten(1), second.flatten(1))}
    if study.models.latents is not None:
        own = study.models.latents.to("cpu")
        spaces["axes"] = tuple(own.coordinates(b).flatten(1) for b in (first, second))
    cells = []
    for pair in spaces.values():
        by_person = target_consistency(*pair).float().mean(1, keepdim=True)
        cells += [str(mean_interval(by_person)), str(mean_interval(by_person[generated(study)]))]
    cells += [NOT_KNOWN] * (4 - len(cells))
    a, b = (torch.nn.functional.normalize(x, dim=1) for x in list(spaces.values())[-1])
    cosines = a @ b.T
    other = cosines[~torch.eye(len(a), dtype=torch.bool)]
    return [*cells, *map(spread, (cosines.diagonal(), other))]


def generated(study: Study) -> list[int]:
    """Targets whose second picture is another picture, not nearly the same drawing."""
    return [
        i
        for i, each in enumerate(study.targets[: study.scale.persons])
        if not each.name.startswith("drawn")
    ]


# ---- churches


def church_section(name: str, scale: Scale, contender: Contender, out: Path) -> Section:
    """Figures 2 and 3c with the model set `name`, if it is on this machine."""
    title = "Figures 2 and 3c: churches"
    try:
        spec = manifest.find_model_set(name)
    except UserError as error:
        return Section(title, [f"Skipped: {error}"])
    if spec.missing_required:
        text = f"Skipped: the model set '{name}' is not on this machine (`{spec.fetch_command}`)."
        return Section(title, [text])
    study = Study(Studio(name), None, scale, out)
    cells = []
    with tqdm(total=len(study.targets), desc="churches") as bar:
        record = study.records(contender, study.targets, bar.update)
    for key in ("encoder", "consistency", "linearity"):
        values = record[key][:, contender.one] if key == "encoder" else record[key]
        cells.append(spread(values))
    columns = ["similarity before", "after", "consistency", "linearity"]
    row = [spread(record["encoder"][:, 0]), *cells]
    table = Table("churches", f"{name}: mean ± deviation at strength 1.", columns, [row])
    sheet = essence_sheet(study, contender, study.targets[:4])
    caption = "Random pictures of the church generator as sources and targets."
    return Section(title, [], [Figure("figure-2", caption, sheet)], [table])
