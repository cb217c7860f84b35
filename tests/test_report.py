"""The quality report and its rulers."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image

from essence.errors import UserError
from essence.evaluate import metrics, report
from essence.evaluate.attribute_transfer import moved_attributes
from essence.methods.refine import RefineOptions
from essence.runtime.folders import package_file
from essence.studio import Studio
from essence.train.face_landmarks import ALIGNED_BOX, predictor


def test_a_set_is_no_distance_from_another_draw_of_itself_and_far_from_a_shifted_one():
    x, y, z = torch.randn(3, 800, 12, generator=torch.Generator().manual_seed(0))
    for distance in (metrics.kid, metrics.fid):
        assert abs(distance(x, y)) < 0.2 * distance(x, z * 1.5 + 0.5)
    assert metrics.fid(x, x) == pytest.approx(0, abs=1e-6)


def test_fid_of_a_pure_shift_is_its_square():
    x = torch.randn(4000, 6, generator=torch.Generator().manual_seed(0))
    assert metrics.fid(x, x + x.std(0)) == pytest.approx(6, rel=1e-3)


def test_moved_means_a_third_of_the_way_towards_the_target():
    before, target = torch.tensor([[0.0, 0.0, 2.0]]), torch.tensor([3.0, -3.0, 2.5])
    after = torch.tensor([[1.1, 0.5, 0.0]])
    # The first went 1.1 of 3, the second the wrong way, and in the third source and target hardly
    # differ.
    assert moved_attributes(before, after, target, torch.tensor([0, 1, 2])).tolist() == [
        True,
        False,
    ]


def test_descriptors_of_chips_are_dlibs_own(face_image):
    import dlib

    picture = np.asarray(face_image.crop((128, 128, 384, 384)))
    find = predictor()
    marks = find(picture, dlib.rectangle(*(round(edge * 256) for edge in ALIGNED_BOX)))
    network = dlib.face_recognition_model_v1(
        str(package_file("dlib_face_recognition_resnet_model_v1.dat"))
    )
    theirs = torch.tensor(
        network.compute_face_descriptor(dlib.get_face_chip(picture, marks, 150, 0.25))
    )
    assert (metrics.chip_descriptors(picture[None])[0] - theirs).norm() < 1e-3


@pytest.fixture(scope="module")
def people(tmp_path_factory):
    """40 generated faces as a folder of aligned pictures, ten of them called photographs."""
    studio, folder = Studio("mini", "cpu"), tmp_path_factory.mktemp("people")
    models = studio.models
    z = torch.randn(40, models.latent_shape[1], generator=torch.Generator().manual_seed(3))
    for i, cell in enumerate(models.render(models.generator.repeat(models.generator.mapping(z)))):
        Image.fromarray(cell).save(folder / f"{'congress' if i < 20 else 'made'}_{i:02d}.png")
    return folder


def test_one_command_measures_everything_and_fills_the_card(people, tmp_path, monkeypatch):
    monkeypatch.setattr(report, "RefineOptions", partial(RefineOptions, steps=3))
    monkeypatch.setattr(report, "learning_sources", lambda studio: [studio.random_source(0)])
    card = tmp_path / "card.md"
    card.write_text(f"before\n{report.MARKS[0]}\nold\n{report.MARKS[1]}\nafter\n")
    words = ["--data", str(people), "--out", str(tmp_path / "out"), "--card", str(card)]
    words += ["--samples", "24", "--targets", "1", "--sources", "2", "--steps", "2"]
    words += ["--threads", "1"]
    report.main(words)
    text = card.read_text()
    assert text.startswith("before\n") and text.endswith("after\n") and "old" not in text
    for what in (
        "| samples |",
        "| inversion, 0",
        "| inversion, 3",
        "| image-text, smile |",
        "| essence, strength 1 |",
        "| essence, the strength that suits |",
        "| weight |",
    ):
        assert what in text
    assert {path.name for path in (tmp_path / "out").iterdir()} >= {
        "samples.png",
        "essences.png",
        "photographs-000.png",
    }


def test_a_card_without_marks_is_refused_before_the_work(people, tmp_path):
    (tmp_path / "card.md").write_text("nothing")
    with pytest.raises(UserError, match="lacks the marks"):
        report.main(["--data", str(people), "--card", str(tmp_path / "card.md")])
