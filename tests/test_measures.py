"""The measures of essences on cases with known answers: a perfect edit, none, a shuffled one."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from essence.errors import BadFile, UserError
from essence.evaluate import bootstrap, judging
from essence.evaluate import essence_measures as measures
from essence.library.checkpoints import load_arcface
from essence.models.arcface import ArcFace
from essence.train.data.judged import JUDGED, gaze, repeatability

from . import fakes


@pytest.fixture
def people():
    """Twenty sources and a target, of twelve attributes in standard deviations."""
    rng = torch.Generator().manual_seed(0)
    return torch.randn(20, 12, generator=rng), 2 * torch.randn(12, generator=rng)


def test_a_perfect_edit(people):
    before, target = people
    after = target.expand_as(before)
    assert torch.allclose(measures.target_similarity(after, target), torch.ones(20))
    assert torch.allclose(measures.moved_share(before, after, target), torch.ones(20))
    assert torch.allclose(measures.disentanglement(before, after, target), torch.ones(20))
    differs = torch.where((target - before).abs() >= measures.ALIKE, after, before)
    assert torch.allclose(
        measures.side_effects(before, differs, target).nan_to_num(0), torch.zeros(20)
    )


def test_no_edit(people):
    before, target = people
    assert torch.allclose(measures.moved_share(before, before, target), torch.zeros(20))
    assert measures.side_effects(before, before, target).nan_to_num(0).max() == 0
    assert measures.disentanglement(before, before, target).isnan().all()
    assert measures.linearity(before.expand(4, -1, -1)).isnan().all()


def test_an_edit_of_the_wrong_attributes_is_worse_in_every_measure(people):
    before, target = people
    right = before + 0.7 * (target - before)
    wrong = before + 0.7 * (target - before).roll(1, dims=1)
    for measure, sign in (
        (measures.moved_share, 1),
        (measures.disentanglement, 1),
        (measures.side_effects, -1),
    ):
        good, bad = (measure(before, after, target).nanmean() for after in (right, wrong))
        assert sign * (good - bad) > 0.1
    good, bad = (measures.target_similarity(e, target).mean() for e in (right, wrong))
    assert good > bad


def test_going_beyond_the_target_is_no_gain():
    before, target = torch.zeros(1, 2), torch.tensor([2.0, 0.0])
    after = torch.tensor([[4.0, 0.0]])
    assert measures.disentanglement(before, after, target).item() == pytest.approx(0.5)
    assert measures.moved_share(before, after, target).item() == pytest.approx(1)


def test_consistency_is_one_for_the_same_change_and_nought_for_any():
    rng = torch.Generator().manual_seed(1)
    e = torch.nn.functional.normalize(torch.randn(30, 40, generator=rng), dim=1)
    shift = 1e-3 * torch.randn(40, generator=rng)
    assert measures.consistency(e, e + shift) > 0.9
    assert abs(measures.consistency(e, e + 1e-3 * torch.randn(30, 40, generator=rng))) < 0.1
    assert math.isnan(measures.consistency(e[:1], e[:1]))


def test_a_straight_way_is_linear_and_a_detour_is_not():
    a, b, aside = torch.eye(3)[:, None]
    ends = [a + t * 0.1 * b for t in torch.linspace(0, 1, 5)]
    detour = [x + (0.2 * aside if k == 2 else 0) for k, x in enumerate(ends)]
    straight, bent = (measures.linearity(torch.stack(path)).item() for path in (ends, detour))
    assert straight == pytest.approx(1, abs=0.01) and bent < 0.5


def test_two_essences_of_one_person_are_told_from_another_persons():
    rng = torch.Generator().manual_seed(2)
    persons = torch.randn(8, 50, generator=rng)
    again = persons + 0.3 * torch.randn(8, 50, generator=rng)
    assert measures.target_consistency(persons, again).float().mean() == 1
    shuffled = measures.target_consistency(persons, again.roll(1, 0)).float().mean()
    assert measures.target_consistency(persons, again).shape == (8, 7) and shuffled < 0.7


# ---- intervals


def test_the_interval_of_a_mean_covers_what_the_spread_says():
    rng = torch.Generator().manual_seed(3)
    table = 1 + torch.randn(30, 40, generator=rng)
    found = bootstrap.mean_interval(table)
    assert found.value == pytest.approx(table.mean().item(), abs=1e-5)
    assert found.low < found.value < found.high and found.sign == 1
    assert 0.05 < found.high - found.low < 0.5
    assert bootstrap.mean_interval(table - 1 - found.value + 1).sign == 0
    constant = bootstrap.mean_interval(torch.full((3, 4), 2.0))
    assert constant.low == constant.high == 2


def test_what_is_not_a_number_is_left_out():
    table = torch.ones(3, 4)
    table[0, 0] = torch.nan
    assert bootstrap.mean_interval(table).value == 1


def curves(slope, noise=0.0):
    """Similarity that grows alike and a distance that grows by `slope`: [6, 5, 8]."""
    rng = torch.Generator().manual_seed(4)
    strengths = torch.linspace(0, 1, 5).view(1, 5, 1).expand(6, 5, 8)
    return strengths + 0, slope * strengths + noise * torch.randn(6, 5, 8, generator=rng)


def test_methods_are_compared_where_they_reach_the_same():
    ours, far = curves(0.3), curves(0.5, noise=0.01)
    difference, share = bootstrap.difference_at_equal_similarity(ours, far, 2)
    assert difference.value == pytest.approx(0.1, abs=0.01) and difference.sign == 1
    assert share == pytest.approx(1)
    assert bootstrap.difference_at_equal_similarity(far, ours, 2)[0].sign == -1
    assert bootstrap.difference_at_equal_similarity(ours, ours, 2)[0].sign == 0
    weak = (0.25 * curves(0.3)[0], curves(0.3)[1])  # it never looks as much like the target
    difference, share = bootstrap.difference_at_equal_similarity(ours, weak, 2)
    assert share == pytest.approx(0.5) and difference.value == pytest.approx(0.3 - 0.075)


def test_a_level_that_is_never_reached_is_no_number():
    similarity, distance = torch.tensor([[0.0, 0.4, 0.3]]), torch.tensor([[0.0, 1.0, 2.0]])
    never, between, before = (
        bootstrap.crossing(similarity, distance, torch.tensor([level])).item()
        for level in (0.5, 0.2, -1.0)
    )
    assert math.isnan(never) and between == pytest.approx(0.5) and before == 0


# ---- identity as papers measure it


def test_arcface_is_read_from_the_public_file_and_knows_the_same_face(tmp_path):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = ArcFace((4, 6, 8, 10), (1, 2, 1, 1), 16).eval()
    torch.save(made.state_dict(), tmp_path / "model_ir_se50.pth")
    network = load_arcface(tmp_path / "model_ir_se50.pth")
    images = torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.no_grad():
        found = network(images)
        assert torch.equal(found, made(images))
    assert found.shape == (3, 16)
    torch.testing.assert_close(found.norm(dim=1), torch.ones(3))
    torch.save({"weight": torch.ones(2)}, tmp_path / "other.pth")
    for name, words in (("other.pth", "no ArcFace network"), ("none.pth", "no file")):
        with pytest.raises(BadFile, match=words):
            load_arcface(tmp_path / name)


def test_public_arcface_has_the_names_of_the_public_file():
    """IR-SE50: 24 units, 512 numbers."""
    with torch.device("meta"):
        state = ArcFace((64, 128, 256, 512), (3, 4, 14, 3)).state_dict()
    assert state["output_layer.3.weight"].shape == (512, 25088)
    assert state["body.23.res_layer.5.fc2.weight"].shape == (512, 32, 1, 1)
    assert {"input_layer.2.weight", "body.3.shortcut_layer.1.running_var"} <= set(state)


# ---- the judge


@pytest.fixture(scope="module")
def juror():
    return judging.FaceJuror(fakes.judge())


def test_the_judge_says_the_same_of_the_same_picture(juror, face_image):
    face = np.asarray(face_image.crop((128, 128, 384, 384)).resize((128, 128)))
    mirrored = np.ascontiguousarray(face[:, ::-1])
    found = juror.describe(np.stack([face, mirrored, face]))
    assert found.shape == (3, len(JUDGED)) and torch.equal(found[0], found[2])
    assert found.abs().max() <= judging.LIMIT
    assert juror.similarity(found, found[0])[0].item() == pytest.approx(1, abs=1e-5)


def test_the_dark_of_the_eyes_says_where_they_look():
    """A dark disc in white eyes, left, in the middle and right of the corners' middle."""
    marks = torch.rand(1, 68, 2, generator=torch.Generator().manual_seed(0))
    for points, x in ((range(36, 42), 0.35), (range(42, 48), 0.65)):
        for k, point in enumerate(points):
            marks[0, point] = torch.tensor([x + 0.04 * math.cos(k), 0.48])
        marks[0, points[0]], marks[0, points[3]] = torch.tensor(
            [[x - 0.05, 0.48], [x + 0.05, 0.48]]
        )
    axis = (torch.arange(128) + 0.5) / 128
    seen = []
    for shift in (-0.025, 0.0, 0.025):
        picture = torch.ones(1, 3, 128, 128)
        for x in (0.35, 0.65):
            disc = (axis[None] - x - shift) ** 2 + (axis[:, None] - 0.48) ** 2 < 0.02**2
            picture[0, :, disc] = -1
        seen.append(gaze(picture, marks).item())
    assert seen[0] < -0.1 < abs(seen[1]) + 0.05 and seen[2] > 0.1
    assert abs(seen[1]) < 0.05


def test_repeatability_is_one_for_the_same_and_nought_for_noise():
    rng = torch.Generator().manual_seed(5)
    a, b = torch.randn(2, 400, 3, generator=rng)
    assert torch.allclose(repeatability(a, a), torch.ones(3))
    assert repeatability(a, b).max() < 0.2
    assert repeatability(torch.zeros(4, 1), torch.zeros(4, 1)).tolist() == [0]


def test_who_judges():
    models = fakes.model_set()
    with pytest.raises(UserError, match="open_clip knows no model 'nonsense'"):
        judging.juror_for(models, "nonsense")


def test_a_second_encoder_judges_by_name(monkeypatch):
    import open_clip

    encoder = fakes.model_set().clip
    made = {}

    def create(architecture, pretrained):
        made.update(architecture=architecture, pretrained=pretrained)
        model = encoder.model
        model.visual.image_mean, model.visual.image_std = (0.5,) * 3, (0.5,) * 3
        return model

    monkeypatch.setattr(open_clip, "create_model", create)
    monkeypatch.setattr(open_clip, "get_tokenizer", lambda name: encoder.tokenizer)
    second = judging.juror_for(fakes.model_set(), "ViT-B-16-SigLIP/webli")
    assert made == {"architecture": "ViT-B-16-SigLIP", "pretrained": "webli"}
    found = second.describe(np.zeros((2, 32, 32, 3), np.uint8))
    assert second.attributes == () and found.shape == (2, 8)
    assert second.similarity(found, found[0]).tolist() == pytest.approx([1, 1], abs=1e-5)
