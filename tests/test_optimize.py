import copy
import dataclasses
import gc
import importlib
import math
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from essence import Essence, EssenceMismatch, OptimizeOptions, UserError, adjusted
from essence.methods import METHODS, PRESETS, batching, losses, method_of
from essence.methods.descent import schedule
from essence.models.clip import ImageText
from essence.models.stylegan2 import Generator, GeneratorConfig
from essence.runtime import cuda_graphs, memory

from . import fakes

optimize_module = importlib.import_module("essence.methods.optimize")

QUICK = OptimizeOptions(steps=12)
# Presets of methods that learn a direction; tests/test_baselines.py has those that give pictures.
DIRECTIONS = [
    name for method in METHODS.values() if method.result is Essence for name in method.presets
]


@pytest.fixture
def sources():
    return torch.randn(3, 8, 8, generator=torch.Generator().manual_seed(2))


@pytest.fixture
def target():
    with torch.no_grad():
        return fakes.model_set().images(
            2 * torch.randn(1, 8, 8, generator=torch.Generator().manual_seed(2))
        )


def begin(models, sources, target, options=QUICK, start=None):
    """The method that the options belong to, on latents [N, L, D] and a picture."""
    _, method = method_of(options)
    aim, given = fakes.target(models, target), fakes.sources(models, sources)
    return method.learn(models, aim, given, options, start)


def learn(sources, target, options=QUICK, models=None, **more):
    return list(begin(models or fakes.model_set(), sources, target, options, **more))


def test_losses_are_the_papers():
    e, t = torch.randn(4, 6), torch.randn(6)
    assert losses.transfer(t.expand(4, -1), t) == pytest.approx(0, abs=1e-6)
    assert losses.transfer(-t.expand(4, -1), t) == pytest.approx(2, abs=1e-6)
    assert losses.consistency(torch.stack([t, 2 * t])) == pytest.approx(0, abs=1e-6)
    d = F.normalize(e, dim=-1)
    pairs = [1 - (d[i] @ d[j]).item() for i in range(4) for j in range(i)]
    assert losses.consistency(e).item() == pytest.approx(sum(pairs) / 6, abs=1e-6)
    assert losses.consistency(e[:1]) == 0
    other = torch.randn(4, 6)
    both = (losses.consistency(e) + losses.consistency(other)) / 2
    torch.testing.assert_close(losses.consistency(torch.stack([e, other])), both)


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


def test_the_papers_essences_have_no_reach_and_ours_say_theirs(sources, target):
    quick = {name: dataclasses.replace(PRESETS[name], steps=1) for name in DIRECTIONS}
    reaches = {name: learn(sources, target, quick[name])[0].result.reach for name in quick}
    assert {name for name, reach in reaches.items() if reach is None} == {"paper", "released"}
    assert all(reach == getattr(PRESETS[name], "reach", None) for name, reach in reaches.items())
    assert {reach for reach in reaches.values() if reach is not None} == {3.0, 3.5}
    with pytest.raises(UserError, match="reach"):
        OptimizeOptions(reach=0)


@pytest.mark.parametrize("space", ["axes", "w+"])
def test_what_is_kept_is_what_was_measured(sources, target, space):
    """Rendering the kept essence gives the transfer loss that it was chosen for."""
    models, essence = (
        fakes.model_set(),
        learn(sources, target, dataclasses.replace(QUICK, space=space))[-1].result,
    )
    with torch.no_grad():
        edited = essence.apply(sources, 1.0, axes=models.latents)
        again = losses.transfer(models.encode(models.images(edited)), models.encode(target))
    assert again.item() == pytest.approx(essence.provenance["losses"]["transfer"], abs=1e-5)


def test_same_seed_same_essence_and_nothing_global_moves(sources, target):
    state = torch.random.get_rng_state()
    options = dataclasses.replace(QUICK, space="w+", start="random", seed=5)
    one, two = (learn(sources, target, options)[-1].result.delta for _ in range(2))
    other = learn(sources, target, dataclasses.replace(options, seed=6))[-1].result.delta
    assert torch.equal(one, two) and not torch.equal(one, other)
    assert torch.equal(state, torch.random.get_rng_state())


@pytest.mark.parametrize("preset", DIRECTIONS)
@pytest.mark.parametrize("with_axes", [True, False])
def test_every_preset_runs_on_one_source_and_without_consistency(
    sources, target, preset, with_axes
):
    # Random networks gain little: no penalty, and people may change.
    free = {"lambda_consistency": 0, "lambda_identity": 0, "penalty": 0.0}
    options = adjusted(PRESETS[preset], steps=3, **free)
    steps = learn(sources[:1], target, options, fakes.model_set(with_axes))
    if preset in ("instant", "encode"):
        assert [step.losses for step in steps] == [{}]  # they minimise nothing
    else:
        assert all(math.isfinite(step.losses["total"]) for step in steps)
    assert steps[-1].result.delta.abs().max() > 0


@pytest.mark.parametrize("space", ["axes", "w+"])
def test_continuing_starts_where_the_essence_was(sources, target, space):
    options = dataclasses.replace(QUICK, space=space)
    first = learn(sources, target, options)[-1].result
    more = learn(sources, target, options, start=first)
    assert more[0].losses["transfer"] == pytest.approx(
        first.provenance["losses"]["transfer"], abs=1e-4
    )
    assert more[-1].result.provenance["continues"] == first.name


def test_a_start_outside_the_axes_is_not_bent_into_them(sources, target):
    models = fakes.model_set()
    flat = dataclasses.replace(
        models, latents=dataclasses.replace(models.latents, axes=models.latents.axes[:2])
    )
    start = Essence(torch.randn(8, 8))
    first = next(begin(flat, sources, target, QUICK, start))
    torch.testing.assert_close(first.result.delta, start.delta, atol=1e-5, rtol=1e-4)


def test_previews_come_at_their_steps(sources, target):
    steps = learn(sources, target, dataclasses.replace(QUICK, preview_every=5))
    assert [step.index for step in steps if step.preview is not None] == [1, 6, 11, 12]
    assert steps[0].preview.shape == (3, 32, 32, 3) and steps[0].preview.dtype.name == "uint8"


def test_networks_stay_frozen_and_closing_frees_the_graph(sources, target):
    models = fakes.model_set()
    steps = begin(models, sources, target, QUICK)
    next(steps), next(steps)
    assert torch.is_grad_enabled()
    steps.close()
    gc.collect()
    assert all(
        p.grad is None
        for net in (models.generator, models.clip, models.inverter)
        for p in net.parameters()
    )
    assert not [
        t for t in gc.get_objects() if isinstance(t, torch.Tensor) and t.grad_fn is not None
    ]


@pytest.mark.parametrize(
    "wrong",
    [
        {"steps": 0},
        {"lambda_consistency": -1},
        {"space": "z"},
        {"start": "?"},
        {"learning_rate": math.nan},
    ],
)
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


# -- the loss's resolution


def small_eyed():
    """The fake models with a CLIP that looks at 16 pixels; the generator makes 32."""
    from open_clip.model import CLIP as OpenClip

    config = fakes.CLIP | {"vision_cfg": fakes.CLIP["vision_cfg"] | {"image_size": 16}}
    with torch.random.fork_rng():
        torch.manual_seed(1)
        clip = ImageText.from_config(config, OpenClip(**config).state_dict())
    return dataclasses.replace(fakes.model_set(), clip=clip)


def test_loss_sees_the_early_picture_and_previews_are_full(sources, target):
    models = fakes.model_set()
    step = next(begin(models, sources, target, dataclasses.replace(QUICK, loss_resolution=16)))
    with torch.no_grad():
        expected = losses.transfer(models.encode(models.images(sources, 16)), models.encode(target))
    assert step.losses["transfer"] == pytest.approx(expected.item(), abs=1e-5)
    assert step.preview.shape == (3, 32, 32, 3)
    assert abs(step.preview.astype(int) - models.render(sources).astype(int)).max() <= 1
    assert step.result.provenance["loss_resolution"] == 16
    with pytest.raises(UserError, match=r"loss_resolution.*\[4, 8, 16, 32\], not 24"):
        learn(sources, target, dataclasses.replace(QUICK, loss_resolution=24))


@pytest.mark.parametrize("agreement, side", [(-1.0, 16), (1.01, 32)])
def test_early_picture_is_taken_only_where_clip_sees_the_same(
    sources, target, monkeypatch, agreement, side
):
    monkeypatch.setattr(batching, "CLOSE_ENOUGH", agreement)
    step = next(begin(small_eyed(), sources, target, QUICK))
    assert step.result.provenance["loss_resolution"] == side
    for options in (PRESETS["paper"], PRESETS["released"]):
        step = next(begin(small_eyed(), sources, target, dataclasses.replace(options, steps=1)))
        assert step.result.provenance["loss_resolution"] == 32


def test_sources_are_rendered_once_for_all_runs(sources, target, monkeypatch):
    models, rendered = dataclasses.replace(fakes.model_set()), []
    synthesis = models.generator.synthesis
    monkeypatch.setattr(
        models.generator, "synthesis", lambda w, r=None: rendered.append(len(w)) or synthesis(w, r)
    )
    one = dataclasses.replace(QUICK, steps=1, lambda_identity=0)
    first = learn(sources, target, one, models)[0]
    assert rendered == [3, 3]  # the sources, and the step
    again = learn(sources.clone(), target, one, models)[0]
    assert rendered == [3, 3, 3] and again.losses == first.losses
    learn(-sources, target, one, models)
    assert rendered == [3, 3, 3, 3, 3]


def test_with_identity_sources_are_rendered_once_in_a_run_and_nothing_of_them_is_kept(
    sources, target, monkeypatch
):
    models, rendered = dataclasses.replace(fakes.model_set()), []
    synthesis = models.generator.synthesis
    monkeypatch.setattr(
        models.generator, "synthesis", lambda w, r=None: rendered.append(len(w)) or synthesis(w, r)
    )
    first = learn(sources, target, models=models)
    assert rendered == [3] * (1 + len(first)) and not models._cache
    assert [s.losses for s in learn(sources, target, models=models)] == [s.losses for s in first]


def test_identity_holds_people_closer_to_themselves(sources, target):
    models, face = fakes.model_set(), fakes.model_set().describe

    def moved(weight: float) -> float:
        options = dataclasses.replace(QUICK, lambda_identity=weight, penalty=0.0)
        essence = learn(sources, target, options)[-1].result
        edited = essence.apply(sources, 1.0, models.id, models.latents)
        return (face(models.images(edited)) - face(models.images(sources))).norm(dim=1).mean()

    assert moved(3.0) < moved(0.5) < moved(0.0)


def test_models_without_faces_have_no_identity_to_keep(sources, target):
    bare = dataclasses.replace(fakes.model_set(), identity=None)
    found = [
        [s.losses for s in learn(sources, target, dataclasses.replace(QUICK, **weight), bare)]
        for weight in ({}, {"lambda_identity": 0})
    ]
    assert found[0] == found[1] and all(losses["identity"] == 0 for losses in found[0])


def test_remembered_embeddings_are_the_pictures_own(sources):
    models = dataclasses.replace(fakes.model_set())
    for w, side, batch in (
        (sources[:2], 32, 3),
        (sources, 16, 3),
        (sources, 32, 2),
        (sources, 32, 2),
    ):
        with torch.no_grad():
            expected = models.encode(models.images(w, side))
        torch.testing.assert_close(batching.source_embeddings(models, w, side, batch), expected)


@pytest.mark.parametrize("batch", [3, 2, 1])
def test_an_essence_of_zero_changes_nothing_not_even_by_rounding(sources, batch):
    models = dataclasses.replace(fakes.model_set())
    before = batching.source_embeddings(models, sources, 32, batch)
    edited = sources + torch.zeros(8, 8, requires_grad=True)
    after = batching.render_and_embed(models, edited, 32, batch)[1]
    assert torch.equal(before, after)


def test_rounding_is_no_direction():
    """Differences that are rounding alone, as where a start of zero meets other batches, must not
    drown the rest of the gradient.
    """
    d = (1e-7 * torch.randn(4, 8)).requires_grad_()
    losses.consistency(d).backward()
    assert d.grad.norm() < 1


# -- memory


@pytest.mark.parametrize("batch", [1, 2])
def test_parts_give_the_same_essence(sources, target, monkeypatch, batch):
    whole = learn(sources, target)
    monkeypatch.setattr(optimize_module, "batch_for", lambda *_: batch)
    same_way(learn(sources, target), whole)


def same_way(steps, expected):
    """The same losses but for rounding, which random networks amplify from step to step."""
    assert [s.losses["total"] for s in steps] == pytest.approx(
        [s.losses["total"] for s in expected], abs=1e-3
    )


def short_of_memory(monkeypatch, models, limit):
    """Batches above `limit` run out of memory; returns the sizes that were tried."""
    tried, synthesis = [], models.generator.synthesis

    def render(w, resolution=None):
        tried.append(len(w))
        if len(w) > limit:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.")
        return synthesis(w, resolution)

    monkeypatch.setattr(models.generator, "synthesis", render)
    return tried


def test_out_of_memory_halves_the_batch_and_gives_the_same(sources, target, monkeypatch):
    whole, models = learn(sources, target), dataclasses.replace(fakes.model_set())
    tried = short_of_memory(monkeypatch, models, limit=1)
    steps = learn(sources, target, models=models)
    same_way(steps, whole)
    assert tried[:2] == [3, 2] and set(tried[2:]) == {1}, (
        "it must not try the large batch again at every step"
    )
    assert len(tried) == 2 + 3 + 12 * (
        3 + 3
    )  # the sources; each step's pictures, and again on the way back


def test_one_picture_too_many_is_an_error_for_people(sources, target, monkeypatch):
    models = dataclasses.replace(fakes.model_set())
    short_of_memory(monkeypatch, models, limit=0)
    with pytest.raises(
        UserError,
        match="Not even one picture.*Tried|Not even one picture.*out of memory.*loss_resolution",
    ):
        learn(sources, target, models=models)
    with pytest.raises(UserError, match="Not even one picture"):
        models.render(sources)


def test_rendering_survives_too_little_memory(sources, monkeypatch):
    whole, models = fakes.model_set().render(sources), dataclasses.replace(fakes.model_set())
    short_of_memory(monkeypatch, models, limit=2)
    assert abs(models.render(sources).astype(int) - whole.astype(int)).max() <= 1


def test_the_estimate_covers_what_autograd_keeps(sources, monkeypatch):
    """Feature maps of the way back, counted as autograd stores them, for a generator wide enough
    that they are what counts.

    A processor's kernels keep two at each resolution, plain torch 6.5; the estimate is for both.
    """
    config = GeneratorConfig(
        size=64, style_dim=8, n_mlp=1, channels=dict.fromkeys((4, 8, 16, 32, 64), 32)
    )
    generator, stored = Generator(config).requires_grad_(False), {}
    w = torch.randn(2, config.layers, 8, requires_grad=True)

    def keep(t):
        stored[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes()
        return t

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
        picture = generator.synthesis(w)
    maps = 4 * sum(32 * side**2 for side in config.resolutions)
    assert picture.shape[-1] == 64 and 2 * maps < sum(stored.values()) / 2 < batching.MAPS * maps
    models = dataclasses.replace(fakes.model_set(), generator=generator)
    one = batching.MAPS * maps + batching.CLIP_BYTES
    for pictures, expected in ((0.5, 1), (1, 1), (2.5, 2), (100, 4)):
        monkeypatch.setattr(
            memory, "free_memory", lambda _, n=pictures: int(n * one / batching.SHARE) + 9
        )
        assert batching.batch_for(models, 4, 64) == expected


@pytest.mark.parametrize(
    "device, kernels, half, expected",
    [
        ("cpu", True, False, 2),
        ("cpu", True, True, 4),
        ("cuda", False, False, 2),
        ("cuda", True, False, 4),
    ],
)
def test_four_sources_at_1024_are_planned_for_eight_gigabytes(
    monkeypatch, device, kernels, half, expected
):
    widths = {4: 512, 8: 512, 16: 512, 32: 512, 64: 512, 128: 256, 256: 128, 512: 64, 1024: 32}
    generator = SimpleNamespace(config=GeneratorConfig(1024, 512, 8, widths))
    models = SimpleNamespace(device=torch.device(device), generator=generator, half=half)
    monkeypatch.setattr(memory, "free_memory", lambda _: 8 * 10**9)
    monkeypatch.setattr(batching, "cuda_kernels", lambda: kernels)
    assert batching.batch_for(models, 4, 1024) == expected
    assert batching.batch_for(models, 4, 256) == 4


# -- the recorded step; the recording itself needs a GPU


class Replayed:
    """What a CUDA graph is to its caller: the first run's outputs, overwritten in place by each
    replay, and a state that its warm-up has not moved.
    """

    def __init__(self, function, state):
        before = cuda_graphs.remember(state())
        function()
        cuda_graphs.restore(state(), before)
        self.function, self.values = function, None

    def __call__(self):
        values = {key: value.clone() for key, value in self.function().items()}
        self.values = self.values or values
        for key, old in self.values.items():
            old.copy_(values[key])
        return self.values


@pytest.fixture
def capturing(monkeypatch):
    class RecordedStep(cuda_graphs.RecordedStep):
        def __init__(self, *arguments):
            super().__init__(*arguments[:-1], True)

    monkeypatch.setattr(optimize_module, "RecordedStep", RecordedStep)
    return monkeypatch


@pytest.mark.parametrize("change", [{"space": "axes"}, {"space": "w+", "coefficients": True}])
def test_a_replayed_step_gives_the_same_essence(sources, target, capturing, change):
    options = dataclasses.replace(QUICK, **change)
    with capturing.context() as patch:
        patch.setattr(optimize_module, "RecordedStep", cuda_graphs.RecordedStep)
        launched = learn(sources, target, options)
    capturing.setattr(cuda_graphs, "CapturedGraph", Replayed)
    replayed = learn(sources, target, options)
    assert [s.losses for s in replayed] == [s.losses for s in launched]
    assert torch.equal(replayed[-1].result.delta, launched[-1].result.delta)


def test_what_cannot_be_recorded_is_launched(sources, target, capturing, caplog):
    tried = []

    def refuse(function, state):
        tried.append(1)
        raise RuntimeError("operation not permitted when stream is capturing")

    capturing.setattr(cuda_graphs, "CapturedGraph", refuse)
    steps = learn(sources, target)
    assert len(tried) == 1 and "not permitted" in caplog.text
    assert min(s.losses["total"] for s in steps) < steps[0].losses["total"]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_the_graph_on_a_gpu_gives_the_launched_steps(sources, target, caplog):
    fake = fakes.model_set()
    parts = {
        name: copy.deepcopy(getattr(fake, name)).cuda()
        for name in ("generator", "inverter", "clip")
    }
    models = dataclasses.replace(fake, **parts, latents=fake.latents.to("cuda"))
    options = dataclasses.replace(QUICK, steps=30)
    recorded = learn(sources, target, options, models)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(optimize_module, "WORTH_CAPTURING", 1000)
        launched = learn(sources, target, options, models)
    assert "No CUDA graph" not in caplog.text
    assert recorded[-1].losses["total"] == pytest.approx(launched[-1].losses["total"], abs=1e-3)
