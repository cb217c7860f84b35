"""Words as targets, and what files and methods make of them."""

import dataclasses
import random

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from essence import PRESETS, Essence, UserError, adjusted
from essence.errors import BadFile
from essence.library.clip_files import load_clip, save_clip
from essence.library.safe_files import read_safetensors, write_safetensors
from essence.methods import losses, method_of
from essence.methods.directions import make_direction
from essence.methods.map import map_target
from essence.methods.optimize import TERMS, Objective, optimize
from essence.methods.optimize_options import OptimizeOptions
from essence.methods.released import released
from essence.methods.words import (
    CONTEXTS,
    PICTURE_CONTEXTS,
    picture_centre,
    remembered_target,
    text_target,
)
from essence.models.vocabulary import every_phrase, taught_phrases, untaught_words
from essence.train.data import captions

from . import fakes

QUICK = OptimizeOptions(steps=3)


@pytest.fixture
def models():
    return dataclasses.replace(fakes.model_set())


def sources(models, count=2):
    w = torch.randn(count, 8, 8, generator=torch.Generator().manual_seed(1))
    return fakes.sources(models, w)


# ---- what was taught


@pytest.mark.parametrize("phrase", taught_phrases())
def test_every_phrase_that_is_offered_was_taught(phrase):
    assert untaught_words(phrase) == untaught_words(f"A photo of a person with {phrase}.") == []


@pytest.mark.parametrize(
    "text, unknown",
    [
        ("an old Asian woman with white hair, lit from the left", []),
        ("a woman with purple hair and a beard", ["purple hair"]),
        ("A pirate with an eye patch, smiling", ["pirate", "eye patch"]),
        ("ein Mann", ["ein mann"]),
        ("", []),
    ],
)
def test_words_beyond_the_captions_are_told(text, unknown):
    assert untaught_words(text) == unknown


def test_only_our_own_encoders_have_counted_words(models):
    assert models.clip.phrases == () and models.clip.unknown_words("a pirate") == []


def test_an_encoder_that_keeps_its_own_words_alone_reads_captions_as_before(models, tmp_path):
    whole, path = models.clip, tmp_path / "clip.safetensors"
    save_clip(fakes.CLIP, whole.model.state_dict(), path, half=False, words=every_phrase())
    kept = load_clip(path)
    facts = [fact for fact in captions.FACTS if fact not in ("baby", "child")]
    texts = [captions.compose(facts, random.Random(seed))[0] for seed in range(200)]
    assert torch.equal(kept.embed_texts(texts), whole.embed_texts(texts))
    assert path.stat().st_size < whole.model.token_embedding.weight.nbytes
    unknown = kept.embed_texts(["a xylophone", "a zeppelin"])
    assert unknown.isfinite().all()


@pytest.mark.parametrize(
    "damage",
    [
        lambda rows, table: {"token_rows": rows[1:]},
        lambda rows, table: {"token_rows": rows + 49408},
        lambda rows, table: {"token_rows": rows.half()},
        lambda rows, table: {"token_rows": rows[:0], "token_embedding.weight": table[:0]},
        lambda rows, table: {"token_embedding.weight": table[0]},
    ],
)
def test_a_damaged_list_of_words_is_told(models, tmp_path, damage):
    path = tmp_path / "clip.safetensors"
    save_clip(fakes.CLIP, models.clip.model.state_dict(), path, words=every_phrase())
    tensors, header = read_safetensors(path)
    tensors |= damage(tensors["token_rows"], tensors["token_embedding.weight"])
    write_safetensors(path, tensors, header)
    with pytest.raises(BadFile, match="tokens in clip.safetensors do not fit"):
        load_clip(path)


# ---- the target


def test_a_text_says_what_it_says_more_than_anybody(models):
    target = text_target(models, "  an old\n man ")
    assert target.text == target.name == "an old man" and target.direction is None
    assert target.picture is None and target.embedding.norm().item() == pytest.approx(1, abs=1e-5)
    centre = picture_centre(models)
    said = models.clip.embed_texts(["an old man"])[0]
    nobody = models.clip.embed_texts(["a person"])[0]
    moved = F.normalize(centre + said - nobody, dim=0)
    # From the centre of pictures about as the text from a neutral one.
    assert F.cosine_similarity(target.embedding - centre, moved - centre, dim=0) > 0.8


def test_a_pair_of_texts_has_the_direction_between_them(models):
    target = text_target(models, "an old man", "a man", name="age")
    back = text_target(models, "a man", "an old man")
    assert (target.name, target.text, target.neutral) == ("age", "an old man", "a man")
    torch.testing.assert_close(target.direction, -back.direction)


@pytest.mark.parametrize("faces", [True, False])
def test_that_direction_is_the_mean_over_contexts(models, monkeypatch, faces):
    monkeypatch.setattr(type(models), "has_faces", faces)
    contexts = CONTEXTS if faces else PICTURE_CONTEXTS
    assert all(context.count("{}") == 1 for context in contexts) and contexts[0] == "{}"
    target = text_target(models, "an {old} man", "a man")
    apart = [
        models.clip.embed_texts([context.replace("{}", text) for text in ("an {old} man", "a man")])
        for context in contexts
    ]
    wanted = torch.stack([said - other for said, other in apart]).mean(0)
    torch.testing.assert_close(target.direction, wanted)


def test_texts_that_say_nothing_are_refused(models):
    with pytest.raises(UserError, match="empty"):
        text_target(models, " \n")
    with pytest.raises(UserError, match="says nothing"):
        text_target(models, "a man", "a man")


def test_without_a_mapper_pictures_have_a_centre_too(models):
    bare = dataclasses.replace(models, extras={})
    centre = picture_centre(bare)
    assert centre.shape == (8,) and 0 < centre.norm() <= 1
    assert picture_centre(bare) is centre  # measured once


# ---- methods


@pytest.mark.parametrize("preset", ["essence", "paper", "instant"])
def test_methods_learn_words_and_essences_remember_them(models, preset, tmp_path):
    target = text_target(models, "an old man", "a man")
    options = adjusted(PRESETS[preset], steps=2, loss_resolution=0)
    *_, step = method_of(options)[1].learn(models, target, sources(models), options)
    assert (step.result.text, step.result.neutral) == ("an old man", "a man")
    step.result.save(tmp_path / "e.safetensors")
    again = Essence.load(tmp_path / "e.safetensors")
    assert (again.text, again.neutral, again.thumbnail) == ("an old man", "a man", None)
    remembered = remembered_target(models, again)
    torch.testing.assert_close(remembered.embedding, target.embedding)


def test_files_from_before_there_were_words_load(tmp_path):
    Essence(torch.ones(8, 8), "old").save(tmp_path / "e.safetensors")
    tensors, header = read_safetensors(tmp_path / "e.safetensors")
    header = {name: value for name, value in header.items() if name not in ("text", "neutral")}
    write_safetensors(tmp_path / "old.safetensors", tensors, header)
    old = Essence.load(tmp_path / "old.safetensors")
    assert (old.name, old.text, old.neutral) == ("old", "", "")


def test_what_an_essence_remembers_of_its_target(models):
    assert remembered_target(models, Essence(torch.zeros(8, 8))) is None
    target = fakes.target(models, torch.zeros(1, 3, 32, 32))
    essence = Essence(torch.zeros(8, 8), thumbnail=target.picture)
    again = remembered_target(models, essence)
    assert F.cosine_similarity(again.embedding, target.embedding, dim=0) > 0.99


def test_one_text_is_one_goal_and_a_pair_is_a_way_from_each_source(models):
    z = torch.randn(2, 8, 8, generator=torch.Generator().manual_seed(1))
    one, pair = text_target(models, "an old man"), text_target(models, "an old man", "a man")
    e = F.normalize(models.encode(models.images(z)), dim=1)
    for target, goal in ((one, one.embedding), (pair, e + pair.direction)):
        objective = Objective(models, z, [target], QUICK)
        direction = make_direction(models, torch.zeros(8, 8), None, 2, QUICK)
        transfer = objective([direction], 2)["losses"][0, TERMS.index("transfer")]
        wanted = losses.transfer(e, goal)
        assert transfer.item() == pytest.approx(wanted.item(), abs=1e-5)


def test_a_start_from_the_mapper(models):
    target = text_target(models, "an old man")
    options = dataclasses.replace(QUICK, start="mapper", learning_rate=0.0, penalty=0.0)
    zero_rates = dataclasses.replace(options, axes_learning_rate=0.0, layer_learning_rate=0.0)
    first = next(optimize(models, target, sources(models), zero_rates)).result
    instant = PRESETS["instant"]
    mapped = next(map_target(models, target, options=instant)).result
    torch.testing.assert_close(first.delta, mapped.delta, atol=1e-5, rtol=1e-4)
    assert np.isfinite(first.delta.numpy()).all()
    bare = dataclasses.replace(models, extras={})
    with pytest.raises(UserError, match="no mapper.*train mapper"):
        next(optimize(bare, target, sources(bare), options))


def test_the_released_method_wants_a_picture(models):
    with pytest.raises(UserError, match="picture as its target, not words"):
        next(released(models, text_target(models, "an old man"), sources(models)))
