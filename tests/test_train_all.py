"""`train all`: what is made again and what is not; and, slowly, all of it."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from essence.errors import UserError
from essence.evaluate import everything
from essence.evaluate.everything import AllOptions
from essence.studio import Studio
from essence.train.runs import DONE, Runs, chosen_pictures, digest, stated_licences


def runs_in(folder: Path) -> Runs:
    return Runs(folder, everything.QUICK, {"threads": 1})


def test_inputs_and_options_count_but_neither_their_place_nor_how_fast_it_went(tmp_path):
    a, b = tmp_path / "a.bin", tmp_path / "b.bin"
    a.write_bytes(b"one"), b.write_bytes(b"one")
    first = digest("clip", {"start": str(a), "steps": 3, "threads": 1})
    assert digest("clip", {"start": str(b), "steps": 3, "threads": 2}) == first
    assert digest("clip", {"start": str(a), "steps": 4}) != first
    assert digest("judge", {"start": str(a), "steps": 3}) != first
    b.write_bytes(b"two")
    assert digest("clip", {"start": str(b), "steps": 3}) != first


def test_a_folder_counts_by_its_files(tmp_path):
    folder = tmp_path / "faces"
    folder.mkdir()
    (folder / "a.png").write_bytes(b"1234")
    first = digest("clip", {"data": str(folder)})
    (folder / "b.png").write_bytes(b"1")
    assert digest("clip", {"data": str(folder)}) != first


def test_what_is_made_is_made_once_and_what_was_interrupted_goes_on(tmp_path):
    runs, calls = runs_in(tmp_path), []

    def make(folder: Path) -> None:
        calls.append(folder)
        if len(calls) == 1:
            (folder / "last.pt").write_bytes(b"checkpoint")
            raise KeyboardInterrupt
        assert (folder / "last.pt").is_file(), "the checkpoint of the interrupted run"

    with pytest.raises(KeyboardInterrupt):
        runs.once("clip", {"steps": 3}, make)
    assert not list(tmp_path.glob(f"*/{DONE}"))
    folder = runs.once("clip", {"steps": 3}, make)
    assert runs.once("clip", {"steps": 3}, make) == folder and len(calls) == 2
    assert runs.once("clip", {"steps": 4}, lambda folder: None) != folder
    assert runs.made == ["clip", "clip"]


@pytest.fixture
def pictures(tmp_path) -> Path:
    folder = tmp_path / "faces"
    folder.mkdir()
    for i in range(4):
        Image.new("RGB", (8, 8), (i, 0, 0)).save(folder / f"p{i}.png")
    return folder


def write_index(path: Path, licences: dict[str, str]) -> Path:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([["file", "licence"], *licences.items()])
    return path


def test_pictures_without_a_stated_licence_can_be_left_out(pictures, tmp_path):
    licences = {"p0.png": "CC0-1.0", "p1.png": "none stated", "p2.png": "", "p3.png": "MIT"}
    stated = stated_licences(write_index(tmp_path / "index.csv", licences))
    runs = runs_in(tmp_path / "run")

    def names(**choice) -> list[str]:
        return sorted(p.name for p in chosen_pictures(runs, str(pictures), **choice).glob("*.png"))

    assert names(allowed=stated) == ["p0.png", "p3.png"]
    assert len(names()) == 4 and len(names(most=2)) == 2
    with pytest.raises(UserError, match="no licence for any"):
        chosen_pictures(runs, str(pictures), allowed=set())


def test_mistakes_say_what_to_do(pictures, tmp_path):
    def options(**changed) -> AllOptions:
        return AllOptions(data=str(pictures), out=str(tmp_path), **changed)

    with pytest.raises(UserError, match="needs --index"):
        options(licence="stated")
    with pytest.raises(UserError, match="any, stated"):
        options(licence="mine")
    with pytest.raises(UserError, match="go together"):
        options(tight="x")
    with pytest.raises(UserError, match="no index with the columns"):
        stated_licences(tmp_path / "nowhere.csv")
    with pytest.raises(UserError, match="no folder"):
        everything.part_of(str(tmp_path / "nowhere"), "clip")


@pytest.mark.slow
def test_one_command_makes_every_model_and_the_next_one_nothing(tmp_path):
    """On generated people; the models are bad, but whole, and serve."""
    studio, faces, tight = Studio("mini", "cpu"), tmp_path / "faces", tmp_path / "tight"
    faces.mkdir(), tight.mkdir()
    w = studio.models.latents.sample(60, torch.Generator().manual_seed(3))
    cells = studio.models.render(studio.models.generator.repeat(w))
    ages, rows, labels = ("20-29", "50-59"), [], []
    for i, cell in enumerate(cells):
        picture, sex = Image.fromarray(cell), ("Male", "Female")[i % 2]
        name = f"{'congress' if i < 20 else 'made'}_{i:02d}.png"
        picture.save(faces / name)
        rows.append([name, sex.lower(), "white", "MIT"])
        if i < 30:
            inner = picture.crop((26, 38, 102, 114)).resize((96, 96))
            Image.fromarray(np.asarray(inner)).save(tight / f"train_{i}.png")
            labels.append([f"train_{i}.png", ages[i % 2], sex, "White"])
    for path, head, table in (
        ("index.csv", ["file", "gender", "group", "licence"], rows),
        ("tight.csv", ["file", "age", "gender", "race"], labels),
    ):
        with (tmp_path / path).open("w", newline="") as file:
            csv.writer(file).writerows([head, *table])
    words = ["--data", str(faces), "--index", str(tmp_path / "index.csv"), "--quick"]
    words += ["--tight", str(tight), "--tight-labels", str(tmp_path / "tight.csv")]
    words += ["--out", str(tmp_path / "run"), "--licence", "stated", "--device", "cpu"]
    options = everything.parse_options(AllOptions, words)
    made = everything.train(options)
    assert {"generator", "clip", "texts", "essence", "mapper", "judge", "report"} <= set(made)
    found = Studio(str(tmp_path / "run" / "models"), "cpu")
    assert {"mapper", "essence"} <= set(found.models.extras)
    assert found.random_source(1).inversion.size == (128, 128)
    assert (tmp_path / "run" / "assets" / "essences").is_dir()
    assert "| weight |" in (tmp_path / "run" / "report" / "report.md").read_text()
    assert everything.train(options) == []
