"""Several starts at once and the best of them; and inversion by CLIP, a start of another kind."""

import dataclasses

import numpy as np
import pytest
import torch

from essence import METHODS, Essence, OptimizeOptions, RefineOptions, UserError
from essence.cli import main as cli
from essence.methods.map import mapped_essence
from essence.methods.optimize import optimize
from essence.methods.starts import STRENGTHS, ranking, several_starts, strength_curve
from essence.methods.words import text_target
from essence.pictures.tensors import to_pil
from essence.studio import last

from . import fakes

QUICK = OptimizeOptions(steps=3, loss_resolution=0)
learn = METHODS["optimize"].learn


@pytest.fixture
def models():
    return dataclasses.replace(fakes.model_set())


@pytest.fixture
def target(models):
    picture = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(4)) * 2 - 1
    return fakes.target(models, picture)


@pytest.fixture
def sources(models):
    w = torch.randn(2, 8, 8, generator=torch.Generator().manual_seed(1))
    return fakes.sources(models, w)


def test_one_start_is_the_plain_optimiser(models, target, sources):
    one = [step.losses for step in learn(models, target, sources, QUICK)]
    assert one == [step.losses for step in optimize(models, target, sources, QUICK)]


def test_the_kept_one_is_most_like_the_target_at_equal_distance(models, target, sources):
    *_, step = learn(models, target, sources, dataclasses.replace(QUICK, starts=4))
    known = step.result.provenance
    assert [each["start"] for each in known["starts"]] == [
        "encoder",
        "zero",
        "random 0",
        "random 1",
    ]
    best = max(known["starts"], key=lambda each: each["similarity"])
    assert known["continues"] == best["start"]
    assert (step.index, step.total, step.result.name) == (3, 3, target.name)
    assert len(step.choices) == 4 and step.choices[0] is step.result
    similarity = {each["start"]: each["similarity"] for each in known["starts"]}
    ranked = [similarity[choice.provenance["continues"]] for choice in step.choices]
    assert ranked == sorted(ranked, reverse=True)


def test_until_the_end_it_is_the_one_with_the_lowest_loss(models, target, sources):
    options = dataclasses.replace(QUICK, starts=3)
    steps = learn(models, target, sources, options)
    found = next(steps).result.provenance["losses"]["total"]
    each = [
        next(optimize(models, target, sources, options, start)).losses["total"]
        for start in several_starts(models, target, options)
    ]
    steps.close()
    assert found == pytest.approx(min(each), abs=1e-4)


def test_of_one_essence_at_two_lengths_neither_is_better(models, target, sources):
    """The measure looks at what is gained on the way, not at how far one goes."""
    delta = 0.5 * torch.randn(8, 8, generator=torch.Generator().manual_seed(3))
    far, near = curve = strength_curve(models, target, sources, Essence(delta))
    assert [len(part) for part in curve] == [len(STRENGTHS)] * 2 and far[0] == 0
    assert (np.diff(far) >= 0).all() and np.abs(near).max() <= 1 + 1e-6
    both = [
        dataclasses.replace(Essence(scale * delta), provenance={"continues": str(scale)})
        for scale in (1.0, 0.7)
    ]
    compared = ranking(models, target, sources, both)[0].provenance["starts"]
    similarities = [each["similarity"] for each in compared]
    assert similarities[0] == pytest.approx(similarities[1], abs=0.02)


def test_the_instant_start_is_what_the_models_have(models, target):
    options = dataclasses.replace(QUICK, starts=2)
    text = text_target(models, "an old man")
    (first, _) = several_starts(models, text, options)
    wanted = mapped_essence(models, text)
    assert first.name == "mapper"
    torch.testing.assert_close(first.delta, wanted)
    bare = dataclasses.replace(models, extras={})
    assert [each.name for each in several_starts(bare, target, options)] == ["zero", "random 0"]
    mine = Essence(torch.ones(8, 8), "mine")
    assert several_starts(models, target, options, mine)[0].name == "mine"


def test_starts_are_for_the_optimiser(tmp_path, capsys):
    words = [
        "extract",
        "--text",
        "a man",
        "--out",
        str(tmp_path / "e.safetensors"),
        "--starts",
        "2",
    ]
    assert cli.main([*words, "--method", "map"]) == 2
    assert "'map' has no --starts" in capsys.readouterr().err
    with pytest.raises(UserError, match="starts must be at least 1"):
        OptimizeOptions(starts=0)


# ---- inversion by CLIP


def test_the_clip_inversion_is_the_mapped_embedding(models):
    studio = fakes.studio()
    rng = torch.Generator().manual_seed(0)
    crop = to_pil(torch.rand(1, 3, 32, 32, generator=rng) * 2 - 1)[0]
    found = {
        kind: last(studio.invert([crop], ["a"], RefineOptions(steps=0, inverter=kind))).result[0]
        for kind in ("e4e", "clip")
    }
    embedding = studio.embed_target(crop).embedding
    mapper = models.extras["mapper"]
    wanted = models.generator.latent_avg + mapper(mapper.residual(embedding)[None])
    torch.testing.assert_close(found["clip"].w, wanted, atol=1e-5, rtol=1e-4)
    assert not torch.equal(found["e4e"].w, found["clip"].w)


def test_it_needs_a_mapper_and_a_name_that_is_known(models):
    with pytest.raises(UserError, match="inverter must be one of e4e, clip"):
        RefineOptions(inverter="dlib")
    studio = fakes.Studio.of(dataclasses.replace(models, extras={}))
    crop = to_pil(torch.zeros(1, 3, 32, 32))[0]
    with pytest.raises(UserError, match="no mapper"):
        last(studio.invert([crop], ["a"], RefineOptions(inverter="clip")))
