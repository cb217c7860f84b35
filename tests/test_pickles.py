"""NVIDIA's pickles: the right pictures come out of them, and nothing in them runs."""

import copy
import io
import os
import pickle
import struct
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from essence.errors import BadFile
from essence.library import checkpoints
from essence.library.network_pickle import Record, read_pickle
from essence.ops import leaky_relu

from . import fakes, nvidia_pickle

GOLDEN = Path(__file__).parent / "golden"


@torch.no_grad()
@pytest.mark.parametrize("protocol", [2, 4])
def test_a_pickle_gives_the_recorded_pictures(tmp_path, protocol):
    io_, generator = (
        torch.load(GOLDEN / "stylegan2_narrow_32_io.pt"),
        checkpoints.load_generator(GOLDEN / "stylegan2_narrow_32.pt"),
    )
    nvidia_pickle.write(generator, tmp_path / "g.pkl", protocol)
    again = checkpoints.load_generator(tmp_path / "g.pkl")
    torch.testing.assert_close(again.mapping(io_["z"]), io_["w"], atol=1e-5, rtol=0)
    torch.testing.assert_close(
        again.synthesis(io_["w_plus"]), io_["image_from_w_plus"], atol=1e-4, rtol=0
    )
    torch.testing.assert_close(
        again(io_["z"], io_["truncation"]), io_["image_from_z_truncated"], atol=1e-4, rtol=0
    )


@torch.no_grad()
def test_an_enlarging_layer_computes_what_the_pickle_means_by_it():
    """NVIDIA's definition: zeros between the pixels, a true convolution (kernel turned round), then
    the filter with a gain of four.
    """
    layer, x, w = (
        copy.deepcopy(fakes.model_set().generator.convs[0]),
        torch.randn(1, 8, 4, 4),
        torch.randn(1, 8),
    )
    conv = layer.conv
    weight = conv.weight[0] * conv.modulation(w).view(1, -1, 1, 1)
    weight = weight * torch.rsqrt(weight.square().sum(dim=(1, 2, 3), keepdim=True) + 1e-8)
    spread = torch.zeros(1, 8, 8, 8)
    spread[:, :, ::2, ::2] = x
    wide = F.conv2d(F.pad(spread, (2, 1, 2, 1)), weight.flip(2, 3))  # side 9
    taps = (4 * nvidia_pickle.FILTER).expand(8, 1, 4, 4)
    expected = F.conv2d(F.pad(wide, (1, 1, 1, 1)), taps, groups=8)
    layer.activate.bias.zero_(), layer.noise.weight.zero_()
    noise = torch.zeros(1, 1, 8, 8)
    found = layer(x, conv.modulation(w), noise)
    torch.testing.assert_close(found, leaky_relu(expected), atol=1e-5, rtol=1e-4)


def test_other_gains_are_brought_to_ours(tmp_path):
    generator = fakes.model_set().generator
    with nvidia_pickle.names():
        network = nvidia_pickle.network_of(generator)
        first = network.state["_modules"]["mapping"].state["_modules"]["fc0"].state
        first["weight_gain"], first["bias_gain"] = first["weight_gain"] / 4, first["bias_gain"] * 2
        (tmp_path / "g.pkl").write_bytes(pickle.dumps({"G_ema": network}))
    z = torch.randn(2, 8)
    generator = checkpoints.load_generator(tmp_path / "g.pkl")
    first, ours = generator.style[1], fakes.model_set().generator.style[1]
    torch.testing.assert_close(first.weight, ours.weight / 4)
    torch.testing.assert_close(first.bias, ours.bias * 2)
    assert generator.mapping(z).shape == (2, 8)


@pytest.mark.parametrize(
    "changes, says", [({"c_dim": 10}, "10 classes"), ({"img_channels": 1}, "1 channels")]
)
def test_a_network_that_computes_something_else_is_refused(tmp_path, changes, says):
    nvidia_pickle.write(fakes.model_set().generator, tmp_path / "g.pkl", **changes)
    with pytest.raises(BadFile, match=says):
        checkpoints.load_generator(tmp_path / "g.pkl")


def test_another_filter_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(nvidia_pickle, "FILTER", torch.full((4, 4), 1 / 16))
    nvidia_pickle.write(fakes.model_set().generator, tmp_path / "g.pkl")
    with pytest.raises(BadFile, match="another filter"):
        checkpoints.load_generator(tmp_path / "g.pkl")


class Calls:
    """Pickled as a call of `function(*arguments)`."""

    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


def nested(payload):
    """A tensor whose bytes are themselves a pickle that wants to run something."""
    buffer = io.BytesIO()
    torch.save(payload, buffer, _use_new_zipfile_serialization=False)
    return Calls(torch.storage._load_from_bytes, buffer.getvalue())


def global_(module, name):
    return b"c" + module.encode() + b"\n" + name.encode() + b"\n"


def text(value):
    return b"X" + struct.pack("<I", len(value)) + value.encode()


HOSTILE = {
    "system": lambda mark: pickle.dumps(Calls(os.system, f"touch {mark}")),
    "eval": lambda mark: pickle.dumps({"G_ema": Calls(eval, f"open({mark!r}, 'w')")}),
    "open": lambda mark: pickle.dumps(Calls(open, mark, "w")),
    "nested": lambda mark: pickle.dumps(nested(Calls(os.system, f"touch {mark}"))),
    "getattr": lambda mark: pickle.dumps(Calls(getattr, OrderedDict(), "clear")),
    # os.system by a dotted path through a module that is allowed
    "dotted": lambda mark: b"\x80\x04" + text("torch._utils") + text("sys.modules") + b"\x93.",
    # a name that is allowed, and then BUILD: set its attributes
    "build": lambda mark: (
        b"\x80\x02"
        + global_("torch._utils", "_rebuild_parameter")
        + b"N}"
        + text("_make")
        + b"Ns\x86b."
    ),
    "build class": lambda mark: (
        b"\x80\x02" + global_("dnnlib.util", "EasyDict") + b"N}" + text("update") + b"Ns\x86b."
    ),
    "extension": lambda mark: b"\x80\x02\x82\x01.",
    "persistent id": lambda mark: b"\x80\x02" + text("x") + b"Q.",
    "number": lambda mark: (
        b"\x80\x02"
        + global_("numpy", "dtype")
        + text("O8")
        + b"\x85R"
        + b"C\x08"
        + bytes(8)
        + b"\x86"
        + global_("numpy.core.multiarray", "scalar")
        + b"\x8c\x00"
        + b"."
    ),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_pickle_is_refused_and_its_payload_does_not_run(tmp_path, kind):
    mark = tmp_path / "ran"
    (tmp_path / "g.pkl").write_bytes(HOSTILE[kind](str(mark)))
    with pytest.raises(BadFile, match=r"g\.pkl"):
        checkpoints.load_generator(tmp_path / "g.pkl")
    assert not mark.exists()


def test_the_payloads_would_run_where_they_are_let(tmp_path):
    """So that the test above cannot pass because its payloads are broken."""
    for kind in ("system", "eval", "open", "nested"):
        mark = tmp_path / kind
        pickle.loads(HOSTILE[kind](str(mark)))
        assert mark.exists(), kind


def test_source_code_in_the_pickle_is_not_run_and_not_kept(tmp_path):
    nvidia_pickle.write(fakes.model_set().generator, tmp_path / "g.pkl")
    network = read_pickle(tmp_path / "g.pkl")["G_ema"]
    assert isinstance(network, Record) and network.class_name == "Generator"
    assert (
        "module_src" not in network.attributes
        and nvidia_pickle.Persistent.source.encode() in (tmp_path / "g.pkl").read_bytes()
    )


@pytest.mark.parametrize(
    "content", [b"\x80\x04", b"not a pickle", pickle.dumps({"G_ema": 3}), pickle.dumps([])]
)
def test_other_files_are_no_generator(tmp_path, content):
    (tmp_path / "g.pkl").write_bytes(content)
    with pytest.raises(BadFile, match=r"g\.pkl"):
        checkpoints.load_generator(tmp_path / "g.pkl")


def test_a_file_that_ends_early_is_no_generator(tmp_path):
    path = tmp_path / "g.pkl"
    nvidia_pickle.write(fakes.model_set().generator, path)
    whole = path.read_bytes()
    for share in (0.1, 0.4, 0.8, 0.99):
        path.write_bytes(whole[: int(share * len(whole))])
        with pytest.raises(BadFile, match=r"g\.pkl"):
            checkpoints.load_generator(path)


@pytest.mark.parametrize(
    "damage", [{"_modules": 3}, {"_modules": {"fc0": 3}}, {"weight_gain": "wide"}]
)
def test_a_network_of_no_sense_is_refused(tmp_path, damage):
    with nvidia_pickle.names():
        network = nvidia_pickle.network_of(fakes.model_set().generator)
        mapping = network.state["_modules"]["mapping"]
        changed = mapping if "_modules" in damage else mapping.state["_modules"]["fc0"]
        changed.state |= damage
        (tmp_path / "g.pkl").write_bytes(pickle.dumps({"G_ema": network}))
    with pytest.raises(BadFile, match=r"g\.pkl"):
        checkpoints.load_generator(tmp_path / "g.pkl")


def test_a_tensorflow_network_is_named_as_such(tmp_path):
    (tmp_path / "g.pkl").write_bytes(
        b"\x80\x02" + global_("dnnlib.tflib.network", "Network") + b")\x81."
    )
    with pytest.raises(BadFile, match="TensorFlow"):
        checkpoints.load_generator(tmp_path / "g.pkl")
