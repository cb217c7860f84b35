"""Ours against every rival: figure 1, the table of measures, and identity at equal similarity."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from ...studio import TRUNCATION
from ...values import Target
from ..bootstrap import Interval, difference_at_equal_similarity, mean_interval
from ..held_out import to_channels
from ..metrics import fid, kid, set_features
from .contenders import Contender
from .contents import NOT_KNOWN, Figure, Section, Table, labelled_grid
from .study import REFERENCE_SEED, SHOWN, Study

FEATURES = 704  # of a picture in FID: with fewer pictures its covariance is singular
Records = dict[str, dict[str, Tensor]]  # contender -> what was measured, [T, ...]
# What each column says, in plain words.
MEASURES = {
    "target similarity (encoder)": "how much the edited people look like the target to the "
    "image-text encoder that was optimised (cosine, 1 is the same). It flatters whoever optimises "
    "it.",
    "target similarity (judge)": "the same by a network that took no part: the cosine of "
    "attributes (age, sex, group, smile, mouth, eyes, gaze, hair, skin, beard, lips) in standard "
    "deviations.",
    "moved": "of the attributes in which target and source clearly differ, the share of the way "
    "that was gone; 1 is all of it.",
    "side effects": "how far the attributes moved in which they do not differ, in standard "
    "deviations; 0 is best.",
    "disentanglement": "of all that changed, the share that went towards the target.",
    "identity distance": "how far people are from themselves by dlib's face network; the same "
    "person is usually closer than 0.6.",
    "identity (ArcFace)": "the cosine of the person before and after by ArcFace, where somebody "
    "gave its weights (--arcface); 1 is the same.",
    "consistency": "whether all sources change alike (eq. 7 on people who took no part): the mean "
    "cosine between their changes.",
    "linearity": "how straight the way in the encoder's space is as strength grows; 1 is straight.",
    "sharpness": "the variance of the Laplacian beside that of the unedited picture.",
}


def comparison_sections(study: Study, contenders: Sequence[Contender]) -> list[Section]:
    """Learn and measure everything, with a bar on stderr."""
    found: Records = {}
    total = len(contenders) * len(study.targets)
    with tqdm(total=total, desc="methods x targets") as bar:
        for contender in contenders:
            bar.set_postfix_str(contender.name)
            found[contender.name] = study.records(contender, study.targets, bar.update)
    tables = [measures_table(study, contenders, found)]
    text = [
        f"{len(study.targets)} targets, {len(study.sources)} people who took no part (random faces "
        f"of the generator); directions were learned on {study.scale.learned_on} others with "
        f"{study.scale.steps} steps, rivals that make pictures worked on each of these people. "
        "Every figure: mean at strength 1 and 95 % bootstrap interval over targets and sources.",
        *(f"{name}: {plain}" for name, plain in MEASURES.items()),
        *(f"{c.name}: {c.note}." for c in contenders if c.note),
    ]
    figure = Section("Figure 1: two targets, all methods", [], figure_one(study, contenders, found))
    measured = Section("Measures", text, [], tables, [pairs_table(study, contenders, found)])
    return [figure, measured, equal_section(study, contenders, found)]


# ---- figure 1


def figure_one(study: Study, contenders: Sequence[Contender], found: Records) -> list[Figure]:
    """A sheet for the first generated and the first drawn target; at strength 1."""
    names = [target.name for target in study.targets]
    drawn = next((i for i, name in enumerate(names) if name.startswith("drawn")), 1)
    shown = [source.inversion for source in study.sources[:SHOWN]]
    figures = []
    for t in [i for i in (0, drawn) if i < len(names)]:
        rows: list[list[Image.Image | None]] = [[study.targets[t].picture, *shown]]
        for contender in contenders:
            cells = found[contender.name]["cells"][t].numpy()
            rows.append([None, *map(Image.fromarray, cells)])
        labels = ["sources", *(contender.name for contender in contenders)]
        sheet = labelled_grid(rows, labels, min(study.models.size, 128))
        caption = f"Target {names[t]} (top left); strength 1, share 1/2 for the blends."
        figures.append(Figure(f"figure-1-{names[t]}", caption, sheet))
    return figures


# ---- the table of measures


def measures_table(study: Study, contenders: Sequence[Contender], found: Records) -> Table:
    juror = study.juror.name if study.juror else "judge"
    columns = ["method", "target similarity (encoder)", f"target similarity ({juror})", "moved"]
    columns += ["side effects", "disentanglement", "identity distance", "identity (ArcFace)"]
    columns += ["consistency", "linearity"]
    columns += ["sharpness", "KID x 1000 (dlib's face network, not Inception)"]
    columns += ["FID (dlib's face network, not Inception)", "seconds per target"]
    first, reference = found[contenders[0].name], reference_features(study)
    unedited = [mean_interval(first[name][:, 0]) for name in ("encoder", "judge")]
    inversions = np.stack([np.asarray(source.inversion) for source in study.sources])
    floor = [NOT_KNOWN] * 2
    if reference is not None:
        floor = set_distances({"features": set_features(to_channels(inversions))[None]}, reference)
    rows = [["unedited", *map(shown, unedited), *[NOT_KNOWN] * 8, *floor, NOT_KNOWN]]
    for contender in contenders:
        record, one = found[contender.name], contender.one
        tables = [record["encoder"][:, one], record["judge"][:, one], record["moved"]]
        tables += [record["side_effects"], record["disentanglement"], record["distance"][:, one]]
        tables += [
            record["arcface"],
            record["consistency"][:, None],
            record["linearity"],
            record["sharpness"],
        ]
        seconds = record["seconds"]
        spread = f" ± {seconds.std():.1f}" if len(seconds) > 1 else ""
        cells = [shown(mean_interval(table)) for table in tables]
        cells += set_distances(record, reference)
        rows.append([contender.name, *cells, f"{seconds.mean():.1f}{spread}"])
    return Table("measures", "At strength 1; mean [95 % interval].", columns, rows)


def shown(found: Interval) -> str:
    return NOT_KNOWN if found.value != found.value else str(found)


def reference_features(study: Study) -> Tensor | None:
    """Of samples of the generator itself, [N, 704]; None where it makes no faces."""
    if not study.models.has_faces:
        return None
    models, count = study.models, study.scale.reference
    z = torch.randn(
        count, models.latent_shape[1], generator=torch.Generator().manual_seed(REFERENCE_SEED)
    )
    with torch.no_grad():
        w = models.generator.mapping(z.to(models.device), TRUNCATION)
    return set_features(to_channels(models.render(models.generator.repeat(w))))


def set_distances(record: dict[str, Tensor], reference: Tensor | None) -> list[str]:
    """KID and FID of a contender's edits to the generator's own samples, truncated as the sources
    are. FID only where there are more pictures than features.
    """
    if reference is None or "features" not in record:
        return [NOT_KNOWN, NOT_KNOWN]
    made = record["features"].float().flatten(0, 1)
    enough = min(len(made), len(reference)) > FEATURES
    # By targets: the spread of the estimate over halves of them says how far to trust it.
    halves = [part.flatten(0, 1) for part in record["features"].float().chunk(2)]
    estimates = [1000 * kid(reference, half) for half in halves]
    spread = abs(estimates[0] - estimates[-1]) / 2
    figure = f"{1000 * kid(reference, made):.0f}" + (f" ± {spread:.0f}" if spread else "")
    return [figure, f"{fid(reference, made):.1f}" if enough else NOT_KNOWN]


def pairs_table(study: Study, contenders: Sequence[Contender], found: Records) -> Table:
    """Every single figure: target x source x strength."""
    columns = ["method", "target", "source", "strength", "encoder", "judge", "identity distance"]
    rows = []
    for contender in contenders:
        record = found[contender.name]
        names = ("encoder", "judge", "distance")
        values = torch.stack([record[name] for name in names], -1).tolist()  # [T, K, S, 3]
        for target, by_strength in zip(study.targets, values, strict=True):
            for strength, by_source in zip(contender.strengths, by_strength, strict=True):
                for source, figures in zip(study.sources, by_source, strict=False):
                    known = [target.name, source.name, f"{strength:g}"]
                    rows.append([contender.name, *known, *(f"{figure:.4f}" for figure in figures)])
    return Table("pairs", "Every pair of target and source at every strength", columns, rows)


# ---- identity at equal similarity


# A level below this share of what ours gains compares two methods that hardly do anything.
COMPARABLE = 0.25
VERDICTS = {1: "ours", -1: "the rival", 0: "neither (the interval holds zero)"}
NOT_REACHED = "nobody (the rival hardly comes to look like the target)"


def equal_section(study: Study, contenders: Sequence[Contender], found: Records) -> Section:
    """Ours against each rival where both look as much like the target, over all targets and over
    each kind of them.
    """
    title = "Identity at equal similarity"
    if not study.models.has_faces:
        return Section(title, ["Skipped: these pictures are no faces."])
    ours, *rivals = contenders
    names = {"encoder": "the optimised encoder"}
    names |= {"judge": f"the {study.juror.name}"} if study.juror else {}
    rows, verdicts = [], {}
    for rival in rivals:
        for judge in sorted(names, reverse=True):
            for kind, chosen in kinds(study.targets).items():
                count = found[rival.name][judge].shape[2]
                pair = [
                    tuple(found[c.name][key][chosen, :, :count] for key in (judge, "distance"))
                    for c in (ours, rival)
                ]
                difference, share = difference_at_equal_similarity(*pair, ours.one)
                verdict = VERDICTS[difference.sign] if share >= COMPARABLE else NOT_REACHED
                rows.append(
                    [rival.name, names[judge], kind, str(difference), f"{share:.0%}", verdict]
                )
                if kind == "all":
                    verdicts.setdefault((names[judge], verdict), []).append(rival.name)
    columns = ["rival", "similarity by", "targets", "its identity distance less ours"]
    columns += ["level, as a share of what ours gains", "identity is kept better by"]
    text = [
        "Strengths are interpolated until both methods look as much like the target (to what ours "
        "reaches at strength 1, or what the rival reaches at most). The figure is the rival's "
        "identity distance less ours: above zero, ours keeps people more themselves. Ours has that "
        "distance among its losses, and the encoder had it in its training; the rivals have not, "
        "so that the same network as the ruler favours ours. The ablation has ours without it.",
        *(
            f"By {judge}, against {', '.join(rivals)}: identity is kept better by {verdict}."
            for (judge, verdict), rivals in verdicts.items()
        ),
    ]
    table = Table("equal-similarity", "Difference [95 % interval].", columns, rows)
    return Section(title, text, [], [table])


def kinds(targets: Sequence[Target]) -> dict[str, list[int]]:
    """Rows of all targets, and of the generated and the drawn ones where there are both."""
    by_kind: dict[str, list[int]] = {}
    for row, target in enumerate(targets):
        by_kind.setdefault(target.name.partition("-")[0], []).append(row)
    return {"all": list(range(len(targets)))} | (by_kind if len(by_kind) > 1 else {})
