"""The judge's recipe: labels, what is held out, learning, resuming, and the file."""

from __future__ import annotations

import csv
import dataclasses

import pytest
import torch
from PIL import Image

from essence.errors import BadFile, UserError
from essence.library.checkpoints import load_judge
from essence.library.clip_files import save_clip
from essence.models.identity import face_chip
from essence.models.judge import FRAME, GROUPS, READ, SIDE, Judge, JudgeConfig, middle
from essence.pictures.tensors import resample
from essence.runtime.folders import bundled
from essence.train import judge as recipe
from essence.train.data.judge_labels import read_judge_labels
from essence.train.data.judged import JUDGED

from . import fakes

RACES = ("White", "Black", "East Asian", "Indian", "Latino_Hispanic", "Middle Eastern")


@pytest.fixture(scope="module")
def options(tmp_path_factory):
    """42 tight crops of two bundled faces, a light and a dark copy of each, with labels."""
    folder = tmp_path_factory.mktemp("judge")
    (folder / "tight").mkdir()
    faces = [face_box(path) for path in bundled("sources")[:2]]
    with (folder / "labels.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["file", "age", "gender", "race"])
        for i in range(42):
            name = f"crop_{i:02d}.png"
            faces[i % 2].point(lambda v, i=i: int(v * (0.6 + 0.4 * (i % 3)))).save(
                folder / "tight" / name
            )
            rows.writerow([name, "20-29", ("Male", "Female")[i % 2], RACES[i % 6]])
    return recipe.JudgeOptions(
        tight=str(folder / "tight"),
        tight_labels=str(folder / "labels.csv"),
        out=str(folder / "run"),
        steps=12,
        batch=8,
        widths=(4, 4, 6, 8),
        rate=1e-2,
    )


def face_box(path):
    """A tight crop: what dlib's chip shows of an aligned picture."""
    with Image.open(path) as picture:
        return picture.convert("RGB").crop((40, 66, 217, 243)).resize((96, 96))


def test_labels_are_read_and_what_nobody_says_is_unknown(tmp_path):
    table = tmp_path / "labels.csv"
    table.write_text(
        "file,age,gender,race\na.png,30-39,Male,Middle Eastern\nb.png,,Female,\nc.png,9,,Martian\n"
    )
    found = read_judge_labels(table, ["a.png", "b.png", "c.png", "d.png"])
    assert found.known.tolist() == [[True] * 3, [False, True, False], [False] * 3, [False] * 3]
    assert found.age[0] == 35 and found.female.tolist() == [0, 1, 0, 0]
    assert GROUPS[found.group[0]] == "middle eastern"
    assert found.attributes().shape == (4, len(READ))
    both = found.join(found.rows(torch.tensor([1])))
    assert len(both.age) == 5 and both.known[4].tolist() == [False, True, False]


def test_held_out_and_excluded_faces_are_never_drawn(options, tmp_path):
    names = tmp_path / "exclude.txt"
    names.write_text("crop_01.png\ncrop_02.png\n")
    data = recipe.load_data(
        dataclasses.replace(options, exclude=str(names), out=str(tmp_path / "run"))
    )
    assert len(data.frames) == 40 and data.frames.shape[1:] == (3, FRAME, FRAME)
    assert data.held.nonzero()[:, 0].tolist() == [0, 18, 38]  # each twentieth file of the folder
    drawn = data.draw(torch.Generator().manual_seed(0), 500, share=0.75)
    assert not data.held[drawn].any() and len(drawn.unique()) == 37


def test_the_judge_learns_resumes_and_is_written(options, monkeypatch):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recipe, "EVERY", 4)
        halved = dataclasses.replace(options, steps=4)
        assert recipe.train(halved).step == 4
    trainer = recipe.train(options)
    assert trainer.step == 12  # eight more
    judge = load_judge(f"{options.out}/judge.safetensors")
    assert judge.config.names == JUDGED and judge.config.widths == (4, 4, 6, 8)
    assert (judge.reliability >= 0).all() and (judge.reliability <= 1).all()
    assert judge.reliability.max() > 0.5 and (judge.scale > 0).all()
    with open(f"{options.out}/log.csv", newline="") as file:
        assert [row["step"] for row in csv.DictReader(file)] == ["4", "12"]


def test_losses_ask_for_what_is_known_alone(options):
    labels = recipe.load_data(options).labels.rows(torch.arange(6))
    labels.known[:] = False
    labels.known[0, 1] = True
    logits = torch.zeros(6, 8, requires_grad=True)
    terms = recipe.losses(logits, labels)
    sum(terms.values()).backward()
    assert terms["female"] > 0 and terms["age"] == terms["groups"] == 0
    assert logits.grad.nonzero().tolist() == [[0, 1]]


def test_aligned_pictures_and_crops_show_the_same():
    """The judge reads the inner face, wherever it is from."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        judge = Judge(JudgeConfig(widths=(4, 4, 6, 8))).eval()
    picture = torch.rand(1, 3, 128, 128, generator=torch.Generator().manual_seed(0)) * 2 - 1
    chip = middle(resample(face_chip(picture), FRAME, "antialias"))
    assert chip.shape[-1] == SIDE
    with torch.no_grad():
        answer, logits = judge(picture), judge.logits(chip)
    assert answer.shape == (1, len(READ)) and torch.equal(answer[:, 0], logits[:, 0])
    assert (answer[:, 1:] >= 0).all() and answer[:, 2:].sum() <= 1


def test_another_file_is_no_judge(tmp_path):
    clip = tmp_path / "clip.safetensors"
    save_clip(fakes.CLIP, fakes.model_set().clip.model.state_dict(), clip)
    with pytest.raises(BadFile, match="clip.safetensors is no judge"):
        load_judge(clip)


def test_aligned_pictures_need_labels(options):
    with pytest.raises(UserError, match="--data needs --labels"):
        recipe.load_data(dataclasses.replace(options, data=options.tight))
