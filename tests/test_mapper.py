"""The mapper, its recipe, and what is made with it: instant essences, faces from words, strengths
that suit.
"""

import dataclasses
import json
import re

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from essence import PRESETS, BadFile, Essence, ImagineOptions, Studio, UserError
from essence.cli import main as cli
from essence.library import checkpoints, loading
from essence.library.checkpoints import load_mapper, save_mapper
from essence.library.clip_files import load_clip, save_clip
from essence.methods.imagine import WORDS_REACH, mapped_faces
from essence.methods.map import EMPHASIS, PAIR_EMPHASIS, PAIR_SHIFT, MapOptions, map_target
from essence.methods.strength import StrengthOptions, auto_strength
from essence.methods.words import text_target
from essence.runtime import folders
from essence.studio import last
from essence.train import mapper as recipe

from . import fakes

TEXT = "an old man"


@pytest.fixture
def models():
    return dataclasses.replace(fakes.model_set())


# ---- the network


def mapper(models, styles=True):
    return fakes.mapper(models.generator, models.clip, models.latents, styles)


@torch.no_grad()
def test_nothing_maps_to_nothing_and_shifts_lie_in_the_axes(models):
    one = mapper(models)
    assert torch.equal(one.shift(torch.zeros(8)), torch.zeros(8))
    residual = torch.randn(3, 8, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(one(residual), one.coordinates(residual) @ models.latents.axes)


@torch.no_grad()
def test_styles_of_every_layer_and_none_where_none_are_learned(models):
    one, x = mapper(models), torch.randn(2, 8)
    shifts = one.style_shifts(x)
    styles = models.generator.styles(torch.zeros(2, 8, 8))
    assert [s.shape for s in shifts] == [s.shape for s in styles]
    assert mapper(models, styles=False).style_shifts(x) == []


def test_a_residual_does_not_depend_on_an_embeddings_length(models):
    e = torch.randn(8)
    torch.testing.assert_close(mapper(models).residual(e), mapper(models).residual(3 * e))


@pytest.mark.parametrize("styles", [True, False])
def test_what_is_saved_is_what_was_loaded(models, tmp_path, styles):
    one = mapper(models, styles)
    save_mapper(one, tmp_path / "m.safetensors", half=False)
    again = load_mapper(tmp_path / "m.safetensors")
    assert (again.config, again.generator, again.clip) == (one.config, one.generator, one.clip)
    for name, value in one.state_dict().items():
        assert torch.equal(again.state_dict()[name], value)


def test_other_files_are_no_mappers(tmp_path):
    checkpoints.save_latents(torch.zeros(8), torch.eye(8), tmp_path / "l.safetensors", 1)
    with pytest.raises(BadFile, match="no mapper.*train mapper"):
        load_mapper(tmp_path / "l.safetensors")


@pytest.mark.parametrize(
    "kind, called", [("generator", "generator"), ("clip", "image-text encoder")]
)
def test_a_mapper_of_other_models_is_refused(models, tmp_path, kind, called):
    folder = fakes.files(tmp_path / "set")
    assert "mapper" in loading.load_model_set(str(folder), half=False).extras
    other = mapper(models)
    setattr(other, kind, "00000000")
    save_mapper(other, folder / "mapper.safetensors", half=False)
    with pytest.raises(BadFile, match=f"another {called} .00000000.*train mapper"):
        loading.load_model_set(str(folder), half=False)


def test_the_text_side_may_be_taught_anew(tmp_path):
    folder = fakes.files(tmp_path / "set")
    encoder = load_clip(folder / "clip.safetensors")
    encoder.model.text_projection.data += 1
    save_clip(encoder.config, encoder.model.state_dict(), folder / "clip.safetensors", half=False)
    assert {"mapper", "essence"} <= set(loading.load_model_set(str(folder), half=False).extras)


# ---- the recipe


def options(folder, out, **changes):
    names = ("generator", "latents", "clip")
    files = {name: str(folder / f"{name}.safetensors") for name in names}
    settings = {"samples": 96, "steps": 6, "batch": 16, "width": 16, "every": 3, "device": "cpu"}
    return recipe.MapperOptions(**files, out=str(out), **settings | changes)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return fakes.files(tmp_path_factory.mktemp("mapper") / "set")


def test_it_learns_the_way_back(folder, tmp_path):
    """Even of random networks a part of w is in the embedding."""
    trainer = recipe.train(options(folder, tmp_path, samples=600, steps=150, width=64, noise=0.0))
    assert trainer.held_r2() > 0.1
    assert -1 <= trainer.held_cosine(8) <= 1
    rows = (tmp_path / "log.csv").read_text().splitlines()
    assert len(rows) == 1 + 150 // 3


@pytest.mark.parametrize("centre", recipe.CENTRES)
@pytest.mark.parametrize("styles", [True, False])
def test_a_resumed_run_ends_as_an_uninterrupted_one(folder, tmp_path, centre, styles, monkeypatch):
    choice = {"centre": centre, "styles": styles}
    whole = recipe.train(options(folder, tmp_path / "whole", **choice))
    trainer = recipe.Trainer(options(folder, tmp_path / "parts", **choice))
    for _ in range(3):
        trainer.train_step()
    trainer.save()
    resumed = recipe.train(options(folder, tmp_path / "parts", **choice))
    assert resumed.step == whole.step == 6
    for name, value in whole.mapper.state_dict().items():
        torch.testing.assert_close(resumed.mapper.state_dict()[name], value)


def test_it_fits_the_set_that_it_was_trained_for(folder, tmp_path):
    recipe.main(
        [f"--{name}={folder}/{name}.safetensors" for name in ("generator", "latents", "clip")]
        + [f"--out={tmp_path}", "--samples=48", "--steps=2", "--batch=8", "--device=cpu"]
    )
    (tmp_path / "mapper.safetensors").replace(folder / "mapper.safetensors")
    models = loading.load_model_set(str(folder), half=False)
    assert models.component("mapper").config.width == 512


def test_mistakes_of_the_recipe_are_told(folder, tmp_path):
    with pytest.raises(UserError, match="--centre is one of mean"):
        options(folder, tmp_path, centre="median")
    recipe.train(options(folder, tmp_path))
    with pytest.raises(UserError, match="another architecture"):
        recipe.train(options(folder, tmp_path, width=8))
    other = fakes.files(tmp_path / "other", seed=5)
    with pytest.raises(UserError, match="of other models: choose another --out"):
        recipe.train(options(other, tmp_path))


# ---- a mapper that has learned an essence encoder's answers


@pytest.fixture(scope="module")
def learned(folder, tmp_path_factory):
    """A run that has, and its mapper."""
    out = tmp_path_factory.mktemp("essences")
    choice = {"essence": str(folder / "essence.safetensors"), "noise": 0.0, "width": 64}
    trainer = recipe.train(options(folder, out, samples=600, steps=150, **choice))
    return trainer, load_mapper(out / "mapper.safetensors")


@torch.no_grad()
def test_it_says_nearly_what_the_encoder_says(learned):
    trainer, _ = learned
    mapper, e, wanted = trainer.mapper, trainer.e[trainer.held], trainer.essences[trainer.held]
    said = mapper.essence_coordinates(mapper.residual(e))
    assert F.cosine_similarity(said, wanted).mean() > 0.7


@pytest.mark.parametrize(
    "of, times", [("picture", 1.0), ("words", EMPHASIS), ("a pair", PAIR_EMPHASIS)]
)
def test_instant_essences_are_then_the_encoders_and_doubles_are_not(models, learned, of, times):
    _, one = learned
    assert one.config.essences
    with_both = dataclasses.replace(models, extras={"mapper": one})
    target = text_target(models, TEXT, "a young man" if of == "a pair" else "")
    if of == "picture":
        picture = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(4)) * 2 - 1
        target = fakes.target(models, picture)
    (step,) = map_target(with_both, target)
    said = one.residual(target.embedding) if of != "a pair" else target.direction
    wanted = one.essence(times * said)
    if of == "a pair":
        wanted = wanted + PAIR_SHIFT * one.shift(said)
    torch.testing.assert_close(step.result.delta, wanted.expand(8, 8))
    assert not torch.allclose(wanted, one.shift(one.residual(target.embedding)))
    assert torch.equal(one.essence(torch.zeros(8)), torch.zeros(8))
    (half,) = map_target(with_both, target, options=MapOptions(factor=0.5))
    torch.testing.assert_close(half.result.delta, step.result.delta / 2)


def test_a_run_with_another_encoder_is_another_run(folder, learned):
    trainer, _ = learned
    with pytest.raises(UserError, match="of other models|another architecture"):
        recipe.Trainer(dataclasses.replace(trainer.options, essence=""))


# ---- instant essences


def test_an_instant_essence_is_the_mapped_target_minus_the_mapped_centre(models):
    target = fakes.target(models, torch.zeros(1, 3, 32, 32), "grey")
    (step,) = map_target(models, target, options=MapOptions(factor=2.0))
    one = models.extras["mapper"]
    shift = one.shift(one.residual(target.embedding))
    torch.testing.assert_close(step.result.delta, 2 * shift.expand(8, 8))
    assert (step.index, step.total, step.result.method) == (1, 1, "map")
    assert step.result.thumbnail is target.picture and not step.losses


def test_the_way_back_is_the_opposite_to_first_order(models):
    """A mapper is no linear map; of small differences it is nearly one."""
    one = models.extras["mapper"]
    residual = 1e-4 * torch.randn(8, generator=torch.Generator().manual_seed(0))
    there, back = one.shift(residual), one.shift(-residual)
    assert F.cosine_similarity(there, -back, dim=0) > 0.99


def test_models_without_a_mapper_say_what_to_do(models):
    bare = dataclasses.replace(models, extras={})
    with pytest.raises(UserError, match="no mapper.*train mapper.*--method optimize"):
        next(map_target(bare, text_target(models, TEXT)))


# ---- faces from words


def test_faces_come_closer_to_the_words_and_differ(models):
    studio = fakes.studio()
    target = studio.text_target(TEXT)
    steps = list(studio.imagine(target, ImagineOptions(count=3, steps=8, penalty=0.0)))
    assert [step.index for step in steps] == list(range(1, 10)) and steps[0].total == 9
    assert steps[-1].losses["total"] < steps[0].losses["total"]
    faces = steps[-1].result
    assert [face.name for face in faces] == [f"{TEXT} {n}" for n in (1, 2, 3)]
    assert not torch.equal(faces[0].w, faces[1].w) and not faces[0].has_photograph
    # What is kept is what was drawn.
    drawn = models.render(faces[0].w[None])[0].astype(int)
    assert np.abs(drawn - np.asarray(faces[0].inversion)).max() <= 1


def test_words_reach_no_further_than_pictures_do(models):
    mapper, words = models.extras["mapper"], text_target(models, TEXT)
    picture = dataclasses.replace(words, picture=Image.new("RGB", (32, 32)), text="")
    choice = ImagineOptions(count=2, variety=0.0)
    reach = [
        (mapped_faces(models, each, choice)[1] - mapper.centre).norm(dim=1).max().item()
        for each in (words, picture)
    ]
    assert reach[0] == pytest.approx(min(WORDS_REACH * mapper.spread.item(), reach[1]), rel=1e-4)
    assert reach[1] == pytest.approx(mapper.residual(words.embedding).norm().item(), rel=1e-4)


def test_the_same_seed_makes_the_same_faces(models):
    studio = fakes.studio()
    target = studio.text_target(TEXT)

    def make(seed, variety=0.4):
        choice = ImagineOptions(count=2, seed=seed, steps=0, variety=variety)
        return torch.stack([face.w for face in last(studio.imagine(target, choice)).result])

    assert torch.equal(make(0), make(0)) and not torch.equal(make(0), make(1))
    bland = make(0, variety=0.0)
    torch.testing.assert_close(bland[0], bland[1])


# ---- the strength that suits


def test_a_strength_keeps_the_person_and_is_no_larger_than_it_need_be(models):
    studio = fakes.studio()
    source = studio.random_source(0)
    target = studio.text_target(TEXT)
    essence = dataclasses.replace(last(studio.extract(target, [source], PRESETS["instant"])).result)
    choice = StrengthOptions(distance=1e6)
    free = auto_strength(models, source, essence, target, choice)
    assert 0 <= free <= choice.most
    whole = auto_strength(models, source, essence, None, choice)
    assert whole >= choice.enough * choice.most
    assert auto_strength(models, source, essence, None, StrengthOptions(distance=0)) == 0
    assert studio.auto_strength(source, essence) == studio.auto_strength(source, essence, target)


def test_an_essence_that_does_nothing_needs_no_strength(models):
    source = fakes.studio().random_source(0)
    assert auto_strength(models, source, Essence(torch.zeros(8, 8)), text_target(models, TEXT)) == 0


# ---- the command line


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    fakes.write_manifest(tmp_path, monkeypatch, {"mini": "square"})
    monkeypatch.chdir(tmp_path)

    def command(words):
        try:
            code = cli.main(words)
        except SystemExit as stop:  # what the parser finds itself
            code = stop.code
        said = capsys.readouterr()
        return code, json.loads(said.out) if said.out.startswith("{") else said.out, said.err

    return command


def test_words_all_the_way(run):
    extract = ["extract", "--text", TEXT, "--out", "e.safetensors", "--json"]
    code, found, err = run([*extract, "--from", "a man", "--method", "map"])
    assert code == 0, err
    assert Essence.load("e.safetensors").neutral == "a man" and found["steps"] == 1
    code, found, err = run([*extract, "--steps", "2", "--start", "mapper", "--name", "age"])
    assert code == 0, err
    assert Essence.load("e.safetensors").name == "age"
    imagine = ["imagine", "--text", TEXT, "--count", "3", "--steps", "1", "--out", "sheet.png"]
    code, found, err = run([*imagine, "--latents", "w.npy", "--json"])
    assert code == 0 and found["faces"] == 3, err
    assert np.load("w.npy").shape == (3, 8, 8)
    apply = ["apply", "--source", "w.npy#1", "--essence", "e.safetensors", "--out", "o.png"]
    code, found, err = run([*apply, "--strength", "auto", "--json"])
    assert code == 0 and 0 <= found["strength"] <= 2, err


@pytest.mark.parametrize("choice", ["--method map", "--start mapper"])
def test_without_a_mapper_the_work_does_not_begin(run, choice):
    """Not even on sources that are not there."""
    (folders.WEIGHTS / "mini" / "mapper.safetensors").unlink()
    words = f"extract --text old --sources none.png --out e.safetensors {choice}"
    code, _, err = run(words.split())
    assert code == 2 and "no mapper" in err


MISTAKES = [
    ("extract --out e.safetensors", "--target.*--text"),
    ("extract --text old --target t.png --out e.safetensors", "not allowed"),
    ("extract --target t.png --from man --out e.safetensors", "--from belongs to --text"),
    ("extract --text old --preset released --out e.safetensors", "picture as its target"),
    ("imagine --text old --count 0 --out s.png", "at least 1"),
    ("imagine --text old --out s.txt", "--out takes"),
    ("apply --source w.npy --essence e.safetensors --strength car --out o.png", "strength"),
]


@pytest.mark.parametrize("words, told", MISTAKES)
def test_mistakes_are_one_line(run, words, told):
    code, out, err = run(words.split())
    assert code == 2 and not out
    assert re.search(told, err) and err.strip().count("\n") == 0


def test_an_empty_text_is_told(run):
    code, _, err = run(["imagine", "--text", " ", "--out", "s.png"])
    assert code == 2 and "empty" in err


# ---- the bundled set


@pytest.mark.skipif(
    not (folders.WEIGHTS / "mini" / "mapper.safetensors").is_file(),
    reason="the bundled set has no mapper",
)
def test_the_bundled_mapper_makes_essences_and_faces():
    studio = Studio("mini", "cpu")
    assert studio.unknown_words("a pirate") == ["pirate"] and "beard" in studio.phrases
    target = studio.text_target("a smiling woman with red lips")
    sources = [studio.random_source(seed) for seed in range(4)]
    essence = last(studio.extract(target, sources, PRESETS["instant"])).result
    before, after = studio.cosines(target, sources, essence)
    assert after > before + 0.1
    faces = last(studio.imagine(target, ImagineOptions(count=2, steps=3))).result
    pictures = np.stack([np.asarray(face.inversion) for face in faces])
    others = np.stack([np.asarray(studio.random_source(n).inversion) for n in range(4)])
    assert min(studio.similarity(target, pictures)) > np.mean(studio.similarity(target, others))
