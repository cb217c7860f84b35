"""Checkpoints as other people's programs write them: read whatever wraps them, and refused by
name where they cannot be.
"""

import argparse
import dataclasses
import os
import threading
import zipfile
from collections import OrderedDict

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from essence.cli import main as cli
from essence.errors import BadFile
from essence.library import checkpoints
from essence.library.safe_files import file_format, read_torch
from essence.models.e4e import Encoder4Editing
from essence.models.stylegan2 import Generator

from . import fakes, nvidia_pickle


@pytest.fixture(scope="module")
def generator() -> Generator:
    return fakes.model_set().generator


@pytest.fixture(scope="module")
def state(generator) -> dict:
    return dict(generator.state_dict())


def prefixed(state: dict, prefix: str) -> dict:
    return {f"{prefix}{key}": value for key, value in state.items()}


def same(one: nn.Module, other: nn.Module) -> bool:
    ours, theirs = one.state_dict(), other.state_dict()
    return all(torch.equal(ours[key], theirs[key]) for key in ours.keys() | theirs.keys())


def others(state: dict) -> dict:
    """Zeros of the same shapes: whoever reads these has taken the wrong network."""
    return {key: value if key.endswith("kernel") else value * 0 for key, value in state.items()}


def training_file(state: dict) -> dict:
    """As rosinality's train.py writes it, every 10 000 steps."""
    adam = torch.optim.Adam([nn.Parameter(torch.ones(2))])
    args = argparse.Namespace(path="ds", iter=800000, size=32, mixing=0.9, ckpt=None)
    return {
        "g": others(state),
        "d": {"convs.0.0.weight": torch.zeros(4, 3, 1, 1)},
        "g_ema": state,
        "g_optim": adam.state_dict(),
        "d_optim": adam.state_dict(),
        "args": args,
        "ada_aug_p": np.float64(0.25),
    }


def lightning(state: dict, prefix: str) -> dict:
    weights = {f"{prefix}{key}": value for key, value in state.items()}
    weights["discriminator.convs.0.0.weight"] = torch.zeros(4, 3, 1, 1)
    return {
        "epoch": 3,
        "pytorch-lightning_version": "2.4.0",
        "state_dict": weights,
        "hyper_parameters": {"args": argparse.Namespace(size=32)},
        "callbacks": {"ModelCheckpoint": {"best_model_score": torch.tensor(1.0)}},
    }


WRAPPED = {
    "training file": training_file,
    "one table by two names": lambda s: {"g": s, "g_ema": s},
    "g alone": lambda s: {"g": s, "d": {}},
    "bare": lambda s: s,
    "bare, with a mean": lambda s: s | {"latent_avg": torch.ones(8)},
    "module.": lambda s: {"g_ema": prefixed(s, "module.") | {"n_averaged": torch.tensor(5)}},
    "bare module.": lambda s: prefixed(s, "module."),
    "generator.": lambda s: prefixed(s, "generator."),
    "g_ema. beside g.": lambda s: prefixed(others(s), "g.") | prefixed(s, "g_ema."),
    "lightning": lambda s: lightning(s, "generator."),
    "lightning, averaged": lambda s: lightning(
        prefixed(others(s), "net.") | prefixed(s, "ema_net.module."), ""
    ),
    "tables in tables": lambda s: {"models": {"g_ema": s}, "step": 3},
}


@pytest.mark.parametrize("kind", WRAPPED)
def test_a_generator_is_found_in_what_wraps_it(tmp_path, generator, state, kind):
    path = tmp_path / "g.pt"
    torch.save(WRAPPED[kind](state), path)
    assert checkpoints.holds_generator(path) and not checkpoints.holds_inverter(path)
    assert same(checkpoints.load_generator(path), generator)


@pytest.mark.parametrize("prefix", ["", "module.", "g_ema.", "generator."])
def test_a_generator_is_found_in_safetensors(tmp_path, generator, state, prefix):
    save_file({key: v.clone() for key, v in prefixed(state, prefix).items()}, tmp_path / "g.st")
    assert same(checkpoints.load_generator(tmp_path / "g.st"), generator)


def test_the_trained_generator_serves_where_there_is_no_average_and_that_is_said(
    tmp_path, state, caplog
):
    torch.save({"g": state}, tmp_path / "g.pt")
    checkpoints.load_generator(tmp_path / "g.pt")
    assert [record.message for record in caplog.records if "g_ema" in record.message]


@torch.no_grad()
def test_without_stored_noise_it_is_drawn_and_the_same_for_every_load(tmp_path, generator, state):
    bare = {
        key: value
        for key, value in state.items()
        if not key.startswith("noises.") and not key.endswith(".kernel")
    }
    torch.save({"g_ema": bare}, tmp_path / "g.pt")
    one, other = (checkpoints.load_generator(tmp_path / "g.pt") for _ in range(2))
    assert same(one, other) and not same(one, generator)
    assert all(0.2 < noise.std() < 3 for noise in one.noises.buffers())
    assert torch.equal(one.convs[0].conv.blur.kernel, generator.convs[0].conv.blur.kernel)
    z = torch.randn(2, 8)
    assert torch.equal(one.mapping(z), generator.mapping(z))


MEAN = torch.linspace(-1, 1, 8)


@pytest.mark.parametrize("mean", [MEAN.numpy(), MEAN.double().numpy(), MEAN[None], MEAN.half()])
def test_a_mean_latent_in_any_form(tmp_path, state, mean):
    torch.save({"g_ema": state, "latent_avg": mean}, tmp_path / "g.pt")
    found = checkpoints.load_generator(tmp_path / "g.pt").latent_avg
    torch.testing.assert_close(found, MEAN.expand(8, 8), atol=1e-3, rtol=0)


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", ["<f4", ">f4", "<f2", "<i8", "|b1"])
def test_arrays_in_torch_files_keep_their_numbers(tmp_path, dtype, order):
    array = np.asarray(np.arange(12).reshape(3, 4) % 5, dtype, order=order)
    torch.save({"a": [array], "c": np.float32(0.5)}, tmp_path / "a.pt")
    found = read_torch(tmp_path / "a.pt")
    assert np.array_equal(found["a"][0].numpy(), array) and found["c"] == 0.5


@torch.no_grad()
def test_a_mean_latent_that_is_missing_is_sampled(tmp_path, generator, state):
    torch.save({"g_ema": state}, tmp_path / "g.pt")
    found = checkpoints.load_generator(tmp_path / "g.pt").latent_avg
    assert torch.equal(found, checkpoints.mean_latent(generator).expand(8, -1))


def encoder_file(state: dict, prefix: str = "") -> dict:
    encoder = fakes.model_set().inverter.encoder.state_dict()
    return {
        "state_dict": prefixed(encoder, f"{prefix}encoder.") | prefixed(state, f"{prefix}decoder.")
    }


@pytest.mark.parametrize("prefix", ["", "net.", "module."])
def test_an_encoder_without_mean_takes_that_of_the_generator_beside_it(tmp_path, state, prefix):
    torch.save(encoder_file(state, prefix), tmp_path / "e.pt")
    assert checkpoints.holds_inverter(tmp_path / "e.pt")
    inverter = checkpoints.load_inverter(tmp_path / "e.pt")
    assert same(inverter.encoder, fakes.model_set().inverter.encoder)
    generator = checkpoints.load_generator(tmp_path / "e.pt")
    assert torch.equal(inverter.latent_avg, generator.latent_avg)


def test_an_encoder_alone_without_mean_is_refused(tmp_path):
    torch.save(encoder_file({}), tmp_path / "e.pt")
    with pytest.raises(BadFile, match="latent_avg"):
        checkpoints.load_inverter(tmp_path / "e.pt")


@torch.no_grad()
def test_a_restyle_checkpoint_looks_five_times_at_picture_and_render(tmp_path, state):
    config = dataclasses.replace(fakes.model_set().inverter.encoder.config, channels=6)
    encoder = Encoder4Editing(config).eval()
    torch.save(
        {"state_dict": prefixed(encoder.state_dict(), "encoder."), "latent_avg": torch.ones(8, 8)},
        tmp_path / "r.pt",
    )
    inverter = checkpoints.load_inverter(tmp_path / "r.pt")
    assert inverter.compares and inverter.passes == 5
    x, asked = torch.rand(2, 3, 32, 32), []

    def render(w: torch.Tensor) -> torch.Tensor:
        asked.append(w.clone())
        return w.mean((1, 2)).view(-1, 1, 1, 1).expand_as(x)

    w = inverter(x, render)
    assert len(asked) == 5 and torch.equal(asked[0], torch.ones(2, 8, 8))
    last = torch.cat([x, render(asked[4])], 1)
    torch.testing.assert_close(w, asked[4] + encoder(last))
    checkpoints.save_inverter(inverter, tmp_path / "ours.safetensors", half=False)
    ours = checkpoints.load_inverter(tmp_path / "ours.safetensors")
    assert ours.passes == 5 and torch.equal(ours(x, render), w)


def test_an_encoder_of_four_channels_is_refused(tmp_path):
    encoder = fakes.model_set().inverter.encoder.state_dict()
    encoder["input_layer.0.weight"] = torch.zeros(4, 4, 3, 3)
    torch.save(
        {"state_dict": prefixed(encoder, "encoder."), "latent_avg": torch.zeros(8)},
        tmp_path / "e.pt",
    )
    with pytest.raises(BadFile, match="reads 4"):
        checkpoints.load_inverter(tmp_path / "e.pt")


def test_the_bytes_tell_the_format_and_not_the_suffix(tmp_path, generator, state):
    torch.save({"g_ema": state}, tmp_path / "torch.pkl")
    torch.save({"g_ema": state}, tmp_path / "old.pkl", _use_new_zipfile_serialization=False)
    nvidia_pickle.write(generator, tmp_path / "nvidia.pt")
    checkpoints.save_generator(generator, tmp_path / "ours.pth", half=False)
    formats = {"torch.pkl": "torch", "old.pkl": "torch", "nvidia.pt": "pickle"}
    for name, expected in (formats | {"ours.pth": "safetensors"}).items():
        assert file_format(tmp_path / name) == expected
        assert checkpoints.holds_generator(tmp_path / name)
        assert same(checkpoints.load_generator(tmp_path / name), generator)


def nvidia_state(record: nvidia_pickle.Persistent, prefix: str = "") -> dict:
    own = {**record.state["_parameters"], **record.state["_buffers"]}
    found = {f"{prefix}{key}": torch.as_tensor(value).clone() for key, value in own.items()}
    for name, inner in record.state["_modules"].items():
        found |= nvidia_state(inner, f"{prefix}{name}.")
    return found


def test_a_state_dict_in_nvidias_names(tmp_path, generator):
    torch.save({"G_ema": nvidia_state(nvidia_pickle.network_of(generator))}, tmp_path / "g.pt")
    assert checkpoints.holds_generator(tmp_path / "g.pt")
    assert same(checkpoints.load_generator(tmp_path / "g.pt"), generator)


# ---- refused


@pytest.mark.parametrize("where", ["g_ema", "latent_avg", "pickle", "encoder", "safetensors"])
@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused_by_name(tmp_path, state, number, where):
    path, load = tmp_path / "bad.pt", checkpoints.load_generator
    broken = {key: value.clone() for key, value in state.items()}
    broken["convs.1.conv.weight"].view(-1)[3] = number
    named = "convs.1.conv.weight"
    if where == "g_ema":
        torch.save({"g_ema": broken}, path)
    elif where == "latent_avg":
        torch.save({"g_ema": state, "latent_avg": torch.full((8,), number)}, path)
        named = "latent_avg"
    elif where == "pickle":
        bad = Generator(fakes.GENERATOR)
        bad.load_state_dict(broken)
        nvidia_pickle.write(bad, path)
        named = "synthesis.b8.conv1.weight"
    elif where == "encoder":
        content = encoder_file(state)
        key = "encoder.styles.0.convs.0.weight"
        content["state_dict"][key] = content["state_dict"][key] * number
        torch.save(content, path)
        load, named = checkpoints.load_inverter, key
    else:
        save_file(broken, path)
    with pytest.raises(BadFile, match=rf"bad\.pt.*'[\w.]*{named}'.*not finite"):
        load(path)


def stylegan3(pickled: bool) -> object:
    start = nvidia_pickle.Persistent(
        "SynthesisInput",
        {"weight": torch.zeros(4, 4)},
        {"transform": torch.eye(3), "freqs": torch.zeros(4, 2), "phases": torch.zeros(4)},
    )
    synthesis = nvidia_pickle.Persistent("SynthesisNetwork", modules={"input": start})
    mapping = nvidia_pickle.Persistent(
        "MappingNetwork", modules={"fc0": nvidia_pickle.Persistent("FullyConnectedLayer")}
    )
    network = nvidia_pickle.Persistent(
        "Generator", modules={"mapping": mapping, "synthesis": synthesis}, c_dim=0
    )
    return network if pickled else nvidia_state(network)


@pytest.mark.parametrize("pickled", [True, False])
def test_stylegan3_is_refused_by_name(tmp_path, pickled):
    with nvidia_pickle.names():
        save = nvidia_pickle.pickle.dumps if pickled else None
        content = {"G_ema": stylegan3(pickled)}
        if save:
            (tmp_path / "g.pkl").write_bytes(save(content))
        else:
            torch.save(content, tmp_path / "g.pkl")
    with pytest.raises(BadFile, match=r"g\.pkl.*StyleGAN3"):
        checkpoints.load_generator(tmp_path / "g.pkl")


def test_what_holds_no_generator_says_what_it_holds(tmp_path):
    torch.save({"params_ema": {"style_mlp.1.weight": torch.zeros(2, 2)}}, tmp_path / "g.pt")
    with pytest.raises(BadFile, match=r"params_ema\.style_mlp\.1\.weight"):
        checkpoints.load_generator(tmp_path / "g.pt")


# ---- nothing in a file runs


class Calls:
    """Pickled as a call of `function(*arguments)`."""

    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


class Own:
    """A class of the program that saved the file."""


@pytest.mark.parametrize("zipped", [True, False])
def test_options_are_accepted_and_what_runs_beside_them_is_not(tmp_path, state, zipped):
    mark = tmp_path / "ran"
    options = argparse.Namespace(size=32, hook=Calls(os.system, f"touch {mark}"))
    torch.save(
        {"g_ema": state, "args": options},
        tmp_path / "g.pt",
        _use_new_zipfile_serialization=zipped,
    )
    with pytest.raises(BadFile, match="system"):
        checkpoints.load_generator(tmp_path / "g.pt")
    assert not mark.exists()


def test_any_other_class_is_refused_by_its_name(tmp_path, state):
    torch.save({"g_ema": state, "config": Own()}, tmp_path / "g.pt")
    with pytest.raises(BadFile, match="test_checkpoints_of_others.Own"):
        checkpoints.load_generator(tmp_path / "g.pt")


def test_options_that_would_change_their_class_change_nothing(tmp_path):
    """BUILD with a state of its own: the stand-in keeps nothing, so nothing can be called."""
    options = argparse.Namespace()
    vars(options).update({"__class__": OrderedDict, "__dict__": {"x": 1}, "__setstate__": 3})
    torch.save({"args": options}, tmp_path / "g.pt")
    options = read_torch(tmp_path / "g.pt")["args"]
    assert not vars(options) and type(options).__name__ == "Options"


def test_torchs_own_list_of_classes_is_as_before(tmp_path, state):
    """Also while two threads read."""
    before = torch.serialization.get_safe_globals()
    torch.save(training_file(state), tmp_path / "g.pt")
    failed = []

    def read():
        try:
            for _ in range(5):
                read_torch(tmp_path / "g.pt")
        except BadFile as error:
            failed.append(error)

    threads = [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed and torch.serialization.get_safe_globals() == before


def test_an_array_that_lies_about_its_layout_is_refused(tmp_path):
    """The bytes of the shape are changed in the file: fewer numbers than it says."""
    torch.save({"latent_avg": np.arange(8, dtype="f4")}, tmp_path / "whole.pt")
    with (
        zipfile.ZipFile(tmp_path / "whole.pt") as old,
        zipfile.ZipFile(tmp_path / "g.pt", "w") as new,
    ):
        for name in old.namelist():
            data = old.read(name)
            if name.endswith("data.pkl"):
                assert data.count(b"K\x08\x85") == 1  # the tuple (8,)
                data = data.replace(b"K\x08\x85", b"K\x7f\x85")
            new.writestr(name, data)
    with pytest.raises(BadFile, match=r"g\.pt"):
        read_torch(tmp_path / "g.pt")


def test_tables_without_end_are_refused(tmp_path):
    inside: dict = {"x": 1}
    inside["self"] = inside
    inside["again"] = inside
    torch.save(inside, tmp_path / "g.pt")
    with pytest.raises(BadFile, match="without end"):
        checkpoints.load_generator(tmp_path / "g.pt")


def test_a_claim_of_terabytes_within_a_table_is_refused(tmp_path):
    torch.save({"g_ema": {"w": torch.zeros(1).expand(10**12)}}, tmp_path / "g.pt")
    with pytest.raises(BadFile, match="fewer numbers"):
        checkpoints.load_generator(tmp_path / "g.pt")


def test_convert_takes_a_training_file(tmp_path, generator, state):
    torch.save(training_file(state), tmp_path / "g.pt")
    assert cli.main(["convert", str(tmp_path / "g.pt"), str(tmp_path / "g.safetensors")]) == 0
    assert same(checkpoints.load_generator(tmp_path / "g.safetensors"), generator)
