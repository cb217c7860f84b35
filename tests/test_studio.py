import dataclasses
import threading

import numpy as np
import pytest
import torch
from PIL import Image

from essence import Essence, EssenceMismatch, OptimizeOptions, RefineOptions, Studio, UserError
from essence.methods import losses
from essence.methods.refine import chroma, refine
from essence.models.model_set import ModelSet
from essence.studio import last

from . import fakes

PICTURE = Image.effect_mandelbrot((64, 64), (-2, -1.5, 1, 1.5), 40).convert("RGB")


@pytest.fixture
def studio():
    return fakes.studio()


def test_refinement_comes_closer_and_starts_from_the_inverter(studio):
    steps = list(fakes.invert(studio, PICTURE, "p", RefineOptions(steps=8)))
    assert [step.index for step in steps] == list(range(1, 10)) and {
        step.total for step in steps
    } == {9}
    assert steps[-1].losses["total"] < steps[1].losses["total"]
    alone = last(fakes.invert(studio, PICTURE, "p", RefineOptions(steps=0))).result
    assert torch.equal(alone.w, steps[0].result.w)
    assert not torch.equal(alone.w, steps[-1].result.w)


def test_refinement_starts_with_as_much_of_the_deltas_as_the_models_want(studio):
    """In the first step nothing has moved yet: its result is where refinement begins."""
    found = next(fakes.invert(studio, PICTURE, "p", RefineOptions(steps=0))).result
    apart = found.w - found.w.mean(0)
    assert apart.abs().max() > 0
    for share in (1.0, 0.25, 0.0):
        models = dataclasses.replace(fakes.model_set(), deltas=share)
        begun = next(refine(models, [found], RefineOptions(steps=1))).result[0]
        assert torch.allclose(begun.w - begun.w.mean(0), share * apart, atol=1e-5)
        assert torch.allclose(begun.w.mean(0), found.w.mean(0), atol=1e-5)


def crops(count: int) -> list[Image.Image]:
    return [PICTURE.rotate(90 * i) for i in range(count)]


def test_together_each_is_found_as_alone(studio):
    """The batch changes the time and the rounding."""
    options = RefineOptions(steps=3)
    steps = list(studio.invert(crops(3), ["a", "b", "c"], options))
    assert [(step.index, step.total) for step in steps] == [(i, 4) for i in range(1, 5)]
    assert [source.name for source in steps[-1].result] == ["a", "b", "c"] and steps[
        -1
    ].preview.shape == (3, 32, 32, 3)
    for crop, source in zip(crops(3), steps[-1].result, strict=True):
        alone = last(fakes.invert(fakes.studio(), crop, "alone", options)).result
        torch.testing.assert_close(source.w, alone.w, atol=2e-3, rtol=0)
        assert source.crop.tobytes() == crop.tobytes()


def test_sources_are_named_after_their_files(studio, tmp_path):
    PICTURE.save(tmp_path / "ann.png")
    ann, other = studio.sources(
        [tmp_path / "ann.png", PICTURE], aligned=True, refine=RefineOptions(steps=1)
    )
    assert (ann.name, other.name) == ("ann", "source") and torch.equal(ann.w, other.w)
    assert studio.sources([]) == []


def test_more_than_fit_go_in_parts_and_known_ones_are_not_done_again(studio, monkeypatch):
    options, parts = RefineOptions(steps=2), []
    alone = last(fakes.invert(studio, PICTURE, "known", options)).result
    monkeypatch.setattr(ModelSet, "render_batch", 2)

    def counted(models, sources, options):
        parts.append([source.name for source in sources])
        return refine(models, sources, options)

    monkeypatch.setattr("essence.methods.invert.refine", counted)
    steps = list(studio.invert(crops(4), list("abcd"), options))
    assert parts == [["b", "c"], ["d"]] and [(s.index, s.total) for s in steps] == [
        (i, 5) for i in range(1, 6)
    ]
    assert torch.equal(steps[0].result[0].w, alone.w) and torch.equal(
        steps[-1].result[0].w, alone.w
    )
    assert all(len(step.result) == 4 for step in steps)
    (again,) = studio.invert(crops(4), list("abcd"), options)
    assert all(torch.equal(x.w, y.w) for x, y in zip(again.result, steps[-1].result, strict=True))


def test_chroma_sees_the_colour_of_the_mouth_and_nothing_else():
    weight = losses.care(64, 8.0)
    wrong = torch.zeros(1, 3, 64, 64)
    wrong[:, :2, 44:50, 28:36] = 0.3  # yellowish teeth
    brighter, elsewhere = torch.full_like(wrong, 0.3), wrong.roll((30, 20), (2, 3))
    seen, light, other = (chroma(x, weight) for x in (wrong, brighter, elsewhere))
    assert seen > 20 * other and light < 1e-6


def test_refinement_works_without_statistics():
    steps = list(fakes.invert(fakes.studio(False), PICTURE, "p", RefineOptions(steps=6)))
    assert steps[-1].losses["total"] < steps[1].losses["total"]


def test_random_sources_repeat_by_seed(studio):
    a, b, c = studio.random_source(1), studio.random_source(1), studio.random_source(2)
    assert torch.equal(a.w, b.w) and not torch.equal(a.w, c.w)
    assert np.array_equal(np.asarray(a.inversion), np.asarray(b.inversion))


def test_latents_go_in_as_they_came_out(studio):
    source = studio.random_source(1)
    again = studio.from_latents(source.w[None], "again")
    assert np.array_equal(np.asarray(again.inversion), np.asarray(source.inversion))
    with pytest.raises(EssenceMismatch, match=r"\[18, 512\]"):
        studio.from_latents(torch.zeros(18, 512))


def test_blend_is_row_by_row_what_apply_gives(studio):
    sources = [studio.random_source(i) for i in range(3)]
    essences = [Essence(torch.randn(8, 8), model=studio.models.id) for _ in range(2)]
    cells = studio.blend(sources, essences, [0.5, -1])
    assert cells.shape == (2, 3, 32, 32, 3)
    one = studio.models.render(essences[1].apply(sources[2].w, -1)[None])[0]
    assert (
        np.abs(cells[1, 2].astype(int) - one).max() <= 1
    )  # a batch rounds otherwise than one picture


def test_strength_zero_is_the_source(studio):
    source = studio.random_source(4)
    cell = studio.blend([source], [Essence(torch.randn(8, 8))], [0])[0, 0]
    assert np.array_equal(cell, np.asarray(source.inversion))


def test_more_pictures_than_one_batch_are_the_same_pictures(studio):
    w = torch.randn(37, 8, 8)
    whole = studio.models.render(w)
    assert whole.shape == (37, 32, 32, 3)
    assert np.abs(whole[36].astype(int) - studio.models.render(w[36:])[0]).max() <= 1


def test_grid_has_a_margin_of_originals(studio):
    sources = [studio.random_source(i) for i in range(2)]
    essences = [Essence(torch.zeros(8, 8), thumbnail=PICTURE) for _ in range(3)]
    grid = studio.grid(sources, essences, [1, 1, 1])
    assert grid.height > grid.width  # 4 rows with the margin, 3 columns


def test_nothing_to_learn_on_is_said(studio):
    with pytest.raises(UserError, match="at least one source"):
        list(studio.extract(studio.embed_target(PICTURE), []))
    assert studio.blend([studio.random_source(0)], [], []).shape[0] == 0


def test_two_sessions_take_turns_and_do_not_mix(studio):
    """Two learnings at once on one studio give what each gives alone."""
    jobs = [
        (
            studio.embed_target(studio.random_source(i).inversion),
            [studio.random_source(10 + i)],
        )
        for i in range(2)
    ]
    options = OptimizeOptions(steps=6)
    alone = [last(studio.extract(*job, options)).result.delta for job in jobs]
    together = [None, None]

    def work(i):
        together[i] = last(studio.extract(*jobs[i], options)).result.delta

    threads = [threading.Thread(target=work, args=(i,)) for i in range(2)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    for a, b in zip(alone, together, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)


def test_a_stopped_learning_lets_the_next_one_in(studio):
    source = studio.random_source(0)
    steps = studio.extract(studio.embed_target(PICTURE), [source])
    next(steps)
    steps.close()
    assert not studio.queue.busy
    assert (
        last(studio.extract(studio.embed_target(PICTURE), [source], OptimizeOptions(steps=1))).index
        == 1
    )


def test_cosines_rise_with_learning(studio):
    sources = [studio.random_source(i) for i in range(2)]
    essence = last(
        studio.extract(
            studio.embed_target(PICTURE), sources, OptimizeOptions(steps=15, lambda_consistency=0)
        )
    ).result
    before, after = studio.cosines(studio.embed_target(PICTURE), sources, essence)
    assert after > before


def test_an_unknown_model_lists_the_known():
    with pytest.raises(UserError, match="mini"):
        _ = Studio("nope", "cpu").models


def test_a_missing_file_says_where_it_comes_from():
    with pytest.raises(UserError, match=r"e4e_ffhq_encode\.pt"):
        _ = Studio("ffhq", "cpu").models
