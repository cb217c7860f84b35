"""The generator's recipe on drawn faces, and its parts."""

from __future__ import annotations

import csv
import dataclasses
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from essence.errors import BadFile, UserError
from essence.library.checkpoints import load_generator, load_latents
from essence.library.safe_files import write_safetensors
from essence.methods import losses
from essence.models.stylegan2 import Generator, GeneratorConfig
from essence.runtime import cuda_graphs
from essence.train import (
    augment,
    common,
    discriminators,
    gaussian,
    generator,
    generator_data,
    generator_state,
    generator_step,
    recording,
)
from essence.train.autoencoder import (
    PictureEncoder,
    PictureEncoderConfig,
    load_encoder,
    save_encoder,
)
from essence.train.generator import GeneratorOptions

from . import fakes

SIDE, DIM = 32, 16


@pytest.fixture(scope="module")
def faces(tmp_path_factory):
    """100 drawn faces in 100 colours."""
    folder = tmp_path_factory.mktemp("faces")
    for i in range(100):
        image = Image.new("RGB", (SIDE, SIDE), (2 * i, 90, 200 - i))
        ImageDraw.Draw(image).ellipse((6, 4 + i % 4, 26, 28), fill=(220, 180 - i, 150))
        image.save(folder / f"{'congress' if i < 20 else 'made'}_{i:03d}.png")
    return folder


def options(faces, out, **changes) -> GeneratorOptions:
    base = GeneratorOptions(
        data=str(faces),
        out=str(out),
        size=SIDE,
        style_dim=DIM,
        n_mlp=2,
        channels=(16, 16, 8, 8),
        steps=4,
        minutes=1e6,
        batch=4,
        sampled=2,
        warmup=1,
        critics_after=1,
        rate=2e-3,
        half=False,
        threads=1,
        device="cpu",
    )
    return dataclasses.replace(base, **changes)


def rows(out) -> list[dict[str, float]]:
    with (out / "log.csv").open(newline="") as file:
        return [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]


@pytest.mark.slow
def test_it_learns_to_give_the_pictures_back(faces, tmp_path):
    generator.train(options(faces, tmp_path, steps=60, critics=0.02, rate=4e-3, last_rate=0.2))
    log = rows(tmp_path)
    first, last = (np.mean([row["pixels"] for row in part]) for part in (log[:10], log[-10:]))
    assert last < 0.75 * first
    made = {path.name for path in tmp_path.iterdir()}
    assert made >= {
        "generator.safetensors",
        "latents.safetensors",
        "encoder.safetensors",
        "sheet-000060.png",
    }


def test_what_it_exports_fits_together(faces, tmp_path):
    """The mapping network gives the latents' Gaussian, and the encoder's latents are the
    generator's.
    """
    generator.train(options(faces, tmp_path, steps=6))
    loaders = {"generator": load_generator, "latents": load_latents, "encoder": load_encoder}
    made, axes, encoder = (load(tmp_path / f"{name}.safetensors") for name, load in loaders.items())
    w = made.mapping(torch.randn(20_000, DIM, generator=torch.Generator().manual_seed(0)))
    spread = (axes.axes.T @ axes.axes).diagonal().clamp(min=1e-6).sqrt()
    assert ((w.mean(0) - axes.mean).abs() / spread).max() < 0.05
    assert torch.allclose(made.latent_avg.mean(0), axes.mean)
    pictures = [np.array(Image.open(path)) for path in sorted(faces.iterdir())[30:]]
    images = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float() / 127.5 - 1
    found = encoder(images)[:, 0]
    assert ((found.mean(0) - axes.mean).abs() / (spread + 0.01)).max() < 1.5


def test_an_interrupted_run_resumes_to_the_same_weights(faces, tmp_path, monkeypatch):
    generator.train(options(faces, tmp_path / "whole"))
    run = generator.TrainingStep.run

    def run_or_stop(self):
        if self.state.clock["step"] == 2:
            raise KeyboardInterrupt
        return run(self)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(generator.TrainingStep, "run", run_or_stop)
        generator.train(options(faces, tmp_path / "broken", checkpoint_seconds=0))
    generator.train(options(faces, tmp_path / "broken"))
    whole, resumed = (
        load_generator(tmp_path / name / "generator.safetensors").state_dict()
        for name in ("whole", "broken")
    )
    assert all(torch.allclose(whole[name], resumed[name], atol=1e-5) for name in whole)
    assert [row["step"] for row in rows(tmp_path / "broken")] == [1, 2, 3, 4]
    checkpoint = torch.load(tmp_path / "broken" / "checkpoint.pt", weights_only=True)
    names = {"generator", "encoder", "pixel", "feature", "averages", "latents", "chance"}
    assert set(checkpoint) == names | {"optimizers", "clock", "architecture"}


def test_another_architecture_is_refused_and_the_checkpoint_stays(faces, tmp_path):
    generator.train(options(faces, tmp_path, steps=1))
    before = (tmp_path / "checkpoint.pt").read_bytes()
    with pytest.raises(UserError, match="another architecture"):
        generator.train(options(faces, tmp_path, channels=(16, 16, 8, 4)))
    assert (tmp_path / "checkpoint.pt").read_bytes() == before


def test_discriminators_alone_train_a_plain_stylegan(faces, tmp_path):
    generator.train(options(faces, tmp_path, steps=3, reconstruct=0.0, mixing=1.0))
    begun = generator_state.initial_networks(options(faces, tmp_path))[0]
    torch.manual_seed(0)
    first = generator_state.initial_networks(options(faces, tmp_path))[0]
    trained = load_generator(tmp_path / "generator.safetensors")
    assert isinstance(begun, Generator)
    assert not torch.equal(first.style[1].weight, trained.style[1].weight), (
        "the mapping network is trained where nothing is encoded"
    )


def test_without_the_label_data_all_recipes_but_clip_can_be_imported():
    """An installed package has no essence/train/data."""
    code = (
        "import sys; sys.modules['essence.train.data'] = None;"
        "from essence.train import generator, inverter, mouth_colour;"
        "from essence.evaluate import essences"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# ---- a step


def first_step(faces, out, **changes) -> generator_step.TrainingStep:
    wanted = options(faces, out, **changes)
    state = generator_state.TrainingState(wanted, "cpu")
    return generator_step.TrainingStep(state, generator_data.load_dataset(wanted, out / "tight.pt"))


@pytest.mark.parametrize("reconstruct", [1.0, 0.0])
def test_a_step_waits_for_nothing_and_draws_nothing(faces, tmp_path, monkeypatch, reconstruct):
    """So a GPU records it."""
    step = first_step(faces, tmp_path, reconstruct=reconstruct)
    step.state.latents.update_root()
    drawn = step.draw(1)
    monkeypatch.setattr(torch.optim.Adam, "step", lambda self: None)  # on a CPU it counts itself
    before = torch.get_rng_state()
    with fakes.NoWaiting():
        for penalised in (False, True):
            row = step.learn(penalised, *drawn.tensors())
    assert torch.equal(torch.get_rng_state(), before)
    assert (row["r1"] > 0) and {*row} <= {*generator_step.COLUMNS}


def test_what_is_drawn_comes_back_from_its_tensors(faces, tmp_path):
    step = first_step(faces, tmp_path, batch=4, sampled=2)
    step.state.latents.update_root()
    drawn = step.draw(3)
    again = generator_step.Drawn.of(drawn.tensors())
    assert again.sampled._fields == drawn.sampled._fields
    assert all(a is b for a, b in zip(again.tensors(), drawn.tensors(), strict=True))
    assert again.batch.goal.shape == (4, 3, SIDE, SIDE) and len(again.augmentation.theta) == 6
    repeated = step.draw(3).tensors()
    assert all(torch.equal(a, b) for a, b in zip(repeated, drawn.tensors(), strict=True))


def test_everything_that_a_step_moves_is_named(faces, tmp_path):
    """A capture's warm-up puts it back."""
    step = first_step(faces, tmp_path)
    step.state.latents.update_root()
    state, drawn = step.state, step.draw(0).tensors()
    step.learn(True, *drawn)
    modules = ("generator", "encoder", "pixel", "feature", "latents", "chance")

    def numbers() -> list[torch.Tensor]:
        held = [v for name in modules for v in getattr(state, name).state_dict().values()]
        return [*held, *(v for o in state.optimizers for v in recording.state_of(o))]

    kept = cuda_graphs.remember(state.moved())
    before = [value.clone() for value in numbers()]
    step.learn(True, *drawn)
    assert not all(torch.equal(a, b) for a, b in zip(numbers(), before, strict=True))
    cuda_graphs.restore(state.moved(), kept)
    assert all(torch.equal(a, b) for a, b in zip(numbers(), before, strict=True))


def test_augmentation_follows_the_signs_of_the_scores():
    chance = generator_state.AdaptiveChance()
    begun = chance.p.item()
    for _ in range(200):
        chance.observe(torch.tensor(1.0))
    chance.adapt()
    assert chance.p.item() == pytest.approx(begun + generator_state.P_STEP)
    for _ in range(200):
        chance.observe(torch.tensor(-1.0))
    for _ in range(100):
        chance.adapt()
    assert chance.p.item() == 0


# ---- parts


@pytest.mark.parametrize("pays", [True, False])
def test_half_precision_only_where_the_machine_has_it(monkeypatch, pays):
    monkeypatch.setattr(common, "bfloat16_pays", lambda device: pays)
    for wanted in (True, False):
        with common.precision("cpu", wanted):
            assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == (
                torch.bfloat16 if pays and wanted else torch.float32
            )


def test_a_mapping_network_is_the_gaussian_and_moves_no_picture():
    torch.manual_seed(0)
    made = Generator(GeneratorConfig(16, DIM, 3, {4: 8, 8: 8, 16: 8})).requires_grad_(False)
    mean, mix = torch.randn(DIM), torch.randn(DIM, DIM) / 4
    w = mean + torch.randn(4, DIM) @ mix
    before = made.synthesis(w)
    moved = gaussian.install_gaussian(made, mean, mix.T @ mix)
    assert torch.allclose(made.synthesis(w + moved - mean), before, atol=1e-3)
    sampled = made.mapping(torch.randn(100_000, DIM, generator=torch.Generator().manual_seed(1)))
    assert torch.allclose(sampled.mean(0), moved, atol=0.03)
    # PixelNorm puts z on a sphere, whose covariance is the Gaussian's.
    assert torch.allclose(torch.cov(sampled.T), mix.T @ mix, atol=0.05)


def test_running_moments_are_those_of_all_rows_that_count():
    w = torch.randn(300, 5) @ torch.randn(5, 5) + 3
    running = gaussian.RunningMoments(5, decay=0)
    for part in w.split(70):
        others = torch.randn(30, 5)
        running.add(torch.cat([part, others]), torch.arange(len(part) + 30) < len(part))
    assert torch.allclose(running.mean, w.mean(0), atol=1e-4)
    assert torch.allclose(running.covariance(), torch.cov(w.T, correction=0), atol=1e-3)


def test_the_encoder_comes_back_from_its_file(tmp_path):
    torch.manual_seed(0)
    encoder = PictureEncoder(PictureEncoderConfig((4, 6, 8), 10, 6, DIM)).eval()
    save_encoder(encoder, tmp_path / "encoder.safetensors")
    pictures = torch.randn(2, 3, encoder.config.size, encoder.config.size)
    loaded = load_encoder(tmp_path / "encoder.safetensors")
    assert loaded.config == encoder.config
    assert torch.allclose(loaded(pictures), encoder(pictures), atol=2e-2)
    write_safetensors(tmp_path / "other.safetensors", {"x": torch.zeros(1)}, {})
    with pytest.raises(BadFile, match="no encoder"):
        load_encoder(tmp_path / "other.safetensors")


def test_an_augmentation_is_the_same_for_a_picture_and_its_copy():
    change = augment.AdaptiveAugmentation.draw(6, 0.9, torch.Generator().manual_seed(0))
    pictures = torch.randn(6, 3, SIDE, SIDE)
    assert torch.equal(change(pictures), change(pictures.clone()))
    assert not torch.allclose(change(pictures), pictures, atol=0.1)
    still = augment.AdaptiveAugmentation.draw(6, 0.0, torch.Generator().manual_seed(0))
    assert torch.allclose(still(pictures), pictures, atol=1e-4)


def test_pictures_that_are_all_alike_have_no_deviation():
    one = torch.randn(1, 3, 8, 8)
    alike = discriminators.minibatch_deviation(one.expand(8, -1, -1, -1))
    different = discriminators.minibatch_deviation(torch.randn(8, 3, 8, 8))
    assert alike.max() < 1e-3 < different.min()


def test_r1_is_the_squared_gradient():
    pictures = torch.randn(3, 1, 4, 4, requires_grad=True)
    penalty = discriminators.r1_penalty([(pictures * 2).sum(dim=(1, 2, 3))[:, None]], pictures)
    assert torch.allclose(penalty, torch.tensor(4.0 * 16))


def test_a_crops_edge_counts_nothing_and_its_middle_all():
    own = torch.zeros(1, 1, 128, 128, dtype=torch.uint8)
    own[..., 30:100, 25:105] = 255
    mask = generator_data.feathered(own)
    assert (
        mask[0, 0, 65, 65] == 255 and not mask[..., :32, :].any() and not mask[..., :, 103:].any()
    )
    assert (mask[0, 0, 65].int().diff()[:60] >= 0).all(), "it rises from the edge"


def test_eyes_and_mouth_count_more():
    weight = losses.care(128, 2.0)[0, 0]
    assert weight[61, 64] > 2.9 and weight[94, 64] > 2.9 and weight[5, 5] < 1.01
