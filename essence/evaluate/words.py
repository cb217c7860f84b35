"""Measure what words do: `python -m essence evaluate words --out runs/words`.

Thirty sentences, by those who took no part: the judge, landmarks and colours. Faces made from each
of them: do they show what was asked? And thirty edits of random faces, each at the strength that
suits it: does what was asked change, does the rest stay, is everybody still who they were?
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from ..errors import UserError
from ..methods.imagine import ImagineOptions
from ..methods.invert import inversions
from ..pictures.faces import detect
from ..pictures.grids import grid
from ..studio import Studio, last
from ..values import Source
from .judging import FaceJuror, juror_for
from .metrics import SAME_PERSON, chip_descriptors, identity_distance
from .unseen import random_people

# Each sentence with what it asks, in the judge's terms: more of it (1) or less (-1). A plain
# sentence says which sex too, where faces are made of it; an edit begins with "a man" or "a woman",
# and asks for the rest alone.
SENTENCES: dict[str, dict[str, int]] = {
    "a smiling woman": {"female": 1, "smile": 1},
    "a serious man": {"female": -1, "smile": -1},
    "a smiling man": {"female": -1, "smile": 1},
    "an old man": {"female": -1, "age": 1},
    "an old woman": {"female": 1, "age": 1},
    "a young man": {"female": -1, "age": -1},
    "a young woman": {"female": 1, "age": -1},
    "a man with blond hair": {"female": -1, "hair light": 1},
    "a woman with blond hair": {"female": 1, "hair light": 1},
    "a man with black hair": {"female": -1, "hair light": -1},
    "a woman with black hair": {"female": 1, "hair light": -1},
    "a woman with red hair": {"female": 1, "hair red": 1},
    "a man with grey hair": {"female": -1, "age": 1},
    "a woman with long hair": {"female": 1, "hair long": 1},
    "a man with short hair": {"female": -1, "hair long": -1},
    "a woman with a fringe": {"female": 1, "fringe": 1},
    "a man with a beard": {"female": -1, "beard": 1},
    "a man with a moustache": {"female": -1, "moustache": 1},
    "a woman with red lips": {"female": 1, "lip red": 1},
    "a man with an open mouth": {"female": -1, "mouth open": 1},
    "a woman with the mouth open": {"female": 1, "mouth open": 1},
    "a woman with wide open eyes": {"female": 1, "eye open": 1},
    "a man with narrow eyes": {"female": -1, "eye open": -1},
    "a woman with raised eyebrows": {"female": 1, "brow height": 1},
    "a woman with pale skin": {"female": 1, "skin light": 1},
    "a man with dark skin": {"female": -1, "skin light": -1},
    "an African woman": {"female": 1, "black": 1},
    "an Asian man": {"female": -1, "asian": 1},
    "an Indian man": {"female": -1, "indian": 1},
    "a happy old woman": {"female": 1, "age": 1, "smile": 1},
}
# Numbers that say one thing together: nobody can change one of them and not the others.
ASPECTS = (
    {"white", "black", "asian", "indian"},
    {"hair light", "hair red", "hair yellow"},
    {"skin light", "skin red", "skin yellow"},
    {"smile", "mouth width"},
)
SHOWN = 0.5  # standard deviations beyond the mean person: then a face shows an attribute
GOAL = 1.5  # where a person who has all of it is
THIRD = 1 / 3
CELL = 128


@dataclass(frozen=True)
class FacesFound:
    """What faces made from words show."""

    asked: Tensor  # bool [sentences, faces]: all that was asked is seen
    attributes: Tensor  # bool, one for each face and attribute that was asked
    whole: Tensor  # bool [sentences, faces]: a face detector finds one face


@dataclass(frozen=True)
class EditsFound:
    """What edits by words did."""

    moved: Tensor  # bool: an asked attribute, where it was lacking, went a third of the way
    distance: Tensor  # [edits, people]
    quiet: Tensor  # bool: an attribute that was not asked moved less than half as far
    strengths: Tensor  # [edits, people]


def shows(described: Tensor, asked: Mapping[str, int], names: Sequence[str]) -> Tensor:
    """bool [N, A]: whether the described faces [N, K] show each of the A attributes asked."""
    found = [described[:, names.index(name)] * sign > SHOWN for name, sign in asked.items()]
    return torch.stack(found, 1)


def moves(
    before: Tensor, after: Tensor, asked: Mapping[str, int], names: Sequence[str]
) -> tuple[Tensor, Tensor]:
    """What became of people [N, K] -> [N, K]: whether each attribute that was asked and lacking
    went a third of the way to GOAL; and whether each that was not asked, nor belongs to the same of
    ASPECTS, moved less than half as far as those that were, people where nothing was lacking left
    out.
    """
    columns = [names.index(name) for name in asked]
    signs = torch.tensor(list(asked.values()))
    level, way = before[:, columns] * signs, (after - before)[:, columns] * signs
    lacking = level < SHOWN
    moved = (way >= THIRD * (GOAL - level))[lacking]
    spoken_of = set(asked).union(*(aspect for aspect in ASPECTS if aspect & set(asked)))
    others = [i for i, name in enumerate(names) if name not in spoken_of]
    going = (way * lacking).sum(1) / lacking.sum(1).clamp(min=1)
    aside = (after - before)[:, others].abs()
    quiet = (aside < 0.5 * going[:, None])[lacking.any(1)]
    return moved, quiet.flatten()


def made_faces(
    studio: Studio, juror: FaceJuror, count: int, tell: Callable[[], None]
) -> tuple[FacesFound, list[list[Image.Image | None]]]:
    """`count` faces from each sentence, and a sheet of them."""
    asked, attributes, whole, rows = [], [], [], []
    for seed, (text, wanted) in enumerate(SENTENCES.items()):
        options = ImagineOptions(count=count, seed=seed)
        sources = last(studio.imagine(studio.text_target(text), options)).result
        pictures = [source.inversion for source in sources]
        seen = shows(juror.describe(inversions(sources)), wanted, juror.attributes)
        asked.append(seen.all(1))
        attributes.append(seen.flatten())
        whole.append(torch.tensor([one_face(picture) for picture in pictures]))
        rows.append(list(pictures))
        tell()
    return FacesFound(torch.stack(asked), torch.cat(attributes), torch.stack(whole)), rows


def edited_faces(
    studio: Studio, juror: FaceJuror, people: Sequence[Source], tell: Callable[[], None]
) -> tuple[EditsFound, list[list[Image.Image | None]]]:
    """Every person edited by every sentence, compared with "a man" or "a woman", at the strength
    that suits; and a sheet.
    """
    unedited = inversions(people)
    before, descriptors = juror.describe(unedited), chip_descriptors(unedited)
    moved, distance, quiet, strengths = [], [], [], []
    rows: list[list[Image.Image | None]] = [[source.inversion for source in people]]
    for text, wanted in SENTENCES.items():
        neutral = "a woman" if wanted["female"] > 0 else "a man"
        rest = {name: sign for name, sign in wanted.items() if name != "female"}
        target = studio.text_target(text, neutral)
        essence = studio.instant(target)
        chosen = [studio.auto_strength(source, essence, target) for source in people]
        pairs = zip(people, chosen, strict=True)
        cells = np.stack([studio.blend([one], [essence], [k])[0, 0] for one, k in pairs])
        found = moves(before, juror.describe(cells), rest, juror.attributes)
        moved.append(found[0]), quiet.append(found[1])
        distance.append(identity_distance(chip_descriptors(cells), descriptors))
        strengths.append(torch.tensor(chosen))
        rows.append(list(map(Image.fromarray, cells)))
        tell()
    return (
        EditsFound(
            torch.cat(moved), torch.stack(distance), torch.cat(quiet), torch.stack(strengths)
        ),
        rows,
    )


def one_face(picture: Image.Image) -> bool:
    return len(detect(picture.resize((256, 256)))) == 1


def share(values: Tensor) -> str:
    return f"{values.float().mean():.0%} of {values.numel()}"


def table(faces: FacesFound, edits: EditsFound) -> str:
    """Both as Markdown."""
    rows = [
        ("faces from words: attributes that were asked and are seen", share(faces.attributes)),
        ("faces that show all that was asked", share(faces.asked)),
        ("faces in which a detector finds one face", share(faces.whole)),
        ("edits: asked and lacking attributes that went a third of the way", share(edits.moved)),
        (f"people nearer to themselves than {SAME_PERSON}", share(edits.distance < SAME_PERSON)),
        ("attributes not asked that moved less than half as far", share(edits.quiet)),
        ("strength, mean", f"{edits.strengths.mean():.2f}"),
        ("identity distance, mean", f"{edits.distance.mean():.3f}"),
    ]
    lines = ["| what | figure |", "|---|---|", *(f"| {a} | {b} |" for a, b in rows)]
    worst = faces.asked.float().mean(1).argsort()[:8].tolist()
    texts = list(SENTENCES)
    named = (f"{texts[i]} ({faces.asked[i].float().mean():.0%})" for i in worst)
    return "\n".join(lines) + f"\n\nLeast often seen: {', '.join(named)}.\n"


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("runs/words"), help="folder for sheets")
    parser.add_argument("--model", help="model set (default: as everywhere)")
    parser.add_argument("--faces", type=int, default=8, help="from each sentence")
    parser.add_argument("--people", type=int, default=10, help="that are edited")
    parser.add_argument("--threads", type=int, default=0, help="0: torch's choice")
    arguments = parser.parse_args(words)
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    studio = Studio(arguments.model)
    juror = juror_for(studio.models)
    if not isinstance(juror, FaceJuror) or "mapper" not in studio.models.extras:
        raise UserError(f"The model set '{studio.name}' makes no faces of words.")
    arguments.out.mkdir(parents=True, exist_ok=True)
    people = random_people(studio, arguments.people)
    with tqdm(total=2 * len(SENTENCES), desc="words") as bar:
        faces, made = made_faces(studio, juror, arguments.faces, bar.update)
        edits, edited = edited_faces(studio, juror, people, bar.update)
    grid(made, CELL).save(arguments.out / "faces.jpg", quality=88)
    grid(edited, CELL).save(arguments.out / "edits.jpg", quality=88)
    print(table(faces, edits))


if __name__ == "__main__":
    main()
