"""Parity with the public implementations: recorded outputs of networks in the public file
formats.
"""

import dataclasses
import json
import math
import re
from pathlib import Path

import pytest
import torch
from PIL import Image

from essence.cli import main as cli
from essence.errors import BadFile
from essence.library import checkpoints
from essence.methods import PRESETS
from essence.methods.released import released
from essence.models import latents
from essence.models.clip import ImageText
from essence.models.e4e import Encoder4Editing, EncoderConfig
from essence.models.identity import face_descriptor
from essence.models.model_set import ModelSet
from essence.models.stylegan2 import Generator, GeneratorConfig
from essence.pictures.loading import load_image
from essence.pictures.tensors import to_tensor
from essence.values import Essence

from . import fakes, nvidia_pickle

GOLDEN = Path(__file__).parent / "golden"
SHAPES = json.loads((GOLDEN / "state_dict_shapes.json").read_text())


def recorded(name):
    return torch.load(GOLDEN / f"{name}.pt", weights_only=True)


@torch.no_grad()
def test_generator_gives_the_recorded_pictures():
    io, generator = (
        recorded("stylegan2_narrow_32_io"),
        checkpoints.load_generator(GOLDEN / "stylegan2_narrow_32.pt"),
    )
    torch.testing.assert_close(generator.mapping(io["z"]), io["w"], atol=1e-5, rtol=0)
    torch.testing.assert_close(
        generator.synthesis(io["w_plus"]), io["image_from_w_plus"], atol=1e-4, rtol=0
    )
    torch.testing.assert_close(
        generator(io["z"], io["truncation"]), io["image_from_z_truncated"], atol=1e-4, rtol=0
    )


@torch.no_grad()
def test_e4e_gives_the_recorded_codes_and_its_decoder_the_picture():
    io, path = recorded("e4e_narrow_io"), GOLDEN / "e4e_narrow.pt"
    inverter, generator = checkpoints.load_inverter(path), checkpoints.load_generator(path)
    x = io["x"].float()
    torch.testing.assert_close(inverter.encoder(x), io["raw_codes"], atol=1e-4, rtol=0)
    torch.testing.assert_close(inverter(x), io["w_plus"], atol=1e-4, rtol=0)
    torch.testing.assert_close(generator.synthesis(inverter(x)), io["image"], atol=1e-4, rtol=0)


def test_released_preset_follows_the_recorded_optimiser():
    trace, clip = recorded("optimizer_trace"), recorded("clip_narrow")
    generator = checkpoints.load_generator(GOLDEN / "stylegan2_narrow_32.pt")
    models = ModelSet(
        "narrow",
        "narrow",
        generator,
        None,
        ImageText.from_config(clip["config"], clip["state_dict"]),
        face_descriptor(),
    )
    options = dataclasses.replace(PRESETS["released"], steps=len(trace["steps"]))
    target = to_tensor(load_image(GOLDEN / "target.png"))
    start = Essence(trace["initial_direction"])
    sources, aim = fakes.sources(models, trace["sources"]), fakes.target(models, target)
    steps = released(models, aim, sources, options, start)
    for step, expected in zip(steps, trace["steps"][:5], strict=False):
        ours = [step.losses[name] for name in ("total", "transfer", "consistency")]
        assert ours == pytest.approx(
            [expected["loss"], expected["transfer"], expected["consistency"]], abs=1e-3
        ), step.index


@pytest.mark.parametrize("name", ["stylegan2_ffhq_1024", "stylegan2_church_256"])
def test_public_generators_are_recognised_by_their_shapes(name):
    state = {key: torch.empty(shape, device="meta") for key, shape in SHAPES[name].items()}
    with torch.device("meta"):
        generator = Generator(GeneratorConfig.infer(state))
    assert {key: list(value.shape) for key, value in generator.state_dict().items()} == SHAPES[name]


@pytest.mark.parametrize("name", ["e4e_encoder_1024", "e4e_encoder_256"])
def test_public_encoders_are_recognised_by_their_shapes(name):
    state = {key: torch.empty(shape, device="meta") for key, shape in SHAPES[name].items()}
    config = EncoderConfig.infer(state)
    assert config.input_size == 256
    with torch.device("meta"):
        encoder = Encoder4Editing(config)
    assert {key: list(value.shape) for key, value in encoder.state_dict().items()} == SHAPES[name]


def test_another_networks_tensors_are_refused_by_name(tmp_path):
    checkpoint = recorded("stylegan2_narrow_32")
    checkpoint["g_ema"]["convs.1.conv.weight"] = torch.zeros(1, 2, 2, 3, 3)
    torch.save(checkpoint, tmp_path / "wrong.pt")
    with pytest.raises(BadFile, match=r"convs\.1\.conv\.weight"):
        checkpoints.load_generator(tmp_path / "wrong.pt")


@torch.no_grad()
@pytest.mark.parametrize("half, tolerance", [(False, 0), (True, 2e-2)])
def test_our_own_files_give_the_same_pictures(tmp_path, half, tolerance):
    generator, inverter = (
        checkpoints.load_generator(GOLDEN / "e4e_narrow.pt"),
        checkpoints.load_inverter(GOLDEN / "e4e_narrow.pt"),
    )
    checkpoints.save_generator(generator, tmp_path / "g.safetensors", half)
    checkpoints.save_inverter(inverter, tmp_path / "i.safetensors", half)
    x = torch.rand(1, 3, 256, 256, generator=torch.Generator().manual_seed(0)) * 2 - 1
    again = checkpoints.load_generator(tmp_path / "g.safetensors").synthesis(
        checkpoints.load_inverter(tmp_path / "i.safetensors")(x)
    )
    torch.testing.assert_close(again, generator.synthesis(inverter(x)), atol=tolerance, rtol=0)


def one_number(key, shape):
    """One random number fills the tensor, so that the file is small."""
    return torch.randn(1).expand(shape) if shape else torch.tensor(1)


def ordinary(key, shape):
    """Random weights as a generator's training begins with: those of the mapping network lie a
    hundred times higher in the file, or all z would give one w.
    """
    return torch.randn(shape) * (100 if re.fullmatch(r"style\.\d+\.weight", key) else 1)


def calm(key, shape):
    """As above, for an encoder that is to be run: no layer's answer exceeds what it is given."""
    if not shape:
        return torch.tensor(1)
    if "running_var" in key:
        return torch.ones(shape)
    return (torch.rand(1) / math.prod(shape[1:])).expand(shape)


def full_size(name, path, number=one_number, **more):
    """A checkpoint with the public names and shapes."""
    taps = torch.tensor([1.0, 3.0, 3.0, 1.0])
    fill = {key: number(key, shape) for key, shape in SHAPES[name].items()}
    state = {
        key: torch.outer(taps, taps) / 16 if key.endswith(".kernel") else value
        for key, value in fill.items()
    }
    torch.save(
        more
        | (
            {"g_ema": state}
            if "stylegan" in name
            else {"state_dict": {f"encoder.{k}": v for k, v in state.items()}}
        ),
        path,
    )


@pytest.mark.parametrize(
    "name, size, layers", [("stylegan2_ffhq_1024", 1024, 18), ("stylegan2_church_256", 256, 14)]
)
def test_full_size_generators_load_from_a_file(tmp_path, name, size, layers):
    full_size(name, tmp_path / "g.pt", latent_avg=torch.zeros(512))
    config = checkpoints.load_generator(tmp_path / "g.pt").config
    assert (config.size, config.layers, config.style_dim, config.n_mlp) == (size, layers, 512, 8)


@pytest.mark.slow
@pytest.mark.parametrize("name, layers", [("e4e_encoder_1024", 18), ("e4e_encoder_256", 14)])
def test_full_size_encoders_load_from_a_file(tmp_path, name, layers):
    full_size(name, tmp_path / "e.pt", latent_avg=torch.zeros(layers, 512))
    assert checkpoints.holds_inverter(tmp_path / "e.pt")
    inverter = checkpoints.load_inverter(tmp_path / "e.pt")
    assert inverter.latent_avg.shape == (layers, 512) and inverter.input_size == 256


@pytest.mark.slow
@pytest.mark.parametrize(
    "aligned, generator, encoder, layers",
    [
        ("face", "stylegan2_ffhq_1024", "e4e_encoder_1024", 18),
        ("square", "stylegan2_church_256", "e4e_encoder_256", 14),
    ],
)
def test_full_size_sets_run_end_to_end(
    tmp_path, monkeypatch, capsys, aligned, generator, encoder, layers
):
    """From files in the public format, random weights, on the command line: invert, refine, learn,
    apply.
    """
    monkeypatch.setattr(latents, "SAMPLES", 2000)
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    full_size(generator, tmp_path / "g.pt", ordinary, latent_avg=torch.zeros(512))
    full_size(encoder, tmp_path / "e.pt", calm, latent_avg=torch.zeros(layers, 512))
    parts = 'generator = {file = "g.pt"}\ninverter = {file = "e.pt"}\n'
    (tmp_path / "model.toml").write_text(f'aligned = "{aligned}"\n{parts}')
    Image.effect_mandelbrot((300, 260), (-2, -1.5, 1, 1.5), 40).convert("RGB").save("a.png")
    common = [
        "--model",
        str(tmp_path),
        "--refine",
        "1",
        "--json",
        *(["--aligned"] if aligned == "face" else []),
    ]
    assert (
        cli.main(
            [
                "extract",
                "--target",
                "a.png",
                "--sources",
                "a.png",
                "--steps",
                "2",
                "--out",
                "e.safetensors",
                *common,
            ]
        )
        == 0
    )
    assert json.loads(capsys.readouterr().out)["steps"] == 2
    apply = ["apply", "--source", "a.png", "--essence", "e.safetensors", "--out", "o.png"]
    for look in ("photograph", "model"):
        assert cli.main([*apply, "--look", look, *common]) == 0
        assert json.loads(capsys.readouterr().out)["look"] == look
    assert Image.open("o.png").size == (2 ** (layers // 2 + 1),) * 2


@torch.no_grad()
@pytest.mark.parametrize("half, tolerance", [(False, 1e-4), (True, 2e-2)])
def test_convert_keeps_the_recorded_numbers(tmp_path, half, tolerance):
    io, words = (
        recorded("e4e_narrow_io"),
        ["convert", str(GOLDEN / "e4e_narrow.pt"), str(tmp_path / "g.safetensors")],
    )
    assert cli.main([*words, *(["--half"] if half else [])]) == 0
    generator = checkpoints.load_generator(tmp_path / "g.safetensors")
    inverter = checkpoints.load_inverter(tmp_path / "g-inverter.safetensors")
    torch.testing.assert_close(inverter(io["x"].float()), io["w_plus"], atol=tolerance, rtol=0)
    torch.testing.assert_close(
        generator.synthesis(io["w_plus"]), io["image"], atol=tolerance, rtol=0
    )


@torch.no_grad()
def test_convert_reads_a_pickle(tmp_path):
    io, generator = (
        recorded("stylegan2_narrow_32_io"),
        checkpoints.load_generator(GOLDEN / "stylegan2_narrow_32.pt"),
    )
    nvidia_pickle.write(generator, tmp_path / "g.pkl")
    assert cli.main(["convert", str(tmp_path / "g.pkl"), str(tmp_path / "g.safetensors")]) == 0
    again = checkpoints.load_generator(tmp_path / "g.safetensors")
    torch.testing.assert_close(
        again.synthesis(io["w_plus"]), io["image_from_w_plus"], atol=1e-4, rtol=0
    )
    torch.testing.assert_close(
        again(io["z"], io["truncation"]), io["image_from_z_truncated"], atol=1e-4, rtol=0
    )
