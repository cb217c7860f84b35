"""NVIDIA's StyleGAN2 networks, as `network_pickle` reads them, in the names and units of the common
PyTorch checkpoints (docs/METHOD.md, section 6).

The mathematics are the same. What differs:
- names: `mapping.fc0` is `style.1`, `synthesis.b8.conv0` is `convs.0`, `affine` is
  `conv.modulation`, `torgb` is `to_rgbs.0`;
- shapes: a batch axis of one before weights and constants, noise as [1, 1, H, W], strengths as [1];
- both kinds scale weights as they run. The factor of a style or mapping layer is the same
  (`weight_gain`, or the learning rate's multiplier over sqrt(fan in)); that of a demodulated
  convolution cancels, so its weights are copied; RGB layers have it alike;
- an enlarging convolution is a transposed one with the weights as stored in both, so nothing is
  flipped;
- the filter is normed to one there, and to four (two along each axis) here, where it follows zeros
  put between the pixels.

Newer networks clamp activations at 256, far above what they reach; that is left out, as is anything
conditional on a class.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from ..errors import BadFile
from ..models.style_layers import MAPPING_LR
from .network_pickle import Record
from .safe_files import check_finite

GENERATOR = "synthesis.b4.const"  # the tensor that shows one
FILTER_GAIN = 4
STYLEGAN3 = re.compile(r"synthesis\.input\.(freqs|phases|transform)$")
SIDES = tuple(2**i for i in range(2, 12))


def find_generator(content: object, name: str) -> Record:
    """The averaged generator of a {"G", "D", "G_ema"} pickle, or the only network there. Raises
    BadFile.
    """
    if isinstance(content, Mapping):
        content = content.get("G_ema", content.get("G"))
    elif isinstance(content, (tuple, list)) and content:
        content = content[-1]  # (G, D, Gs), as the first versions saved them
    parts = content.table("_modules") if isinstance(content, Record) else {}
    if not {"mapping", "synthesis"} <= set(parts):
        raise BadFile(
            f"{name} holds no StyleGAN2 generator that is known here "
            "(a G_ema with mapping and synthesis)."
        )
    return content


def common_state_dict(network: Record, name: str) -> tuple[dict[str, Tensor], Tensor | None]:
    """State dict in the common names, and the mean latent [D]. Raises BadFile for a network that
    computes something else.
    """
    try:
        refuse_stylegan3(network.tensors(), name)
        _refuse_variants(network, name)
        check_finite(network.tensors(), name)
        mapping, synthesis = network.inner("mapping"), network.inner("synthesis")
        state = _mapping(mapping) | _synthesis(synthesis)
        return {key: value.float() for key, value in state.items()}, mapping.tensors().get("w_avg")
    except BadFile:
        raise
    except (KeyError, AttributeError) as missing:
        raise BadFile(
            f"The generator in {name} lacks {missing}: "
            "it is no StyleGAN2 in the form of stylegan2-ada."
        ) from None
    except (IndexError, TypeError, ValueError, RuntimeError) as error:
        # Shapes and attributes that no network has.
        raise BadFile(f"The generator in {name} is damaged ({error}).") from None


def record_of(state: Mapping[str, Tensor]) -> Record:
    """A state dict in NVIDIA's names, saved without its network, as that network's record."""
    network = Record("Generator")
    for name, value in state.items():
        *modules, own = name.split(".")
        record = network
        for module in modules:
            inner = record.attributes.setdefault("_modules", {})
            record = inner.setdefault(module, Record(module))
        record.attributes.setdefault("_parameters", {})[own] = value
    return network


def refuse_stylegan3(names: Iterable[str], name: str) -> None:
    """Raise BadFile where tensors are named as in StyleGAN3, which starts from a table of
    frequencies and not from a picture of constants.
    """
    if any(STYLEGAN3.search(key) for key in names):
        raise BadFile(
            f"{name} is a StyleGAN3 (alias-free) network; only StyleGAN2 is supported. Its latents "
            "would mean something else too."
        )


def _refuse_variants(network: Record, name: str) -> None:
    if classes := network.attributes.get("c_dim", 0):
        raise BadFile(
            f"The generator in {name} is conditional on {classes} classes; "
            "only unconditional ones are supported."
        )
    if (channels := network.attributes.get("img_channels", 3)) != 3:
        raise BadFile(
            f"The generator in {name} makes pictures of {channels} channels; only RGB is supported."
        )
    for side, block in network.inner("synthesis").table("_modules").items():
        kind = block.attributes.get("architecture", "skip") if isinstance(block, Record) else "skip"
        if kind != "skip":
            raise BadFile(
                f"The generator in {name} is of the architecture '{kind}' (block {side}); "
                "only 'skip' is supported."
            )


def _mapping(mapping: Record) -> dict[str, Tensor]:
    state = _linear(mapping.inner("fc0"), "style.1", MAPPING_LR)
    while f"fc{len(state) // 2}" in mapping.table("_modules"):
        i = len(state) // 2
        state |= _linear(mapping.inner(f"fc{i}"), f"style.{i + 1}", MAPPING_LR)
    return state


def _linear(layer: Record, name: str, lr: float = 1.0) -> dict[str, Tensor]:
    """A dense layer, its stored values rescaled where its factors differ from those used here."""
    weight, bias = layer.tensors()["weight"], layer.tensors()["bias"]
    gain = layer.attributes.get("weight_gain", lr / math.sqrt(weight.shape[1]))
    bias_gain = layer.attributes.get("bias_gain", lr)
    scale, bias_scale = gain / (lr / math.sqrt(weight.shape[1])), bias_gain / lr
    # One rounding less where the units are the same, as they are in every known network.
    weight = weight if math.isclose(scale, 1, rel_tol=1e-6) else weight * scale
    return {
        f"{name}.weight": weight,
        f"{name}.bias": bias if math.isclose(bias_scale, 1, rel_tol=1e-6) else bias * bias_scale,
    }


def _synthesis(synthesis: Record) -> dict[str, Tensor]:
    first = synthesis.inner("b4")
    state = {"input.input": first.tensors()["const"][None]}
    state |= _convolution(first.inner("conv1"), "conv1", 0)
    state |= _to_rgb(first.inner("torgb"), "to_rgb1")
    names = [f"b{side}" for side in SIDES[1:] if f"b{side}" in synthesis.table("_modules")]
    for i, block in enumerate(map(synthesis.inner, names)):
        state |= _convolution(block.inner("conv0"), f"convs.{2 * i}", 2 * i + 1)
        state |= _convolution(block.inner("conv1"), f"convs.{2 * i + 1}", 2 * i + 2)
        state |= _to_rgb(block.inner("torgb"), f"to_rgbs.{i}")
        enlarging, upsampling = (
            _kernel(record.tensors()["resample_filter"]) for record in (block.inner("conv0"), block)
        )
        state[f"convs.{2 * i}.conv.blur.kernel"] = enlarging
        state[f"to_rgbs.{i}.upsample.kernel"] = upsampling
    return state


def _convolution(layer: Record, name: str, noise: int) -> dict[str, Tensor]:
    own = layer.tensors()
    return {
        f"{name}.conv.weight": own["weight"][None],
        f"{name}.activate.bias": own["bias"],
        f"{name}.noise.weight": own["noise_strength"].reshape(1),
        f"noises.noise_{noise}": own["noise_const"][None, None],
    } | _linear(layer.inner("affine"), f"{name}.conv.modulation")


def _to_rgb(layer: Record, name: str) -> dict[str, Tensor]:
    own = layer.tensors()
    weight = own["weight"][None]
    return {
        f"{name}.conv.weight": weight,
        f"{name}.bias": own["bias"].reshape(1, -1, 1, 1),
    } | _linear(layer.inner("affine"), f"{name}.conv.modulation")


def _kernel(taps: Tensor) -> Tensor:
    """[4] or [4, 4], sum one, to [4, 4] with the gain of two along each axis."""
    return FILTER_GAIN * (torch.outer(taps, taps) if taps.ndim == 1 else taps)
