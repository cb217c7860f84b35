"""The target's own share of an essence: added to what is learned, and taught to the encoder."""

import dataclasses

import pytest
import torch
from PIL import Image, ImageDraw

from essence import Essence, OptimizeOptions, UserError
from essence.library import checkpoints
from essence.methods.base import initial_direction
from essence.methods.directions import TAUGHT_SHARE, own_shift
from essence.methods.optimize import optimize
from essence.methods.strength import OF_WORDS, StrengthOptions, auto_strength
from essence.methods.words import text_target
from essence.models.clip import TAUGHT
from essence.studio import last
from essence.train import share as recipe
from essence.train.share import ShareOptions, Teachers

from . import fakes

PLAIN = OptimizeOptions(steps=4, target_share=0.0)
SHARED = dataclasses.replace(PLAIN, target_share=0.4)


@pytest.fixture
def models():
    return dataclasses.replace(fakes.model_set())


@pytest.fixture
def taught(models):
    """With an image-text encoder that says that our recipe made it."""
    clip = models.clip
    named = type(clip).__new__(type(clip))
    named.__dict__.update(clip.__dict__)
    named.name = TAUGHT
    return dataclasses.replace(models, clip=named)


@pytest.fixture
def target(models):
    w = 2 * torch.randn(1, 8, 8, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        return fakes.target(models, models.images(w))


@pytest.fixture
def sources(models):
    return fakes.sources(models, torch.randn(3, 8, 8, generator=torch.Generator().manual_seed(2)))


def own(models, target, share=0.4):
    centred = initial_direction(models, target, "centred", 0)
    return share * centred.mean(0).expand_as(centred)


def test_it_is_added_to_what_would_be_learned_without_it(models, target, sources):
    plain = list(optimize(models, target, sources, PLAIN))
    shared = list(optimize(models, target, sources, SHARED))
    for before, after in zip(plain, shared, strict=True):
        assert before.losses == after.losses
        wanted = before.result.delta + own(models, target)
        torch.testing.assert_close(after.result.delta, wanted)


def test_previews_show_the_whole_essence(models, target, sources):
    options = dataclasses.replace(SHARED, steps=1, axes_learning_rate=0.0, layer_learning_rate=0.0)
    step = last(optimize(models, target, sources, options))
    w = torch.stack([source.w for source in sources])
    edited = step.result.apply(w, 1.0, models.id, models.latents)
    assert (step.preview == models.render(edited)).mean() > 0.99
    assert (step.preview != models.render(w)).any()


def test_an_essence_continued_does_not_get_it_twice(models, target, sources):
    begun = last(optimize(models, target, sources, SHARED)).result
    still = dataclasses.replace(SHARED, steps=1, axes_learning_rate=0.0, layer_learning_rate=0.0)
    same = last(optimize(models, target, sources, still, begun)).result
    torch.testing.assert_close(same.delta, begun.delta)
    instant = dataclasses.replace(begun, method="encode")
    more = last(optimize(models, target, sources, still, instant)).result
    torch.testing.assert_close(more.delta, begun.delta + own(models, target))


def test_only_our_own_image_text_encoder_is_helped(models, taught, target):
    default = OptimizeOptions()
    assert own_shift(models, target, default) is None
    found = own_shift(taught, target, default)
    torch.testing.assert_close(found, own(models, target, TAUGHT_SHARE))
    assert own_shift(taught, text_target(models, "a dark picture"), default) is None


def test_no_share_below_zero():
    with pytest.raises(UserError, match="target_share"):
        OptimizeOptions(target_share=-0.1)


def test_words_are_taken_less_far_than_pictures(models, sources):
    """With a direction that only gets more like its target, the distance alone decides."""
    essence = Essence(0.2 * torch.ones(8, 8), "grey", models.id)
    words = dataclasses.replace(essence, text="grey")
    source = sources[0]
    for kind, options in ((essence, StrengthOptions()), (words, OF_WORDS)):
        wanted = auto_strength(models, source, kind, None, options)
        assert auto_strength(models, source, kind, None) == wanted
    assert OF_WORDS.distance < StrengthOptions().distance


# ---- the recipe


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = fakes.files(tmp_path_factory.mktemp("share") / "set")
    (root / "faces").mkdir()
    for i in range(12):
        image = Image.new("RGB", (40, 40), (40 + 15 * i, 90, 200 - 15 * i))
        ImageDraw.Draw(image).ellipse((8, 4 + i % 4, 32, 36), fill=(220, 200 - 9 * i, 150))
        image.save(root / "faces" / f"made_{i:02d}.png")
    return root


def options(folder, out, **changes):
    files = {
        "start": str(folder / "essence.safetensors"),
        "inverter": str(folder / "inverter.safetensors"),
    }
    return ShareOptions(str(folder / "faces"), str(out), device="cpu", **files | changes)


def test_the_teachers_say_the_essence_and_the_share(folder):
    essence = checkpoints.load_essence_encoder(folder / "essence.safetensors")
    inverter = checkpoints.load_inverter(folder / "inverter.safetensors")
    side = essence.input_size
    pictures = torch.rand(2, 3, side, side) * 2 - 1
    assert torch.equal(Teachers(essence, inverter, 0.0)(pictures), essence(pictures))
    own = Teachers(essence, inverter, 0.5)(pictures) - essence(pictures)
    shift = (inverter(pictures) - inverter.latent_avg).mean(1, keepdim=True)
    torch.testing.assert_close(own, (0.5 * shift).expand_as(own))


def test_the_encoder_learns_to_say_both(folder, tmp_path):
    out = tmp_path / "run"
    path = recipe.train(options(folder, out, steps=60, batch=4, rate=3e-3, average=0.5, share=1.0))
    rows = [line.split(",") for line in (out / "log.csv").read_text().splitlines()]
    assert rows[0] == list(recipe.COLUMNS)
    held = [float(row[2]) for row in rows[1:]]
    assert held[-1] < 0.7 * held[0]
    before = checkpoints.load_essence_encoder(folder / "essence.safetensors")
    after = checkpoints.load_essence_encoder(path)
    assert (after.generator, after.clip) == (before.generator, before.clip)


def test_mistakes_of_the_recipe_are_told(folder, tmp_path):
    with pytest.raises(UserError, match="--batch"):
        options(folder, tmp_path, batch=1)
