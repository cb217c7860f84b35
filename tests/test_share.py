"""The target's own share of an essence, added to what is learned or known at once."""

import dataclasses

import pytest
import torch

from essence import Essence, OptimizeOptions, UserError
from essence.methods import METHODS
from essence.methods.base import initial_direction, latent_of_target
from essence.methods.encode import EncodeOptions, encoded_direction
from essence.methods.map import MapOptions, mapped_essence
from essence.methods.optimize import optimize
from essence.methods.own_share import TAUGHT_SHARE, own_shift
from essence.methods.words import text_target
from essence.models.clip import TAUGHT
from essence.models.e4e import Encoder4Editing, Inverter
from essence.models.model_set import ModelSet
from essence.pictures.tensors import resample, to_tensor
from essence.studio import last

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


def test_an_inverter_that_compares_looks_once(models, target, monkeypatch):
    before = models.inverter
    config = dataclasses.replace(before.encoder.config, channels=6)
    inverter = Inverter(Encoder4Editing(config), before.latent_avg, passes=3).eval()
    models = dataclasses.replace(models, inverter=inverter)
    once, thrice = (latent_of_target(models, target, passes) for passes in (1, None))
    assert not torch.equal(once, thrice)
    # The mean face, which it sees first, is drawn once for all.
    images, drawn = ModelSet.images, []
    monkeypatch.setattr(ModelSet, "images", lambda m, w: drawn.append(w) or images(m, w))
    side = inverter.input_size
    x = resample(to_tensor(target.picture), side, "antialias")
    with torch.no_grad():
        slowly = inverter(x, lambda w: resample(images(models, w), side, "antialias"))
    torch.testing.assert_close(latent_of_target(models, target), slowly[0])
    assert len(drawn) == 2
    wanted = 0.4 * (once - models.generator.latent_avg).mean(0)
    torch.testing.assert_close(own_shift(models, target, 0.4), wanted.expand_as(once))


def test_previews_show_the_whole_essence(models, target, sources):
    options = dataclasses.replace(SHARED, steps=1, axes_learning_rate=0.0, layer_learning_rate=0.0)
    step = last(optimize(models, target, sources, options))
    w = torch.stack([source.w for source in sources])
    edited = step.result.apply(w, 1.0, models.id, models.latents)
    assert (step.preview == models.render(edited)).mean() > 0.99
    assert (step.preview != models.render(w)).any()


def test_an_essence_continued_does_not_get_it_twice(models, target, sources, tmp_path):
    begun = last(optimize(models, target, sources, SHARED)).result
    begun.save(tmp_path / "begun.essence.safetensors")
    still = dataclasses.replace(SHARED, steps=1, axes_learning_rate=0.0, layer_learning_rate=0.0)
    for start in (begun, Essence.load(tmp_path / "begun.essence.safetensors")):
        same = last(optimize(models, target, sources, still, start)).result
        torch.testing.assert_close(same.delta, begun.delta)
    without = dataclasses.replace(begun, provenance={})  # of an earlier version
    more = last(optimize(models, target, sources, still, without)).result
    torch.testing.assert_close(more.delta, begun.delta + own(models, target))


def test_only_our_own_image_text_encoder_is_helped(models, taught, target):
    assert own_shift(models, target, None) is None
    found = own_shift(taught, target, None)
    torch.testing.assert_close(found, own(models, target, TAUGHT_SHARE))
    assert own_shift(taught, text_target(models, "a dark picture"), 0.4) is None


@pytest.mark.parametrize("options", [OptimizeOptions, EncodeOptions, MapOptions])
def test_no_share_below_zero(options):
    with pytest.raises(UserError, match="target_share"):
        options(target_share=-0.1)


def test_instant_essences_have_it_too(models, taught, target):
    for method, found in (("encode", encoded_direction), ("map", mapped_essence)):
        plain = last(METHODS[method].learn(models, target, (), METHODS[method].options))
        assert torch.equal(plain.result.delta, found(models, target))
        shared = last(METHODS[method].learn(taught, target, (), METHODS[method].options))
        wanted = found(models, target) + own(models, target, TAUGHT_SHARE)
        torch.testing.assert_close(shared.result.delta, wanted)


def test_words_have_no_latent_to_share(taught):
    words = text_target(taught, "a dark picture")
    options = dataclasses.replace(METHODS["map"].options, target_share=0.5)
    found = last(METHODS["map"].learn(taught, words, (), options)).result
    torch.testing.assert_close(found.delta, mapped_essence(taught, words))
