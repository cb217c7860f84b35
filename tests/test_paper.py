"""The report of the paper's experiments, on tiny fakes; with churches, and stopped in between."""

from __future__ import annotations

import base64
import csv
import dataclasses
import io
import re

import pytest
from PIL import Image

from essence.errors import UserError
from essence.evaluate.judging import FaceJuror
from essence.evaluate.paper import command, comparison, study
from essence.evaluate.paper.contenders import STRENGTHS, Contender, Scale, contenders
from essence.evaluate.paper.contents import Figure, Section, Table, write_report
from essence.evaluate.paper.study import Study
from essence.methods import PRESETS

from . import fakes

TINY = Scale(2, 2, 2, 1, 1, 1, 1, 1, 4, 2, 1, 1, 1, 1)


@pytest.fixture(scope="module")
def models():
    made = fakes.model_set()
    extras = {**made.extras, "judge": fakes.judge()}
    return dataclasses.replace(made, extras=extras)


@pytest.fixture(scope="module")
def report(models, tmp_path_factory):
    """The folder of a whole report with churches."""
    folder = tmp_path_factory.mktemp("paper")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(study, "draw_target", drawn)
        patch.setattr(command, "QUICK", TINY)
        patch.setattr(command, "Studio", lambda name: fakes.Studio.of(models))
        fakes.write_manifest(folder, patch, {"church": "square"})
        command.main(["--out", str(folder / "out"), "--quick", "--format", "png"])
    return folder / "out"


def drawn(name, size, seed=0):
    """In place of a drawing, which takes seconds."""
    return Image.new("RGB", (size, size), (200, 90 + 40 * seed, 60))


def rows_of(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_every_figure_and_table_is_there(report):
    names = {path.name for path in report.iterdir()}
    assert {"index.html", "report.md", "measures.csv", "equal-similarity.csv", "pairs.csv"} <= names
    assert {"ablation.csv", "target-consistency.csv", "churches.csv"} <= names
    assert {"figure-2.png", "figure-3a.png", "figure-3b.png"} <= names
    assert {"figure-1-generated-0.png", "figure-1-drawn-redhead.png"} <= names
    methods = [row["method"] for row in rows_of(report / "measures.csv")]
    assert methods[:3] == ["unedited", "ours", "encode"]
    assert {"CLIP blend", "StyleGAN blend", "style mixing", "released"} <= set(methods)
    assert methods[-1] in ("Gatys (face network)", "Gatys (VGG-19)")


def test_every_pair_is_listed_with_its_figures(report):
    rows = rows_of(report / "pairs.csv")
    ours = [row for row in rows if row["method"] == "ours"]
    assert len(ours) == 2 * 2 * len(STRENGTHS)
    unedited = [row for row in ours if row["strength"] == "0"]
    assert all(float(row["identity distance"]) == 0 for row in unedited)
    # At strength zero all methods show the same people.
    first = {(row["target"], row["source"]): row["judge"] for row in unedited}
    for row in rows:
        if row["strength"] == "0":
            assert row["judge"] == first[row["target"], row["source"]]


def test_the_page_shows_all_and_asks_for_nothing(report):
    page = (report / "index.html").read_text()
    assert not re.search(r"""(src|href)=["'](?!data:)|<script|@import|url\(""", page)
    shown = re.findall(r'src="data:image/png;base64,([^"]+)"', page)
    assert len(shown) == len(list(report.glob("*.png")))
    for data in shown:
        with Image.open(io.BytesIO(base64.b64decode(data))) as picture:
            assert picture.width > 100
    assert "Identity at equal similarity" in page and "Skipped" not in page


def test_a_second_run_computes_nothing_again(report, models, monkeypatch, tmp_path):
    monkeypatch.setattr(command, "QUICK", TINY)
    monkeypatch.setattr(command, "Studio", lambda name: fakes.Studio.of(models))
    monkeypatch.setattr(Study, "learn", None)  # whoever asks for it fails
    kept = (report / "measures.csv").read_text()
    command.main(["--out", str(report), "--quick", "--format", "png", "--church", "nowhere"])
    assert (report / "measures.csv").read_text() == kept
    assert "Skipped: There is no model set 'nowhere'" in (report / "report.md").read_text()
    assert (report / ".work" / ".gitignore").read_text() == "*\n"


def test_other_weights_or_more_people_begin_anew(models, tmp_path, monkeypatch):
    monkeypatch.setattr(study, "draw_target", drawn)
    studio = fakes.Studio.of(models)
    juror = FaceJuror(models.extras["judge"])
    one = Study(studio, juror, TINY, tmp_path)
    assert Study(studio, juror, TINY, tmp_path).work == one.work
    more = dataclasses.replace(TINY, sources=3)
    assert Study(studio, juror, more, tmp_path).work != one.work
    bare = fakes.Studio.of(dataclasses.replace(models, extras={}))
    assert Study(bare, juror, TINY, tmp_path).work != one.work
    target, other = one.targets[:2]
    ours, more = (
        Contender("ours", dataclasses.replace(PRESETS["essence"], steps=n)) for n in (2, 3)
    )
    places = [one.place("record", c, t) for c in (ours, more) for t in (target, other)]
    assert len(set(places)) == 4


def test_what_models_cannot_bear_is_left_out(tmp_path):
    """Without a mapper no mapped essence, without faces no identity."""
    bare = dataclasses.replace(fakes.model_set(), extras={}, identity=None)
    studio = fakes.Studio.of(bare)
    names = [contender.name for contender in contenders(studio, TINY)]
    assert names[0] == "ours" and "map" not in names
    alone = Study(studio, None, TINY, tmp_path)
    record = alone.record(contenders(studio, TINY)[0], alone.targets[0])
    assert record["distance"].isnan().all() and record["judge"].isnan().all()
    assert not record["encoder"].isnan().any()
    section = comparison.equal_section(alone, [], {})
    assert section.text == ["Skipped: these pictures are no faces."]


def test_text_of_tables_cannot_break_the_page(tmp_path):
    table = Table("t", "a < b", ["<x>"], [["1 < 2"]])
    picture = Figure("f", 'say "cheese"', Image.new("RGB", (8, 8)))
    write_report([Section("<T>", ["a & b"], [picture], [table])], "A & B", [], tmp_path, ".jpg")
    page = (tmp_path / "index.html").read_text()
    assert "<x>" not in page and "a &lt; b" in page and "&quot;cheese&quot;" in page
    assert (tmp_path / "f.jpg").is_file() and "| 1 < 2 |" in (tmp_path / "report.md").read_text()


def test_mistakes_are_told(tmp_path):
    with pytest.raises(UserError, match="jpg or png, not 'gif'"):
        command.main(["--out", str(tmp_path), "--format", "gif"])
    with pytest.raises(UserError, match="no file .*none.pth"):
        command.main(["--out", str(tmp_path), "--arcface", "none.pth"])
