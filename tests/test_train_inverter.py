"""The inverter's recipe, on drawn faces and a random generator small enough for seconds."""

from __future__ import annotations

import csv
import dataclasses

import pytest
import torch
from PIL import Image, ImageDraw

from essence.errors import UserError
from essence.library.checkpoints import (
    load_generator,
    load_inverter,
    save_generator,
    save_inverter,
)
from essence.library.safe_files import write_safetensors
from essence.models.stylegan2 import Generator, GeneratorConfig
from essence.train import augment, common, inverter
from essence.train.inverter_data import InverterOptions
from essence.train.inverter_encoder import FastPReLU

SIDE, DIM = 32, 16


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """100 drawn faces, twenty of them called photographs, a random generator and its latents."""
    root = tmp_path_factory.mktemp("training")
    (root / "faces").mkdir()
    for i in range(100):
        image = Image.new("RGB", (40, 40), (40 + 2 * i, 90, 200 - i))
        ImageDraw.Draw(image).ellipse((8, 4 + i % 4, 32, 36), fill=(220, 180 - i, 150))
        image.save(root / "faces" / f"{'congress' if i < 20 else 'made'}_{i:02d}.png")
    torch.manual_seed(0)
    generator = Generator(GeneratorConfig(SIDE, DIM, 1, {4: 8, 8: 8, 16: 8, 32: 8}))
    save_generator(generator, root / "generator.safetensors", half=False)
    write_safetensors(
        root / "latents.safetensors", {"mean": torch.zeros(DIM), "covariance": torch.eye(DIM)}, {}
    )
    return root


def options(folder, out, **changes) -> InverterOptions:
    base = InverterOptions(
        data=str(folder / "faces"),
        out=str(out),
        generator=str(folder / "generator.safetensors"),
        latents=str(folder / "latents.safetensors"),
        input_size=SIDE,
        fold=1,
        passes=2,
        widths=(4, 6, 8, 10),
        depths=(1, 1, 1, 1),
        head_width=8,
        steps=6,
        minutes=1e6,
        batch=4,
        generated=2,
        bank=8,
        warmup=2,
        rate=5e-3,
        threads=1,
        half=False,
    )
    return dataclasses.replace(base, **changes)


def rows(out) -> list[dict[str, str]]:
    with (out / "log.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def stop_after(monkeypatch, steps: int) -> None:
    """Break the run off as a power cut would, with a checkpoint at every step."""
    train_step = inverter.Trainer.train_step

    def step_or_stop(self, *args):
        if self.step == steps:
            raise KeyboardInterrupt
        return train_step(self, *args)

    monkeypatch.setattr(inverter.Trainer, "train_step", step_or_stop)


def test_interrupted_run_resumes_to_the_same_weights(folder, tmp_path, monkeypatch):
    whole = inverter.train(options(folder, tmp_path / "whole"))
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        stop_after(patch, 3)
        inverter.train(options(folder, tmp_path / "broken", checkpoint_seconds=0))
    resumed = inverter.train(options(folder, tmp_path / "broken"))
    assert [row["step"] for row in rows(tmp_path / "broken")] == ["1", "2", "3", "4", "5", "6"]
    for name, value in whole.state_dict().items():
        torch.testing.assert_close(resumed.state_dict()[name], value, rtol=1e-4, atol=1e-5)


def test_the_loss_falls_and_the_file_loads(folder, tmp_path):
    target = tmp_path / "inverter.safetensors"
    trained = inverter.train(
        options(
            folder,
            tmp_path,
            steps=24,
            batch=8,
            generated=7,
            layer_weight=100.0,
            rate=2e-2,
            export=str(target),
        )
    )
    losses = [float(row["layers"]) for row in rows(tmp_path)]
    assert sum(losses[-6:]) < 0.9 * sum(losses[:6])
    loaded, x = load_inverter(target), torch.rand(2, 3, SIDE, SIDE) * 2 - 1
    assert loaded.encoder.config.input_size == SIDE and loaded.passes == 2
    generator = load_generator(folder / "generator.safetensors")
    found, wanted = (each(x, generator.synthesis) for each in (loaded, trained))
    torch.testing.assert_close(found, wanted, rtol=0.02, atol=0.02)


def test_a_batch_holds_pictures_before_each_pass(folder, tmp_path):
    trainer = inverter.Trainer(options(folder, tmp_path, passes=3, batch=6))
    torch.nn.init.normal_(trainer.average.styles[0].linear.weight)
    x = torch.rand(6, 3, SIDE, SIDE) * 2 - 1
    w, images = trainer.earlier_passes(x)
    # Inversions of so many passes say the same.
    for passes, part in enumerate((slice(0, 2), slice(2, 4), slice(4, 6))):
        so_far = trainer.inverter()
        so_far.passes = passes
        expected = so_far(x[part], trainer.pictures)
        torch.testing.assert_close(w[part], expected, rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(images[part], trainer.pictures(w[part]), rtol=1e-3, atol=1e-3)


def test_passes_that_do_not_divide_a_batch_are_refused(folder, tmp_path):
    with pytest.raises(UserError, match="multiple of --passes"):
        options(folder, tmp_path, passes=3, batch=4)


def test_a_start_of_another_input_keeps_its_body(folder, tmp_path):
    trained = inverter.train(options(folder, tmp_path / "a", steps=2))
    save_inverter(trained, tmp_path / "start.safetensors", half=False)
    start = str(tmp_path / "start.safetensors")
    changed = options(folder, tmp_path / "b", input_size=2 * SIDE, fold=2, start=start)
    begun = inverter.Trainer(changed).encoder
    assert begun.input_layer[0].weight.shape[1] == 24
    for name, weight in trained.encoder.body.state_dict().items():
        torch.testing.assert_close(begun.body.state_dict()[name], weight)


def test_another_architecture_is_refused_and_the_checkpoint_kept(folder, tmp_path):
    inverter.train(options(folder, tmp_path, steps=1, half=True))
    before = (tmp_path / "checkpoint.pt").read_bytes()
    with pytest.raises(UserError, match="widths"):
        inverter.train(options(folder, tmp_path, steps=2, widths=(4, 6, 8, 12)))
    assert (tmp_path / "checkpoint.pt").read_bytes() == before


def test_a_broken_checkpoint_is_named(folder, tmp_path):
    (tmp_path / "checkpoint.pt").write_bytes(b"PK not a checkpoint")
    with pytest.raises(UserError, match="checkpoint.pt"):
        inverter.train(options(folder, tmp_path))


def test_a_full_disk_keeps_the_previous_checkpoint(tmp_path, monkeypatch):
    path = tmp_path / "checkpoint.pt"
    common.save_atomic({"step": 1}, path)

    def full(state, target):
        target.write_bytes(b"half a file")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(common.torch, "save", full)
    with pytest.raises(UserError, match="No space left"):
        common.save_atomic({"step": 2}, path)
    assert torch.load(path, weights_only=True) == {"step": 1}
    assert [file.name for file in tmp_path.iterdir()] == ["checkpoint.pt"]


@pytest.mark.parametrize("make", [False, True])
def test_a_folder_without_pictures_is_refused(folder, tmp_path, make):
    if make:
        (tmp_path / "data").mkdir()
    with pytest.raises(UserError, match="training pictures"):
        inverter.train(options(folder, tmp_path / "out", data=str(tmp_path / "data")))


def test_listed_names_are_held_out_whatever_else_is_there():
    listed = common.HELD_OUT.read_text().split()
    assert len(listed) == len(set(listed)) > 100
    names = [f"{listed[0]}.jpg", f"{listed[5]}.webp", "congress_new.jpg", "somebody.png"]
    assert common.held_out(names) == set(names[:2])


def test_held_out_follows_the_names_alone():
    names = [f"congress_{i:03d}.jpg" for i in range(400)] + [f"made_{i}.jpg" for i in range(2000)]
    held = common.held_out(names)
    assert held == common.held_out(names[::-1])
    assert {name for name in held if name.startswith("congress")} == set(names[:40])
    assert len(held) == 140
    few = names[398:402]
    assert len(common.held_out(few)) < len(few)


def test_augmentation_keeps_range_shape_and_seed():
    x = torch.rand(6, 3, 32, 32, generator=torch.Generator().manual_seed(1)) * 2 - 1
    first, second, other = (
        augment.degrade(augment.light(x, rng)[0], rng)
        for rng in map(torch.Generator().manual_seed, (3, 3, 4))
    )
    assert first.shape == x.shape and first.abs().max() <= 1
    assert torch.equal(first, second) and not torch.equal(first, other)
    lit, changed = augment.light(x, torch.Generator().manual_seed(5))
    assert 0 < changed.sum() < len(x)
    assert torch.equal(lit[~changed], x[~changed]) and not torch.equal(lit[changed], x[changed])


def test_fast_prelu_is_prelu():
    slow, fast = torch.nn.PReLU(3), FastPReLU(3)
    x, grads = torch.randn(2, 3, 4, 4), []
    for module in (slow, fast):
        y = x.clone().requires_grad_()
        out = module(y)
        (out * torch.arange(out.numel()).view_as(out)).sum().backward()
        grads.append((out, y.grad, module.weight.grad))
    for a, b in zip(*grads, strict=True):
        torch.testing.assert_close(a, b)


def test_a_sheet_is_drawn_on_the_way(folder, tmp_path):
    inverter.train(options(folder, tmp_path, steps=1, sheet_seconds=-1.0))
    with Image.open(tmp_path / "sheet-000001.png") as sheet:
        # Held-out pictures, the encoder's inversions of them, and those refined.
        assert sheet.height >= 3 * SIDE and sheet.width > sheet.height
