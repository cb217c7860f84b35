import dataclasses
import gc
import math

import pytest
import torch
import torch.nn.functional as F

from essence import Essence, EssenceMismatch, OptimizeOptions, UserError, losses
from essence.methods.optimize import PRESETS, optimize, schedule

from . import fakes

QUICK = OptimizeOptions(steps=12)


@pytest.fixture
def sources():
    return torch.randn(3, 8, 8, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def target():
    with torch.no_grad():
        return fakes.model_set().images(2 * torch.randn(1, 8, 8, generator=torch.Generator().manual_seed(2)))


def learn(sources, target, options=QUICK, models=None, **more):
    return list(optimize(models or fakes.model_set(), sources, target, options, **more))


def test_losses_are_the_papers():
    e, t = torch.randn(4, 6), torch.randn(6)
    assert losses.transfer(t.expand(4, -1), t) == pytest.approx(0, abs=1e-6)
    assert losses.transfer(-t.expand(4, -1), t) == pytest.approx(2, abs=1e-6)
    assert losses.consistency(torch.stack([t, 2 * t])) == pytest.approx(0, abs=1e-6)
    d = F.normalize(e, dim=-1)
    pairs = [1 - (d[i] @ d[j]).item() for i in range(4) for j in range(i)]
    assert losses.consistency(e).item() == pytest.approx(sum(pairs) / 6, abs=1e-6)
    assert losses.consistency(e[:1]) == 0


def test_schedule_rises_stays_and_falls():
    assert schedule(0) == 0 and schedule(1) == pytest.approx(0)
    assert all(schedule(t) == pytest.approx(1) for t in (0.005, 0.1, 0.25))
    falling = [schedule(0.25 + 0.75 * i / 20) for i in range(21)]
    assert falling == sorted(falling, reverse=True)


@pytest.mark.parametrize("space", ["axes", "w+"])
def test_the_loss_falls_and_the_best_is_kept(sources, target, space):
    steps = learn(sources, target, dataclasses.replace(QUICK, space=space))
    totals = [step.losses["total"] for step in steps]
    assert min(totals) < totals[0] - 0.01
    best = steps[-1].result.provenance
    assert best["losses"]["total"] == min(totals)
    assert totals[best["step"] - 1] == min(totals)
    assert [step.index for step in steps] == list(range(1, 13))


@pytest.mark.parametrize("space", ["axes", "w+"])
def test_what_is_kept_is_what_was_measured(sources, target, space):
    """Rendering the kept essence gives the transfer loss that it was chosen for."""
    models, essence = fakes.model_set(), learn(sources, target, dataclasses.replace(QUICK, space=space))[-1].result
    with torch.no_grad():
        again = losses.transfer(models.encode(models.images(essence.apply(sources, 1.0))), models.encode(target))
    assert again.item() == pytest.approx(essence.provenance["losses"]["transfer"], abs=1e-5)


def test_same_seed_same_essence_and_nothing_global_moves(sources, target):
    state = torch.random.get_rng_state()
    options = dataclasses.replace(QUICK, space="w+", start="random", seed=5)
    one, two = (learn(sources, target, options)[-1].result.delta for _ in range(2))
    other = learn(sources, target, dataclasses.replace(options, seed=6))[-1].result.delta
    assert torch.equal(one, two) and not torch.equal(one, other)
    assert torch.equal(state, torch.random.get_rng_state())


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("with_axes", [True, False])
def test_every_preset_runs_on_one_source_and_without_consistency(sources, target, preset, with_axes):
    options = dataclasses.replace(PRESETS[preset], steps=3, lambda_consistency=0, penalty=0.0)  # random networks gain little
    steps = learn(sources[:1], target, options, fakes.model_set(with_axes))
    assert all(math.isfinite(step.losses["total"]) for step in steps)
    assert steps[-1].result.delta.abs().max() > 0


@pytest.mark.parametrize("space", ["axes", "w+"])
def test_continuing_starts_where_the_essence_was(sources, target, space):
    options = dataclasses.replace(QUICK, space=space)
    first = learn(sources, target, options)[-1].result
    more = learn(sources, target, options, start=first)
    assert more[0].losses["transfer"] == pytest.approx(first.provenance["losses"]["transfer"], abs=1e-4)
    assert more[-1].result.provenance["continues"] == first.name


def test_a_start_outside_the_axes_is_not_bent_into_them(sources, target):
    models = fakes.model_set()
    flat = dataclasses.replace(models, latents=dataclasses.replace(models.latents, axes=models.latents.axes[:2]))
    start = Essence(torch.randn(8, 8))
    first = next(optimize(flat, sources, target, QUICK, start))
    torch.testing.assert_close(first.result.delta, start.delta, atol=1e-5, rtol=1e-4)


def test_previews_come_at_their_steps(sources, target):
    steps = learn(sources, target, dataclasses.replace(QUICK, preview_every=5))
    assert [step.index for step in steps if step.preview is not None] == [1, 6, 11, 12]
    assert steps[0].preview.shape == (3, 32, 32, 3) and steps[0].preview.dtype.name == "uint8"


def test_networks_stay_frozen_and_closing_frees_the_graph(sources, target):
    models = fakes.model_set()
    steps = optimize(models, sources, target, QUICK)
    next(steps), next(steps)
    assert torch.is_grad_enabled()
    steps.close()
    gc.collect()
    assert all(p.grad is None for net in (models.generator, models.clip, models.inverter) for p in net.parameters())
    assert not [t for t in gc.get_objects() if isinstance(t, torch.Tensor) and t.grad_fn is not None]


@pytest.mark.parametrize("wrong", [{"steps": 0}, {"lambda_consistency": -1}, {"space": "z"}, {"start": "?"}, {"learning_rate": math.nan}])
def test_impossible_options_are_named(wrong):
    with pytest.raises(UserError, match=next(iter(wrong))):
        OptimizeOptions(**wrong)


def test_impossible_sources_are_named(target):
    with pytest.raises(UserError, match="at least one source"):
        learn(torch.empty(0, 8, 8), target)
    with pytest.raises(EssenceMismatch, match=r"\[18, 512\].*\[8, 8\]"):
        learn(torch.zeros(1, 18, 512), target)
    with pytest.raises(UserError, match="no latent statistics"):
        learn(torch.zeros(1, 8, 8), target, OptimizeOptions(space="axes"), fakes.model_set(False))
