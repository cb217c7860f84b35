"""What the fused ways through StyleGAN2 read of the modules of models/stylegan2.py, which lies
above them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor


class Linear(Protocol):
    weight: Tensor  # [in, D]
    bias: Tensor  # [in]
    scale: float  # of the weight


class ModulatedConv(Protocol):
    weight: Tensor  # [1, out, in, k, k]
    modulation: Linear
    scale: float  # of the weight
    demodulate: bool


class NoiseStrength(Protocol):
    weight: Tensor  # [1]


class Bias(Protocol):
    bias: Tensor  # [out]


class StyledConv(Protocol):
    conv: ModulatedConv
    noise: NoiseStrength
    activate: Bias


class ToRGB(Protocol):
    conv: ModulatedConv
    bias: Tensor  # [1, 3, 1, 1]


class Block(NamedTuple):
    """The layers of one resolution (figure 7b)."""

    up: StyledConv | None  # none at 4x4
    flat: StyledConv
    to_rgb: ToRGB


def stacked_modulations(convs: Sequence[ModulatedConv], width: int) -> tuple[Tensor, Tensor]:
    """Weights [n, D, width] and biases [n, 1, width] of their modulations, with the weights' scale
    in them; narrower ones are filled up with zeros.
    """
    weights, biases = [], []
    for conv in convs:
        linear, empty = conv.modulation, width - conv.weight.shape[2]
        weights.append(F.pad(linear.weight.T * (linear.scale * conv.scale), (0, empty)))
        biases.append(F.pad(linear.bias[None] * conv.scale, (0, empty)))
    return torch.stack(weights), torch.stack(biases)


def stacked_energies(convs: Sequence[ModulatedConv], inner: int, out: int) -> Tensor:
    """The squared weights summed over the kernel, [n, inner, out], filled up with zeros."""
    energies = []
    for conv in convs:
        energy = conv.weight[0].float().square().sum(dim=(2, 3)).T
        energies.append(F.pad(energy, (0, out - energy.shape[1], 0, inner - len(energy))))
    return torch.stack(energies)


def frozen_weights(blocks: Sequence[Block]) -> list[Tensor]:
    """Every weight that a picture depends on, but for the constant and the noise."""
    found = []
    for block in blocks:
        for layer in filter(None, block):
            conv = layer.conv
            found += [conv.weight, conv.modulation.weight, conv.modulation.bias]
        found.append(block.to_rgb.bias)
        for layer in filter(None, (block.up, block.flat)):
            found += [layer.noise.weight, layer.activate.bias]
    return found
