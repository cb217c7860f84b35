"""Writes a generator as NVIDIA's stylegan2-ada saves one: a pickle of persistent objects, in its
names and shapes.
"""

from __future__ import annotations

import pickle
import sys
import types
from collections import OrderedDict
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch

from essence.models.stylegan2 import Generator

FILTER = torch.outer(torch.tensor([1.0, 3.0, 3.0, 1.0]), torch.tensor([1.0, 3.0, 3.0, 1.0])) / 64


class Persistent:
    """Pickled as a call that would run `source` before anything else."""

    source = "raise SystemExit('the code inside the pickle ran')"

    def __init__(self, class_name, parameters=(), buffers=(), modules=(), **attributes):
        self.class_name = class_name
        parameters = OrderedDict(
            (name, torch.nn.Parameter(value.clone(), requires_grad=False))
            for name, value in dict(parameters).items()
        )
        self.state = {
            "training": False,
            "_parameters": parameters,
            "_buffers": OrderedDict(buffers),
            "_modules": OrderedDict(modules),
            "_non_persistent_buffers_set": set(),
            **attributes,
        }

    def __reduce__(self):
        meta = {
            "type": "class",
            "version": 6,
            "module_src": self.source,
            "class_name": self.class_name,
            "state": self.state,
        }
        return sys.modules["torch_utils.persistence"]._reconstruct_persistent_obj, (meta,)


def _reconstruct_persistent_obj(meta):
    raise AssertionError("only written, never read")


@contextmanager
def names():
    """The modules that the pickle's names point into, while it is written."""
    persistence, package = (
        types.ModuleType("torch_utils.persistence"),
        types.ModuleType("torch_utils"),
    )
    function = types.FunctionType(
        _reconstruct_persistent_obj.__code__, {}, "_reconstruct_persistent_obj"
    )
    function.__module__, function.__qualname__ = (
        "torch_utils.persistence",
        "_reconstruct_persistent_obj",
    )
    persistence._reconstruct_persistent_obj, package.persistence = function, persistence
    sys.modules |= {"torch_utils": package, "torch_utils.persistence": persistence}
    try:
        yield
    finally:
        del sys.modules["torch_utils"], sys.modules["torch_utils.persistence"]


def write(generator: Generator, path: Path, protocol: int = 4, **changes) -> None:
    with names():
        network = network_of(generator, **changes)
        path.write_bytes(
            pickle.dumps(
                {"G": network, "D": None, "G_ema": network, "augment_pipe": None}, protocol=protocol
            )
        )


def network_of(generator: Generator, **changes) -> Persistent:
    state, config = generator.state_dict(), generator.config
    layers = [
        (f"fc{i}", dense(state, f"style.{i + 1}", 0.01, activation="lrelu"))
        for i in range(config.n_mlp)
    ]
    average = generator.latent_avg.mean(0)
    mapping = Persistent(
        "MappingNetwork",
        buffers={"w_avg": average},
        modules=layers,
        w_dim=config.style_dim,
        num_ws=config.layers,
    )
    blocks = [(f"b{side}", block(state, i, side)) for i, side in enumerate(config.resolutions)]
    synthesis = Persistent("SynthesisNetwork", modules=blocks, img_resolution=config.size)
    more = {"z_dim": config.style_dim, "c_dim": 0, "img_channels": 3, **changes}
    return Persistent("Generator", modules={"synthesis": synthesis, "mapping": mapping}, **more)


def dense(state, name, lr=1.0, **attributes):
    weight, bias = state[f"{name}.weight"], state[f"{name}.bias"]
    gains = {"weight_gain": np.float64(lr / np.sqrt(weight.shape[1])), "bias_gain": lr}
    return Persistent(
        "FullyConnectedLayer", {"weight": weight, "bias": bias}, **gains, **attributes
    )


def block(state, i, side):
    first = i == 0
    names = (
        {"conv1": "conv1"}
        if first
        else {"conv0": f"convs.{2 * i - 2}", "conv1": f"convs.{2 * i - 1}"}
    )
    modules = {
        own: layer(state, name, 0 if first else 2 * i - 1 + n, own == "conv0")
        for n, (own, name) in enumerate(names.items())
    }
    rgb = "to_rgb1" if first else f"to_rgbs.{i - 1}"
    weight, bias = state[f"{rgb}.conv.weight"][0], state[f"{rgb}.bias"].flatten()
    gain = np.float64(1 / np.sqrt(weight.shape[1]))
    parts = {"weight": weight, "bias": bias}
    modules["torgb"] = Persistent(
        "ToRGBLayer",
        parts,
        modules={"affine": dense(state, f"{rgb}.conv.modulation")},
        weight_gain=gain,
    )
    const = {"const": state["input.input"][0]} if first else {}
    return Persistent(
        "SynthesisBlock",
        const,
        {"resample_filter": FILTER},
        modules,
        resolution=side,
        architecture="skip",
    )


def layer(state, name, noise, up):
    parameters = {
        "weight": state[f"{name}.conv.weight"][0],
        "bias": state[f"{name}.activate.bias"],
        "noise_strength": state[f"{name}.noise.weight"][0],
    }
    buffers = {"resample_filter": FILTER, "noise_const": state[f"noises.noise_{noise}"][0, 0]}
    affine = {"affine": dense(state, f"{name}.conv.modulation")}
    return Persistent(
        "SynthesisLayer",
        parameters,
        buffers,
        affine,
        up=2 if up else 1,
        act_gain=np.float64(np.sqrt(2)),
        conv_clamp=256,
    )
