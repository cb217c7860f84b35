"""The image-text recipe on tiny drawn pictures; captions; the contrastive loss; bad input."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from essence.errors import UserError
from essence.evaluate import zero_shot
from essence.library.clip_files import load_clip, save_clip
from essence.models.clip import ImageText
from essence.pictures.tensors import to_tensor
from essence.train import clip, clip_batches, clip_step, questions, texts
from essence.train.clip import train
from essence.train.clip_batches import ClipDataset, WordTokenizer, contrastive_loss
from essence.train.clip_data import ClipOptions, held_out_rows, load_faces
from essence.train.data import attribute_teacher, attributes, captions, drawings, probes, tables
from essence.train.data.faces import Faces, encode, marks_of, whole_marks
from essence.train.data.labels import (
    SEEN,
    SEEN_HELD_OUT,
    hair_scores,
    look_scores,
    read_labels,
    seen_by_eye,
    with_known,
)
from essence.train.face_landmarks import landmarks

from . import fakes

NETWORK = {
    "size": 32,
    "width": 8,
    "layers": (1, 1, 1, 1),
    "text_width": 32,
    "text_layers": 1,
    "context": 16,
}
TINY = NETWORK | {"steps": 2, "batch": 4, "every": 1}


def cartoon(
    hair: tuple[int, int, int], skin: tuple[int, int, int] = (220, 180, 150), smile: bool = True
) -> Image.Image:
    picture = Image.new("RGB", (128, 128), (200, 210, 220))
    pen = ImageDraw.Draw(picture)
    pen.ellipse((24, 2, 104, 110), fill=hair)
    pen.ellipse((30, 28, 98, 122), fill=skin)
    for x in (48, 80):
        pen.ellipse((x - 6, 57, x + 6, 64), fill="white")
        pen.ellipse((x - 3, 57, x + 3, 64), fill="black")
        pen.line((x - 9, 50, x + 9, 50), fill=hair, width=3)
    if smile:
        pen.arc((46, 78, 82, 100), 20, 160, fill=(160, 40, 40), width=4)
    else:
        pen.line((50, 96, 78, 96), fill=(160, 40, 40), width=4)
    return picture


def faces(path: Path, count: int) -> Path:
    path.mkdir()
    rng = random.Random(0)
    for i in range(count):
        hair = tuple(rng.randrange(220) for _ in range(3))
        cartoon(hair, smile=i % 2 == 0).save(path / f"face_{i:02}.png")
    return path


@pytest.fixture
def folder(tmp_path):
    return faces(tmp_path / "faces", 12)


def test_recipe_runs_exports_and_resumes(tmp_path):
    options = ClipOptions(
        data=str(faces(tmp_path / "faces", 100)), out=str(tmp_path / "run"), **TINY
    )
    first = load_clip(train(options))
    model = load_clip(train(replace(options, steps=3)))
    steps = [line.split(",")[0] for line in (tmp_path / "run" / "log.csv").read_text().splitlines()]
    assert steps == ["step", "1", "2", "3"]  # went on, and did not start again
    images = torch.rand(2, 3, 128, 128) * 2 - 1
    found, before = model.embed_images(images), first.embed_images(images)
    texts = model.embed_texts(["a smiling woman with blond hair"])
    assert "hat" in model.phrases and not model.unknown_words("a man with a hat")
    assert found.shape == (2, texts.shape[1])
    assert torch.allclose(found.norm(dim=1), torch.ones(2), atol=1e-4)
    assert not torch.allclose(found, before)
    with pytest.raises(UserError, match="another architecture"):
        train(replace(options, width=16))


def test_empty_folder_and_wrong_labels_are_refused(folder, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="holds no pictures"):
        train(ClipOptions(data=str(tmp_path / "empty"), out=str(tmp_path / "run"), **TINY))
    labels = tmp_path / "labels.csv"
    labels.write_text("file,gender\nface_00.png,female\nnobody.png,male\n")
    with pytest.raises(UserError, match="nobody.png"):
        read_labels(labels, [path.name for path in folder.iterdir()])
    labels.write_text("name,gender\nface_00.png,female\n")
    with pytest.raises(UserError, match="no column 'file'"):
        read_labels(labels, ["face_00.png"])
    with pytest.raises(UserError, match="multiple of 32"):
        ClipOptions(data="x", out="y", size=50)
    with pytest.raises(UserError, match="--data FOLDER"):
        ClipOptions(out="y")
    for broken in ("nowhere.pt", "labels.csv"):
        with pytest.raises(UserError, match="faces.pt of an earlier run"):
            load_faces(ClipOptions(faces=str(tmp_path / broken), out=str(tmp_path / "run")))


def test_measures_see_what_was_drawn():
    pictures = [
        cartoon((20, 15, 10)),
        cartoon((230, 200, 120)),
        cartoon((20, 15, 10), skin=(90, 60, 45)),
    ]
    marks = torch.from_numpy(landmarks([np.asarray(picture) for picture in pictures]))
    found = attributes.measure_attributes(to_tensor(pictures), marks)
    column = {name: found[:, i] for i, name in enumerate(attributes.MEASURED)}
    assert column["hair light"][1] > column["hair light"][0] + 0.3
    assert column["hair yellow"][1] > column["hair yellow"][0] + 0.1
    assert column["skin light"][2] < column["skin light"][0] - 0.3
    assert torch.isfinite(found).all()


def test_probe_recovers_a_linear_rule_and_ignores_unknown_columns():
    rng = torch.Generator().manual_seed(0)
    x = torch.randn(400, 6, generator=rng)
    values = torch.stack([x @ torch.arange(6.0) + 3, torch.zeros(400)], 1)
    probe = probes.Probe.fit(x.half(), values, torch.tensor([True, False]).expand(400, 2))
    found = probe(x.half())
    assert (found[:, 0] - values[:, 0]).abs().mean() < 0.3
    assert (found[:, 1] == 0).all()


def test_targets_spread_around_zero_and_flip_with_the_picture():
    rng = torch.Generator().manual_seed(0)
    raw = torch.randn(300, len(attributes.NAMES), generator=rng) * 5 + 2
    pictures = torch.randint(0, 256, (300, 3, 128, 128), dtype=torch.uint8, generator=rng)
    guide = attribute_teacher.AttributeTeacher.fit(
        raw, pictures, attribute_teacher.TeacherOptions()
    )
    scores = guide.scores(raw, torch.zeros(300))
    targets = torch.nn.functional.normalize(
        guide.targets(scores, guide.layout(scores, pictures)), dim=1
    )
    assert (targets @ targets.T).fill_diagonal_(0).mean().abs() < 0.05
    assert torch.equal(attribute_teacher.mirrored(attribute_teacher.mirrored(scores)), scores)
    turned = (attribute_teacher.mirrored(scores) != scores).any(0)
    assert [name for name, t in zip(attributes.NAMES, turned, strict=True) if t] == [
        "yaw",
        "light side",
    ]
    tight = guide.scores(raw, torch.ones(300))
    hidden = torch.tensor([name in attributes.OUTER for name in attributes.NAMES])
    assert torch.allclose(tight[:, ~hidden], scores[:, ~hidden], atol=1e-5)
    assert tight[:, hidden].std() < scores[:, hidden].std()


def test_captions_are_deterministic_and_say_only_what_is_true():
    true = ["woman", "smiling", "blond hair", "glasses", "dark background", "young", "asian"]
    for seed in range(50):
        text, used = captions.compose(true, random.Random(seed))
        assert (text, used) == captions.compose(true, random.Random(seed))
        assert set(used) <= set(true) and used
        assert ("man" in text.split()) is False
        assert not text.startswith(" ") and "  " not in text
    assert captions.sentence("woman", ["old", "grey hair"], random.Random(1)).startswith(
        ("an old woman with", "a ", "an elderly")
    )
    assert any("glasses" in text for text in captions.prompts("glasses"))


def test_agreement_is_yes_no_or_unclear():
    table = torch.zeros(3, len(captions.FACTS), dtype=torch.int8)
    used = torch.tensor(
        [captions.indices(names, 3) for names in (("smiling",), ("smiling", "woman"))]
    )
    smiling, woman = captions.FACTS.index("smiling"), captions.FACTS.index("woman")
    table[0, [smiling, woman]] = 1
    table[1, smiling], table[1, woman] = 1, -1
    table[2, smiling] = 1
    assert captions.agreement(used, table).tolist() == [[1, 1, 1], [1, -1, 0]]


def test_contrastive_loss_rewards_every_right_pair_and_leaves_unclear_ones_out():
    agree = torch.tensor([[1, 1, -1], [-1, 0, 1]])
    right, wrong = (
        torch.tensor([[5.0, 5.0, -5.0], [-5.0, 0.0, 5.0]]),
        torch.tensor([[-5.0, -5.0, 5.0], [5.0, 0.0, -5.0]]),
    )
    assert contrastive_loss(right, agree) < 0.5 < contrastive_loss(wrong, agree)
    changed = right.clone()
    changed[1, 1] = 9.0
    assert torch.allclose(contrastive_loss(changed, agree), contrastive_loss(right, agree))


def test_zero_shot_truth_comes_from_labels_or_measures():
    assert zero_shot.truth_from_labels("age", {"age": "60-69"}) == "50+"
    assert zero_shot.truth_from_labels("sex", {"gender": "Male"}) == "male"
    assert zero_shot.truth_from_labels("smile", {"gender": "Male"}) is None
    assert zero_shot.truth_from_labels("hat", {"hat": "no", "headscarf": "yes"}) == "yes"
    measured = torch.zeros(9, len(attributes.MEASURED))
    measured[:, list(attributes.MEASURED).index("smile")] = torch.arange(9.0)
    found = zero_shot.truth_from_thirds(measured, "smile", "yes", "no")
    assert found == ["no"] * 3 + [None] * 3 + ["yes"] * 3


def with_state(made: tuple) -> tuple:
    config, model = made
    return config, model.state_dict()


def test_ground_draws_pictures_together_and_leaves_the_order_of_texts():
    options = ClipOptions(data="faces", out="", **NETWORK)
    torch.manual_seed(0)
    config, state = clip.without_hints(*with_state(clip.new_model(options, 8)))
    plain = ImageText.from_config(config, state)
    config, state = clip.with_ground(config, state, 2.0)
    common = ImageText.from_config(config, state)
    images, texts = torch.rand(5, 3, 64, 64) * 2 - 1, ["a smiling man", "an old woman", "red hair"]
    raw, found = plain.encode(images), common.encode(images)
    assert torch.allclose(found[:, :8], raw, atol=1e-5) and torch.allclose(
        found[:, 8], torch.tensor(2.0)
    )
    assert torch.allclose(common.embed_texts(texts)[:, :8], plain.embed_texts(texts), atol=1e-5)
    assert torch.equal(
        (common.embed_images(images) @ common.embed_texts(texts).T).argsort(1),
        (plain.embed_images(images) @ plain.embed_texts(texts).T).argsort(1),
    )


ALL_MEANS = {"asked": 3, "augment": 1.0, "dropout": 0.2, "tight_share": 0.5}


def first_step(folder: Path, out: Path, **changes) -> tuple[clip_step.TrainingStep, clip.Towers]:
    options = ClipOptions(data=str(folder), out=str(out), device="cpu", **TINY | changes)
    dataset = ClipDataset.build(load_faces(options), 1, options.context, 0, "cpu")
    _, model = clip.new_model(options, dataset.embed_dim)
    return clip_step.TrainingStep(dataset, options), clip.Towers(model.train())


@pytest.mark.parametrize("options", [{}, ALL_MEANS])
def test_a_step_can_be_recorded(folder, tmp_path, options):
    step, towers = first_step(folder, tmp_path / "run", **options)
    batch = step.draw(0, progress=1.0)
    again = step.draw(0, progress=1.0)
    assert all(torch.equal(a, b) for a, b in zip(batch, again, strict=True))
    count = TINY["batch"] + (options.get("asked", 0) * len(step.exam.asked) if step.exam else 0)
    assert len(batch.images) == len(batch.facts) == count and len(batch.used) == TINY["batch"]
    with fakes.NoWaiting():
        terms = step.losses(towers, batch)
        terms["loss"].backward()
        torch.nn.utils.clip_grad_norm_(list(towers.parameters()), 1.0)
    assert all(torch.isfinite(value) for value in terms.values())
    assert towers.model.token_embedding.weight.grad.any(1).sum() > 2
    assert bool(terms["answers"]) == bool(options)


def test_questions_come_when_there_are_words(folder, tmp_path):
    step, _ = first_step(folder, tmp_path / "run", asked=2, question_weight=0.5)
    assert [step.question_weight(at) for at in (0.0, 0.3, 0.45, 0.6, 1.0)] == pytest.approx(
        [0, 0, 0.25, 0.5, 0.5]
    )


def test_a_recipe_with_all_means_runs(folder, tmp_path):
    options = ClipOptions(data=str(folder), out=str(tmp_path), **TINY | ALL_MEANS)
    assert load_clip(train(options)).size == 32


def test_every_answer_weighs_the_same_in_the_loss():
    right = torch.zeros(12, 3, dtype=torch.bool)
    right[:9, 0] = right[9, 1] = True  # the third answer is nowhere, and of two nothing is known
    logits = torch.zeros(12, 3, requires_grad=True)
    loss = questions.balanced_loss(logits, right)
    assert loss.item() == pytest.approx(torch.tensor(3.0).log().item(), abs=1e-5)
    loss.backward()
    assert logits.grad[:9, 0].sum().item() == pytest.approx(logits.grad[9, 1].item(), abs=1e-6)
    assert not logits.grad[10:].any()
    right[0, 1] = True  # of two ages either will do
    either = torch.tensor([[5.0, 5.0, -5.0]])
    assert questions.balanced_loss(either, right[:1]).item() < 1e-3


def test_hidden_parts_have_one_colour_and_a_share():
    rng = torch.Generator().manual_seed(0)
    images = torch.rand(40, 3, 64, 64, generator=rng)
    changed = clip_batches.hide(images, rng, share=0.5)
    touched = (changed != images).any(1)
    assert 10 < touched.flatten(1).any(1).sum() < 30
    assert touched.float().mean(dim=(1, 2)).max() < 0.18
    one = next(i for i in range(40) if touched[i].any())
    assert len(changed[one][:, touched[one]].T.unique(dim=0)) == 1


def test_tight_crops_come_as_often_as_asked(folder, tmp_path):
    found = known_faces(folder, tmp_path / "run")
    found.kind[::2] = 1
    weights = ClipDataset.build(found, 0, 16, 0, "cpu").weights(0.5)
    tight = weights[found.kind == 1].sum() / weights.sum()
    assert tight == pytest.approx(0.5 / (0.5 + 0.46 * 0.5 / 0.72), abs=1e-5)


def test_clutter_keeps_the_middle_of_the_face():
    rng = torch.Generator().manual_seed(0)
    images = torch.rand(8, 3, 64, 64, generator=rng)
    changed = clip_batches.add_clutter(images, rng, share=1.0)
    assert torch.equal(changed[..., 16:48], images[..., 16:48])
    assert not torch.equal(changed, images)


def test_a_run_begins_with_a_finished_model(folder, tmp_path):
    """Its pictures' embeddings, less the ground coordinate, are those of the finished one."""
    finished = load_clip(train(ClipOptions(data=str(folder), out=str(tmp_path / "first"), **TINY)))
    options = ClipOptions(
        data=str(folder),
        out=str(tmp_path / "second"),
        start=str(tmp_path / "first" / "clip.safetensors"),
        **TINY,
    )
    images = torch.rand(2, 3, 32, 32)
    before = finished.model.text_projection.shape[1] - 1
    _, model = clip.new_model(options, before)
    clip.start_from(options, model)
    with torch.no_grad():
        assert torch.allclose(
            model.eval().encode_image(images)[:, : -probes.HINTS],
            finished.model.encode_image(images)[:, :-1],
            atol=1e-5,
        )
    _, wider = clip.new_model(options, before + 2)
    clip.start_from(options, wider)
    layouts = attribute_teacher.TeacherOptions().layouts
    with torch.no_grad():
        found, hints = wider.eval().encode_image(images).split([before + 2, probes.HINTS], 1)
    assert not hints.any(), "nor do hints"
    assert not found[:, -layouts - 2 : -layouts].any(), "new coordinates say nothing yet"
    assert torch.allclose(
        found[:, -layouts:], finished.model.encode_image(images)[:, -layouts - 1 : -1], atol=1e-5
    )
    larger = replace(options, size=64)
    _, seen_at_64 = clip.new_model(larger, before)
    clip.start_from(larger, seen_at_64)
    assert seen_at_64.visual.attnpool.positional_embedding.shape[0] == 1 + 2 * 2
    with pytest.raises(UserError, match="does not fit"):
        clip.start_from(options, clip.new_model(replace(options, width=16), 30)[1])


def test_hair_colour_is_learned_from_labels(folder):
    """The drawn faces with the darkest hair get black, those with the lightest red hair; the probe
    tells them apart again, and says nothing without labels.
    """
    table = tables.aligned_table(folder)
    light = table.measured[:, list(attributes.MEASURED).index("hair light")]
    dark, bright = light.quantile(torch.tensor([1 / 3, 2 / 3])).tolist()
    labels = [
        {"hair": "black"} if value < dark else {"hair": "red"} if value > bright else {}
        for value in light.tolist()
    ]
    free = torch.ones(len(table), dtype=torch.bool)
    scores = hair_scores(table, labels, free)
    names = [name.removesuffix(" hair") for name in attributes.HAIRED]
    found = [names[i] for i in scores.argmax(1).tolist()]
    known = [(a, row["hair"]) for a, row in zip(found, labels, strict=True) if row]
    assert len(known) >= len(table) // 2 and all(a == b for a, b in known)
    assert not hair_scores(table, [{}] * len(table), free).any()


def test_a_rare_class_counts_as_much_as_a_frequent_one():
    """Features that say nothing: the probe's answers are the mean of the classes, not of rows."""
    rng = torch.Generator().manual_seed(0)
    classes = torch.tensor([0] * 90 + [1] * 10)
    values = classes[:, None] * 2.0 - 1
    probe = probes.class_probe(torch.randn(100, 3, generator=rng) * 1e-4, values, classes)
    assert probe(torch.zeros(1, 3)).abs() < 0.05


def test_hints_are_the_main_coordinates_of_the_features():
    rng = torch.Generator().manual_seed(0)
    seen = torch.randn(300, 2, generator=rng) @ torch.randn(2, 90, generator=rng)
    found = probes.hints((seen + 0.01 * torch.randn(300, 90, generator=rng)).half())
    assert found.shape == (300, probes.HINTS)
    assert found[:, :2].std(0) == pytest.approx([1, 1], abs=0.02)
    told = torch.linalg.lstsq(found[:, :2], seen - seen.mean(0)).solution
    assert (found[:, :2] @ told - (seen - seen.mean(0))).abs().mean() < 0.05 * seen.abs().mean()
    assert not probes.hints(seen[:5])[:, 4:].any(), "five pictures have four differences"


# ---- what is prepared, and drawn


def known_faces(folder: Path, out: Path, **options) -> Faces:
    return load_faces(ClipOptions(data=str(folder), out=str(out), **options))


def test_prepared_faces_come_back_as_they_were_kept(folder, tmp_path):
    found = known_faces(folder, tmp_path / "run")
    again = load_faces(
        ClipOptions(faces=str(tmp_path / "run" / "faces.pt"), out=str(tmp_path / "b"))
    )
    assert again.pictures == found.pictures and torch.equal(again.marks, found.marks)
    kept = replace(found, kind=torch.arange(len(found), dtype=torch.int8) % 2)
    kept.save(tmp_path / "two.pt")
    again = Faces.load(tmp_path / "two.pt").marks
    assert torch.equal(again[::2], found.marks[::2]) and not again[1::2].any()
    table = tables.aligned_table(folder)
    assert (found.decode().float() - table.pictures.float()).abs().mean() < 4
    assert torch.allclose(found.measured, table.measured, atol=2e-2)
    assert torch.equal(marks_of(whole_marks(table.marks)), table.marks), "dlib's are whole pixels"


def test_pictures_are_kept_smaller_where_that_is_asked_for(folder):
    table = tables.aligned_table(folder)
    small = encode(table.pictures, side=64, quality=50)
    assert sum(map(len, small)) < sum(map(len, encode(table.pictures)))


def test_relit_copies_follow_their_pictures_and_are_drawn_in_their_share(folder, tmp_path):
    found = known_faces(folder, tmp_path / "run")
    dataset = ClipDataset.build(found, 2, 16, 0, "cpu")
    aligned = int((found.kind == 0).sum())
    assert len(dataset.kind) == len(found) + 2 * aligned
    assert dataset.lit.sum() == 2 * aligned and not dataset.layout[dataset.lit].any()
    weights = dataset.weights()
    assert not weights[dataset.held].any()
    lit = weights[dataset.lit].sum() / weights[dataset.kind == 0].sum()
    assert lit.item() == pytest.approx(clip_batches.LIT_SHARE, abs=1e-5)


def test_words_alone_are_tokenised_as_in_a_sentence():
    from open_clip.tokenizer import SimpleTokenizer

    tokenize, whole = WordTokenizer(16), SimpleTokenizer(context_length=16)
    rng = random.Random(1)
    for _ in range(60):
        text, _ = captions.compose(rng.sample(captions.FACTS, 12), rng)
        assert tokenize(text) == whole(text)[0].tolist()


def test_a_mirrored_picture_is_lit_from_the_other_side():
    names = [captions.FACTS[i] for i in captions.MIRRORED]
    swapped = {a: b for a, b in zip(captions.FACTS, names, strict=True) if a != b}
    assert swapped == {
        "light from the right": "light from the left",
        "light from the left": "light from the right",
    }


def test_drawings_say_so_and_what_was_drawn(folder, monkeypatch):
    for stroke in ("oil", "pencil"):
        monkeypatch.setattr(drawings, stroke, lambda image, seed: image)
    monkeypatch.setattr(drawings, "draw_face", lambda look, seed: cartoon(look.hair, look.skin))
    table = tables.drawn_table(tables.aligned_table(folder), 2)
    rows = seen_by_eye(table.names)
    assert [row["drawing"] for row in rows] == ["yes"] * 3
    assert rows[-1] == drawings.random_look(0)[1]
    assert not held_out_rows(table).any()
    opening = {captions.sentence("man", ["drawing"], random.Random(i))[:10] for i in range(20)}
    assert opening == {"a drawing ", "a painting"}


def test_looks_are_learned_from_labels_and_what_is_known_counts_more(folder):
    table = tables.aligned_table(folder)
    order = table.measured[:, list(attributes.MEASURED).index("hair light")].argsort().tolist()
    rows: list[dict[str, str]] = [{} for _ in order]
    for answer, known in (("yes", order[:4]), ("no", order[-4:])):
        for i in known:
            rows[i] = {"hat": answer}
    free = torch.ones(len(table), dtype=torch.bool)
    scores = look_scores(table, rows, free)
    hat = list(attributes.LOOKED).index("hat")
    assert scores[order[:4], hat].min() > scores[order[-4:], hat].max()
    assert not scores[:, torch.arange(len(attributes.LOOKED)) != hat].any(), "no labels, no scores"
    probed = torch.zeros(len(table), len(attributes.NAMES) - len(attributes.MEASURED))
    found = with_known(probed, rows, free)
    assert torch.equal(found.any(0).nonzero()[:, 0], torch.tensor([12 + hat]))


def test_people_seen_for_measuring_are_never_trained_on():
    def names(path):
        return {line.split(",")[0] for line in path.read_text().splitlines()[1:]}

    assert not names(SEEN) & names(SEEN_HELD_OUT)


def test_texts_are_taught_and_pictures_stay(folder, tmp_path):
    run = tmp_path / "run"
    start = train(ClipOptions(data=str(folder), out=str(run), **TINY))
    files = {"faces": str(run / "faces.pt"), "start": str(start), "out": str(tmp_path / "texts")}
    few = {"steps": 4, "batch": 8, "pictures": 16, "asked": 32, "rate": 1e-2, "device": "cpu"}
    learned = load_clip(texts.train(texts.TextOptions(**files, **few)))
    before, images = load_clip(start), torch.rand(2, 3, 32, 32)
    assert torch.equal(before.encode(images), learned.encode(images))
    said = learned.embed_texts(["a smiling man", "a photo of a serious woman"])
    assert not torch.allclose(before.embed_texts(["a smiling man"])[0], said[0], atol=1e-3)
    assert not said[:, -1].any(), "the ground coordinate belongs to pictures"
    assert len((tmp_path / "texts" / "log.csv").read_text().splitlines()) == 2

    # Where pictures differ by what is asked, the answers come to be right.
    dataset = ClipDataset.build(Faces.load(run / "faces.pt"), 0, NETWORK["context"], 0, "cpu")
    lesson = texts.Lesson(before, dataset, texts.TextOptions(**files, **few | {"steps": 60}))
    rng = torch.Generator().manual_seed(0)
    facts = dataset.facts.float()
    directions = torch.randn(facts.shape[1], lesson.embeddings.shape[1], generator=rng)
    lesson.embeddings = torch.nn.functional.normalize(facts @ directions, dim=1)
    losses = [lesson.step(step)["answers"].item() for step in range(60)]
    assert sum(losses[-10:]) < 0.7 * sum(losses[:10])


def test_every_answer_is_drawn_equally_often():
    right = torch.zeros(100, 3, dtype=torch.bool)
    right[:98, 0] = right[98:, 1] = True  # and the third is nowhere
    question = texts.Question([], torch.arange(100) + 7, right, torch.rand(100) + 0.1)
    rows, known = question.draw(64, torch.Generator().manual_seed(0))
    assert known.sum(0).tolist() == [32, 32, 0]
    assert torch.equal(right[rows - 7], known)


def test_texts_are_refused_without_what_the_encoders_recipe_made(folder, tmp_path):
    with pytest.raises(UserError, match="give what `train clip` made"):
        texts.train(texts.TextOptions(faces="none.pt", start="none", out=str(tmp_path)))
    run = tmp_path / "run"
    start = train(ClipOptions(data=str(folder), out=str(run), **TINY))
    another = load_clip(start)
    save_clip(another.config, another.model.state_dict(), tmp_path / "other.safetensors")
    files = {"faces": str(run / "faces.pt"), "start": str(tmp_path / "other.safetensors")}
    with pytest.raises(UserError, match="was not made by `train clip`"):
        texts.train(texts.TextOptions(**files, out=str(tmp_path)))
