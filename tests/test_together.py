"""Several targets learned at once are those learned one by one."""

import dataclasses
import importlib

import pytest
import torch

from essence import EssenceMismatch, OptimizeOptions
from essence.methods.optimize import optimize, optimize_together, targets_at_once
from essence.runtime import memory

from . import fakes

optimize_module = importlib.import_module("essence.methods.optimize")
QUICK = OptimizeOptions(steps=8)


@pytest.fixture
def sources():
    w = torch.randn(2, 8, 8, generator=torch.Generator().manual_seed(2))
    return fakes.sources(fakes.model_set(), w)


@pytest.fixture
def targets():
    models = fakes.model_set()
    with torch.no_grad():
        w = 2 * torch.randn(3, 8, 8, generator=torch.Generator().manual_seed(3))
        pictures = models.images(w)
    return [fakes.target(models, each[None], f"target {i}") for i, each in enumerate(pictures)]


OPTIONS = [{}, {"space": "w+", "coefficients": True}, {"loss_resolution": 16}]


@pytest.mark.parametrize("change", OPTIONS)
def test_together_is_one_by_one(sources, targets, change):
    models, options = fakes.model_set(), dataclasses.replace(QUICK, **change)
    together = list(optimize_together(models, targets, sources, options))
    assert [len(steps) for steps in together] == [3] * 8
    for t, target in enumerate(targets):
        alone = list(optimize(models, target, sources, options))
        ours = [steps[t] for steps in together]
        for a, b in zip(ours, alone, strict=True):
            # Rounding, which random networks amplify from step to step.
            assert a.losses == pytest.approx(b.losses, abs=1e-3)
            assert (a.preview is None) == (b.preview is None)
        assert ours[-1].result.name == target.name
        assert ours[-1].result.provenance.keys() == alone[-1].result.provenance.keys()
        torch.testing.assert_close(
            ours[0].result.delta, alone[0].result.delta, atol=1e-5, rtol=1e-4
        )
        first, expected = ours[0].preview.astype(int), alone[0].preview.astype(int)
        assert first.shape == expected.shape and abs(first - expected).max() <= 1


@pytest.mark.parametrize("batch", [1, 4])
def test_parts_give_the_same(sources, targets, monkeypatch, batch):
    models = fakes.model_set()
    whole = list(optimize_together(models, targets, sources, QUICK))
    monkeypatch.setattr(optimize_module, "batch_for", lambda *_: batch)
    for a, b in zip(optimize_together(models, targets, sources, QUICK), whole, strict=True):
        for ours, expected in zip(a, b, strict=True):
            # Rounding, which random networks amplify from step to step.
            tolerance = 1e-5 if ours.index == 1 else 1e-2
            assert ours.losses == pytest.approx(expected.losses, abs=tolerance)


def test_sources_are_encoded_once(sources, targets, monkeypatch):
    models, rendered = dataclasses.replace(fakes.model_set()), []
    synthesis = models.generator.synthesis
    monkeypatch.setattr(
        models.generator, "synthesis", lambda w, r=None: rendered.append(len(w)) or synthesis(w, r)
    )
    next(optimize_together(models, targets, sources, QUICK))
    assert rendered == [2, 6]  # the sources, and the step


def test_each_may_continue_from_its_own_start(sources, targets):
    models = fakes.model_set()
    first = [step.result for step in list(optimize_together(models, targets, sources, QUICK))[-1]]
    starts = [first[0], None, first[2]]
    again = next(optimize_together(models, targets, sources, QUICK, starts))
    assert [s.result.provenance["continues"] for s in again] == ["target 0", None, "target 2"]
    assert again[0].losses["transfer"] == pytest.approx(
        first[0].provenance["losses"]["transfer"], abs=1e-4
    )
    with pytest.raises(EssenceMismatch):
        wrong = dataclasses.replace(first[0], delta=torch.zeros(4, 8))
        next(optimize_together(models, targets, sources, QUICK, [wrong, None, None]))


def test_as_many_targets_as_the_memory_holds(monkeypatch):
    models = fakes.model_set()
    for free, expected in ((None, 5), (1 << 40, 5), (1, 1), (900 << 20, 3)):
        monkeypatch.setattr(memory, "free_memory", lambda _, free=free: free)
        assert targets_at_once(models, 5, 2) == expected
