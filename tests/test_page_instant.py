"""Essences at once, targets and sources in words: the handlers, with tiny models that have a
mapper.
"""

from __future__ import annotations

import dataclasses
import io
import random

import numpy as np
import pytest
import torch
from PIL import Image

from demo.messages import SKIP
from demo.panels import cards, compare, crop, downloads, imagine, items, learning, targets, words
from demo.panels import sources as source_panel
from demo.rendering import type_size, words_picture
from demo.session import MAX_ITEMS, Session
from essence import Essence, Pictures, notions
from essence.models.model_set import ModelSet
from essence.models.vocabulary import similar_notions, untaught_words, with_notion

from . import fakes, pictures
from .test_demo import content, learn, only, run

TEXT = "an old man"


@pytest.fixture(scope="module")
def studio():
    return fakes.studio()


@pytest.fixture
def session(studio, messages):
    """Two sources and a target in a picture."""
    session = Session()
    for _ in range(2):
        source_panel.add_random_face(studio, session)
    run(targets.add_targets(studio, session, [pictures.SOURCES[0]], aligned=True))
    return session


# ---- essences at once


def test_a_new_target_fills_the_grid_and_says_that_it_was_not_learned(studio, session):
    target = only(session.items.targets)
    assert target.essence is target.instant and target.essence.method == "encode"
    assert not target.learned and len(session.view.cells) == 2
    assert "essence at once" in cards.targets_html(session)
    assert learning.after_stop(studio, session)[0].count("Nothing was learned yet")


def test_learning_begins_at_the_instant_essence_and_says_what_it_gained(studio, session):
    target = only(session.items.targets)
    instant = target.instant
    frames = run(learn(studio, session, steps=4))
    assert target.learned and target.essence.method == "optimize"
    _, before = studio.cosines(
        target.embedded, [item.source for item in session.items.ready()], instant
    )
    assert target.gain[0] == pytest.approx(before, abs=2e-3)  # pictures are whole numbers
    assert f"{target.gain[0]:.2f} → {target.gain[1]:.2f}" in frames[-1][0]
    assert f"likeness {target.gain[0]:.2f} → {target.gain[1]:.2f}" in cards.targets_html(session)
    first = target.essence
    run(learn(studio, session, learning.AGAIN, steps=4))
    torch.testing.assert_close(target.essence.delta, first.delta)  # from the same start
    run(learn(studio, session, learning.CONTINUE, steps=1))
    assert target.learned and target.instant is instant


def test_stopped_after_a_step_the_learned_essence_stays_and_goes_on(studio, session):
    target = only(session.items.targets)
    course = learn(studio, session, steps=10_000)
    next(course), next(course)
    course.close()
    best = target.essence
    assert target.learned and "is kept" in learning.after_stop(studio, session)[0]
    assert target.essence is best is not target.instant


@pytest.mark.parametrize("preset", ["paper", "released"])
def test_published_presets_start_where_they_were_published_to(studio, session, preset, monkeypatch):
    starts, extract = [], studio.extract
    monkeypatch.setattr(studio, "extract", lambda *a: starts.append(a[3]) or extract(*a))
    run(learn(studio, session, steps=1, preset=preset))
    run(learn(studio, session, learning.AGAIN, steps=1))
    assert starts == [None, only(session.items.targets).instant]


def test_another_crop_or_face_has_another_essence_at_once(studio, session):
    target = only(session.items.targets)
    first = target.instant
    crop.nudge_crop(studio, session, target.id, {"zoom": 1.5})
    assert target.instant is target.essence is not first and target.gain is None
    assert (target.essence.delta - first.delta).abs().max() > 1e-6


def test_undo_brings_it_back_and_files_hold_it(studio, session, tmp_path):
    target = only(session.items.targets)
    items.remove(studio, session, target.id)
    items.undo(studio, session)
    assert only(session.items.targets).essence is target.instant
    name, data = content(downloads.download_result(studio, session, target.id))
    (tmp_path / name).write_bytes(data)
    assert Essence.load(tmp_path / name).method == "encode"
    assert len(content(downloads.download_cells(studio, session))[1]) > 100


def test_models_without_a_mapper_wait_for_learning(messages):
    studio, session = fakes.studio(with_mapper=False), Session()
    source_panel.add_random_face(studio, session)
    run(targets.add_targets(studio, session, [pictures.SOURCES[0]], True))
    words.add_words(studio, session, TEXT, "")
    for target in session.items.targets.values():
        assert target.result is None and "not learned yet" in cards.targets_html(session)
    run(learn(studio, session, steps=2))
    assert all(target.learned for target in session.items.targets.values())
    assert list(imagine.imagine_faces(studio, session, TEXT))[-1] == ""
    assert "no mapper" in messages[-1]


def test_a_method_with_pictures_counts_as_learned(studio, session):
    target = only(session.items.targets)
    made = Pictures(np.zeros((2, 32, 32, 3), np.uint8), "t", "toy")
    target.take(made, [item.source for item in session.items.ready()])
    assert target.learned and target.essence is None


# ---- words


def test_a_sentence_is_a_target_with_its_words_for_a_picture(studio, session, messages, tmp_path):
    text, *shown = words.add_words(studio, session, "  an old\nman ", "a man")
    target = list(session.items.targets.values())[-1]
    assert text == "" and not messages and (target.words, target.neutral) == (TEXT, "a man")
    assert target.essence.text == TEXT and target.essence is target.instant
    assert f">{TEXT}</span>" in shown[1] and "from “a man”" in shown[1]
    assert f">{TEXT}</span>" in shown[2]  # in the grid too
    run(learn(studio, session, steps=2))
    assert target.learned and target.essence.neutral == "a man"
    source = next(iter(session.items.sources))
    assert TEXT in compare.open_view(studio, session, target.id, source)
    assert '"likeness": [null' not in compare.measure_strengths(studio, session)
    name, data = content(downloads.download_result(studio, session, target.id))
    (tmp_path / name).write_bytes(data)
    other = Session()
    source_panel.add_random_face(studio, other)
    run(targets.add_targets(studio, other, [tmp_path / name], False))
    loaded = only(other.items.targets)
    assert loaded.text == TEXT and f">{TEXT}</span>" in cards.targets_html(other)
    assert not loaded.learnable and loaded.learned
    _, data = content(downloads.download_grid(studio, session))
    with Image.open(io.BytesIO(data)) as image:
        assert image.format == "PNG"


def test_words_that_say_nothing_are_told(studio, session, messages):
    for text, neutral, said in ((" ", "", "empty"), ("a man", "a man", "says nothing")):
        assert words.add_words(studio, session, text, neutral) == (SKIP,) * 4
        assert said in messages.pop()
    assert len(session.items.targets) == 1


def test_there_is_room_for_so_many_sentences(studio, messages):
    session = Session()
    for _ in range(MAX_ITEMS + 1):
        words.add_words(studio, session, TEXT, "")
    assert len(session.items.targets) == MAX_ITEMS and "room for" in messages[0]


def test_words_are_text_not_html(studio, messages):
    session, text = Session(), '<img src=x onerror="alert(1)">'
    source_panel.add_random_face(studio, session)
    for html in words.add_words(studio, session, text, text[1:])[1:]:
        assert "<img src=x" not in html
    assert "onerror" in cards.targets_html(session)


def test_words_beyond_the_small_encoder_are_named_with_what_is_near(studio, messages, monkeypatch):
    session = Session()
    monkeypatch.setattr(type(studio), "unknown_words", lambda _, text: untaught_words(text))
    words.add_words(studio, session, "a pirate with purple hair", "a man")
    (told,) = messages
    assert "“pirate” and “purple hair” (near it: red hair" in told and "--model ffhq" in told
    assert len(session.items.targets) == 1  # the rest of it is known


@pytest.mark.parametrize("text", ["", "a man", "woman", "an old child, in warm light", "freckles"])
def test_every_notion_can_be_said_too_and_is_said_once(text):
    for phrase in (each for group in notions().values() for each in group):
        said = with_notion(text, phrase)
        assert phrase in said and with_notion(said, phrase) == said
        assert untaught_words(said) == untaught_words(text)


def test_notions_make_a_sentence():
    said = ""
    for phrase in ("old", "a beard", "lit from the left", "man", "glasses", "Asian", "a word"):
        said = with_notion(said, phrase)
    assert said == "an old Asian man with a beard and glasses, lit from the left"
    assert with_notion("a German woman", "man") == "a German man"


@pytest.mark.parametrize(
    "words, near",
    [("mustash", ["moustache"]), ("pirate", []), ("curly hair", "hair"), ("", [])],
)
def test_what_is_near_shares_a_word_or_its_spelling(words, near):
    found = similar_notions(words)
    if isinstance(near, str):
        assert found and all(near in phrase for phrase in found)
    else:
        assert found == near


@pytest.mark.parametrize("text", ["x", TEXT, "uncharacteristically", "a man " * 30, ""])
def test_words_fill_their_square_and_stay_inside(text):
    assert 0 < type_size(text) <= 22
    pixels = np.asarray(words_picture(text, 128))
    assert pixels.shape == (128, 128, 3)
    assert (pixels[:, :3] > 250).all() and (pixels[:, -3:] > 250).all()
    assert bool((pixels < 100).any()) == bool(text)


# ---- faces from words


def test_faces_from_words_stream_and_one_becomes_a_source(studio, session, messages, monkeypatch):
    monkeypatch.setattr(random, "randrange", lambda _: 77)
    frames = run(imagine.imagine_faces(studio, session, "a smiling woman"))
    assert "Imagining" in frames[1] and "seed 77: choose" in frames[-1]
    assert frames[-1].count("<img") == len(session.view.imagined) == 4
    again = [source.w for source in session.view.imagined]
    shown = imagine.take_face(studio, session, 2)
    item = list(session.items.sources.values())[-1]
    assert item.source is session.view.imagined[2] and not session.in_photograph(item)
    assert "seed 77" in shown[0] and len(session.view.cells) == 3 and not messages
    run(imagine.imagine_faces(studio, session, "a smiling woman"))
    for one, other in zip(again, session.view.imagined, strict=True):
        torch.testing.assert_close(one, other.w)  # the same seed, the same faces
    before = len(session.items.sources)
    for nobody in (-1, 4):
        imagine.take_face(studio, session, nobody)
    assert len(session.items.sources) == before


def test_of_two_sheets_asked_for_the_later_one_is_shown(studio, session):
    first = imagine.imagine_faces(studio, session, "a man")
    next(first), next(first)
    second = imagine.imagine_faces(studio, session, "a woman")
    next(second)
    assert run(first) == []
    run(second)
    assert session.view.imagined[0].name.startswith("a woman")


def test_no_face_for_no_words(studio, session, messages):
    assert run(imagine.imagine_faces(studio, session, " ")) == [""]
    assert "empty" in messages[0]


def test_a_set_says_which_method_answers_at_once():
    models: ModelSet = dataclasses.replace(fakes.model_set())
    assert fakes.Studio.of(models).instant(fakes.target(models, torch.zeros(1, 3, 32, 32)))
    bare = fakes.studio(with_mapper=False)
    assert bare.instant(fakes.target(bare.models, torch.zeros(1, 3, 32, 32))) is None
