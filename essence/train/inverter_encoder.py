"""The e4e encoder laid out for fast training."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor, nn

from ..errors import UserError
from ..models.e4e import Encoder4Editing, EncoderConfig
from ..models.latents import LatentAxes
from ..models.style_layers import EqualLinear


class PReLUFunction(torch.autograd.Function):
    """PReLU in five plain passes: torch's own takes a third of the training step on a CPU in
    bfloat16.
    """

    @staticmethod
    def forward(ctx, x: Tensor, slope: Tensor) -> Tensor:
        slope = slope.to(x.dtype).view(1, -1, 1, 1)
        ctx.save_for_backward(x, slope)
        return torch.where(x > 0, x, x * slope)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, Tensor]:
        x, slope = ctx.saved_tensors
        slope_grad = (grad * x.clamp(max=0)).sum(dim=(0, 2, 3), dtype=torch.float32)
        return torch.where(x > 0, grad, grad * slope), slope_grad


class FastPReLU(nn.PReLU):
    def forward(self, x: Tensor) -> Tensor:
        return PReLUFunction.apply(x, self.weight)


def initial_encoder(config: EncoderConfig, start: Encoder4Editing | None = None) -> Encoder4Editing:
    """A new encoder, or a copy of `start`; its parameters are those of the ordinary one. What reads
    the picture begins anew where `start` reads something else. Raises UserError for a start of
    other widths.
    """
    encoder = Encoder4Editing(config)
    if start is not None:
        here, there = body_of(config), body_of(start.config)
        if here != there:
            raise UserError(
                f"The start has other widths than this run ({start.config}): give the same "
                "--widths, --depths, --head-width and --input-size."
            )
        state = start.state_dict()
        if start.config != config:
            state |= {f"input_layer.{k}": v for k, v in encoder.input_layer.state_dict().items()}
        encoder.load_state_dict(state)
    for module in encoder.modules():
        if type(module) is nn.PReLU:
            module.__class__ = FastPReLU
    return encoder.to(memory_format=fastest_layout(config))


def rooted_basis(axes: LatentAxes) -> Tensor:
    """What a network's numbers count along the axes, [K, D]: a standard deviation and less, by the
    root of what the axis deviates. Most axes carry little, and a step of Adam, which is as long
    along all of them, would fill them with noise.
    """
    deviation = axes.axes.norm(dim=1, keepdim=True)
    return axes.axes * (deviation / deviation.max()).sqrt()


@torch.no_grad()
def along(encoder: Encoder4Editing, basis: Tensor) -> Encoder4Editing:
    """The same network, its answers [..., D] told as numbers along the `basis` [K, D]."""
    return with_last_layers(encoder, basis / basis.square().sum(1, keepdim=True), len(basis))


@torch.no_grad()
def with_last_layers(encoder: Encoder4Editing, matrix: Tensor, width: int) -> Encoder4Editing:
    """The same network whose every vector x is `matrix` [width, D] x instead."""
    changed = Encoder4Editing(dataclasses.replace(encoder.config, style_dim=width))
    state = encoder.state_dict()
    for name, value in state.items():
        if ".linear." in name:
            state[name] = matrix @ value
    changed.load_state_dict(state)
    return changed


@torch.no_grad()
def quieten(linear: EqualLinear, basis: Tensor) -> None:
    """Take back what a network trained in W says of axes that hardly deviate, which is noise: the
    root again.
    """
    factor = (basis.norm(dim=1) / basis.norm(dim=1).max()) ** (1 / 3)
    linear.weight *= factor[:, None]
    linear.bias *= factor


def body_of(config: EncoderConfig) -> EncoderConfig:
    """What it is apart from its input."""
    side = config.input_size // config.fold
    return dataclasses.replace(config, input_size=side, channels=3, fold=1)


def fastest_layout(config: EncoderConfig) -> torch.memory_format:
    """Channels innermost, which is faster; not where a width is no multiple of 8: there torch
    2.15's strided 1x1 convolutions write beyond their memory in the backward pass, on processors
    without AVX-512.
    """
    if any(width % 8 for width in config.widths):
        return torch.contiguous_format
    return torch.channels_last
