"""The benchmarks run, and what they compare computes the same."""

import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F

from benchmarks import __main__ as benchmarks
from benchmarks import cases, compiled, learning, precision, rival, start
from benchmarks.networks import FFHQ, random_models, save_models
from essence import ops
from essence.library.loading import load_model_set
from essence.pictures.tensors import resample
from essence.runtime import memory

TINY = ["--size", "32", "--sources", "2", "--repeats", "1", "--tiny"]
TINY += ["--device", "cpu", "--clock", "processor"]


def test_rival_renders_the_same_picture():
    models = random_models(32, torch.device("cpu"), half=False, tiny=True)
    w = cases.random_latents(models, 3)
    for convolution in (models.generator.convs[0].conv, models.generator.convs[1].conv):
        convolution.modulation.weight.data *= 3  # styles that differ from picture to picture
    with torch.no_grad():
        torch.testing.assert_close(
            rival.synthesis(models.generator, w),
            models.generator.synthesis(w),
            atol=1e-4,
            rtol=1e-4,
        )


def test_rivals_enlarging_and_pooling_is_our_box_filter():
    x = torch.randn(1, 3, 32, 32)
    large = x.repeat_interleave(rival.ENLARGE, 2).repeat_interleave(rival.ENLARGE, 3)
    torch.testing.assert_close(
        F.avg_pool2d(large, 32 * rival.ENLARGE // 16), resample(x, 16, "box"), atol=1e-5, rtol=1e-5
    )


def test_rival_learns_and_wastes_as_it_should():
    models = random_models(32, torch.device("cpu"), half=False, tiny=True)
    work = rival.Rival(
        models.generator,
        models.clip.model.visual,
        models.clip.size,
        cases.random_latents(models, 2),
        torch.randn(1, 16),
    )
    losses = [work.step() for _ in range(12)]
    assert min(losses) < losses[0]
    # Gradients of weights that nobody wants.
    assert models.generator.convs[0].conv.weight.grad is not None
    assert not torch.equal(work.c, torch.ones_like(work.c))


def test_table_has_every_case_and_says_what_was_not_measured(capsys):
    benchmarks.main([*TINY, "--only", "steps", "--only", "render"])
    said = capsys.readouterr().out
    lines = said.strip().splitlines()
    assert "threads" in lines[0] and lines[1].startswith(
        "| case | device | ours | rival | ratio | target |"
    )
    precision = "bf16" if ops.bfloat16_pays("cpu") else "fp32"
    assert (
        "step, 32, 2 sources, exact, fp32" in said
        and f"loss at 16, {precision}" in said
        and "render, 32" in said
    )
    assert (
        all("not measured" in text for text in lines if "| cuda |" in text)
        and said.count("| cuda |") == 4
    )
    assert all(
        float(text.split("|")[5].strip(" x")) > 0 for text in lines if text.startswith("| step, 32")
    )


def test_rival_too_large_for_the_memory_is_left_out(monkeypatch, capsys):
    monkeypatch.setattr(memory, "free_memory", lambda device: 1000)
    benchmarks.main([*TINY, "--only", "steps"])
    assert "not measured: does not fit the memory" in capsys.readouterr().out


@pytest.mark.parametrize("sources, gigabytes", [(1, (3, 6)), (4, (12, 24))])
def test_rivals_need_at_1024_is_known_before_it_starts(sources, gigabytes):
    class Shape:
        class config:
            size, channels = 1024, FFHQ

    assert gigabytes[0] < rival.step_memory(sources, Shape) / 2**30 < gigabytes[1]


def test_half_precision_is_compared_part_by_part(capsys):
    precision.main(["--device", "cpu", "--tiny", "--size", "32", "--steps", "2", "--pictures", "2"])
    said = capsys.readouterr().out
    parts = (
        "random, 32: picture that is shown |",
        "bundled: CLIP |",
        "bundled: encoder |",
        "2 steps, half |",
    )
    assert all(part in said for part in parts) and "nan" not in said


def test_comparisons_know_what_is_the_same():
    x = torch.rand(2, 3, 8, 8)
    assert precision.levels(x, x)[1] == 0
    assert precision.levels(x, x + 2 / 255)[1] == pytest.approx(1, abs=1e-3)
    assert precision.cosines(x.flatten(1), 2 * x.flatten(1))[1] == pytest.approx(1)


def test_random_models_are_a_model_set_on_disk(tmp_path):
    made = random_models(32, torch.device("cpu"), half=False, tiny=True)
    save_models(made, tmp_path)
    models = load_model_set(str(tmp_path), half=False)
    assert models.size == 32 and models.has_faces and models.clip.size == made.clip.size


def test_what_the_compiler_gets_is_a_loss_that_can_be_learned():
    models = random_models(32, torch.device("cpu"), half=False, tiny=True)
    w = cases.random_latents(models, 2)
    loss = compiled.plain_loss(models, w, torch.nn.functional.normalize(torch.randn(1, 16)), 16)
    b, c = torch.zeros_like(w[0]).requires_grad_(), torch.ones(2, 1, 1, requires_grad=True)
    assert torch.isfinite(loss(b, c)) and torch.autograd.grad(loss(b, c), b)[0].abs().max() > 0


def test_a_compiler_that_takes_too_long_is_given_up(monkeypatch):
    def sleeping(setting, side):
        code = "import time; print('so far', flush=True); time.sleep(60)"
        return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)

    monkeypatch.setattr(compiled, "start", sleeping)
    monkeypatch.setattr(compiled, "LIMIT", 0.2)
    rows = list(compiled.compiled_rows(cases.Setting(size=32, tiny=True)))
    assert len(rows) == 2 and all("not measured: ended after" in row.rival for row in rows)


def test_stages_of_the_start_are_told(capsys):
    start.stages()
    said = capsys.readouterr().out
    assert all(stage in said for stage in ("import torch", "generator", "clip", "first picture"))


def test_frames_with_pictures_are_counted():
    frame = 'data: {"msg": "process_generating", "html": "%s"}'
    raw = 'data: {"msg": "estimation"}' + frame % "data:image/webp" + frame % ""
    assert learning.told(raw).startswith("2 frames, 1 of them with pictures")
