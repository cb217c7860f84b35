"""StyleGAN2, config F (Karras et al. 2020, arXiv 1912.04958), every width configurable.

Parameter names are those of the common PyTorch checkpoints (`style.1.weight`,
`convs.0.conv.modulation.weight`, ...), so they load strictly. Those files carry no description of
the network: `GeneratorConfig.infer` reads it off the shapes of the tensors.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import BadFile
from ..ops import Known, ToRgb, leaky_relu, styled_conv, styled_conv_to_rgb

# The filter [1, 3, 3, 1] of every StyleGAN2, along one axis. It sums to two: the zeros put between
# the pixels halve the light on each axis.
BLUR = (0.25, 0.75, 0.75, 0.25)
MAPPING_LR = (
    0.01  # the mapping network learns 100 times slower; its stored weights are larger by as much
)


@dataclass(frozen=True)
class GeneratorConfig:
    size: int  # side of the pictures in pixels, a power of two
    style_dim: int  # D, width of z and w
    n_mlp: int  # layers of the mapping network
    channels: Mapping[int, int]  # feature maps at each resolution 4, 8, ..., size

    def __post_init__(self) -> None:
        if self.size < 8 or self.size & (self.size - 1):
            raise BadFile(
                f"A StyleGAN2 makes pictures with a side that is a power of two from 8 up, not {self.size}."
            )
        missing = [r for r in self.resolutions if r not in self.channels]
        if missing:
            raise BadFile(f"channels names no width for the resolutions {missing}.")

    @property
    def resolutions(self) -> list[int]:
        return [2**i for i in range(2, int(math.log2(self.size)) + 1)]

    @property
    def layers(self) -> int:
        """L, the number of w that one picture takes: 2 log2(size) - 2."""
        return 2 * int(math.log2(self.size)) - 2

    @classmethod
    def infer(cls, state: Mapping[str, Tensor]) -> GeneratorConfig:
        """Read size, widths, style_dim and n_mlp off the shapes of a checkpoint's tensors."""
        try:
            first = state["conv1.conv.weight"]
            style_dim = state["conv1.conv.modulation.weight"].shape[1]
            channels = {4: state["input.input"].shape[1]}
            channels[4] = first.shape[1]
            for i in range(sum(name.endswith("upsample.kernel") for name in state)):
                channels[8 << i] = state[f"convs.{2 * i}.conv.weight"].shape[1]
        except KeyError as missing:
            raise BadFile(
                f"This is no StyleGAN2 generator in a known format: it has no tensor {missing}."
            ) from None
        n_mlp = sum(name.startswith("style.") and name.endswith(".weight") for name in state)
        return cls(max(channels), style_dim, n_mlp, channels)


class EqualLinear(nn.Module):
    """Linear layer whose stored weight has unit variance and is scaled by 1/sqrt(fan in) as it
    runs.
    """

    def __init__(self, in_dim: int, out_dim: int, bias: float = 0.0, lr: float = 1.0):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(out_dim, in_dim) / lr)
        self.bias = nn.Parameter(torch.full((out_dim,), bias))
        self.scale, self.lr = lr / math.sqrt(in_dim), lr

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight * self.scale, self.bias * self.lr)


class MappingLayer(EqualLinear):
    def __init__(self, dim: int):
        super().__init__(dim, dim, lr=MAPPING_LR)

    def forward(self, x: Tensor) -> Tensor:
        return leaky_relu(super().forward(x))


class PixelNorm(nn.Module):
    def forward(self, z: Tensor) -> Tensor:
        return z * torch.rsqrt(z.square().mean(dim=1, keepdim=True) + 1e-8)


class StoredBlur(nn.Module):
    """The blur as checkpoints have it, the same in all: `blur.kernel` behind a convolution,
    `upsample.kernel` before the RGB sum.
    """

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("kernel", torch.outer(torch.tensor(BLUR), torch.tensor(BLUR)))


class ModulatedConv(nn.Module):
    """Convolution whose input channels are scaled by the style and whose output has unit expected
    variance (section 2.2).

    The paper scales the weights, one set for each picture; scaling the activations before and after
    gives the same numbers with one ordinary convolution for the whole batch, which is faster
    everywhere but in a very wide network at batch one.
    """

    def __init__(
        self, in_ch: int, out_ch: int, kernel: int, style_dim: int, upsample: bool = False
    ):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(1, out_ch, in_ch, kernel, kernel))
        self.modulation = EqualLinear(style_dim, in_ch, bias=1.0)
        self.scale = 1 / math.sqrt(in_ch * kernel * kernel)
        self.taps = BLUR if upsample else None
        if upsample:
            self.blur = StoredBlur()
        self.known = Known()


class Styles:
    """What the latents do to modulated convolutions, all of them together: many small products
    would take longer than two larger ones.
    """

    def __init__(self, convs: Sequence[ModulatedConv]):
        self.convs, self.known = convs, Known()
        self.demodulated = [
            i for i, conv in enumerate(convs) if conv.weight.shape[-1] > 1
        ]  # all but the colours'

    def __call__(self, w: Tensor) -> tuple[list[Tensor], dict[int, Tensor]]:
        """w [B, n, D], one for each of the n convolutions, to the factors of its input's channels,
        [B, in], and, by its number, of its output's, [B, out], float32: one over the length of each
        filter as the style scales it."""
        parts = [
            part
            for conv in self.convs
            for part in (conv.weight, conv.modulation.weight, conv.modulation.bias)
        ]
        weight, bias, energy = self.known("stacked", self._stacked, *parts)
        styles = torch.baddbmm(bias, w.transpose(0, 1), weight)  # [n, B, widest in]
        scales = torch.rsqrt(styles[self.demodulated].float().square() @ energy + 1e-8)
        found = {
            i: scale[:, : self.convs[i].weight.shape[1]]
            for i, scale in zip(self.demodulated, scales, strict=True)
        }
        return [
            style[:, : conv.weight.shape[2]] for style, conv in zip(styles, self.convs, strict=True)
        ], found

    def _stacked(self, *_: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The modulations' weights [n, D, widest in] and biases [n, 1, widest in], and the squared
        weights of what is demodulated, summed over the kernel [m, widest in, widest out]; zeros
        behind the narrower ones."""
        inner, out = (max(conv.weight.shape[axis] for conv in self.convs) for axis in (2, 1))
        weights = [
            _padded(conv.modulation.weight.T * (conv.modulation.scale * conv.scale), inner)
            for conv in self.convs
        ]
        biases = [_padded(conv.modulation.bias[None] * conv.scale, inner) for conv in self.convs]
        energies = [
            self.convs[i].weight[0].float().square().sum(dim=(2, 3)).T for i in self.demodulated
        ]
        return (
            torch.stack(weights),
            torch.stack(biases),
            torch.stack([_padded(energy, out, inner) for energy in energies]),
        )


def _padded(x: Tensor, columns: int, rows: int | None = None) -> Tensor:
    return F.pad(x, (0, columns - x.shape[1], 0, (rows or len(x)) - len(x)))


class Noise(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))


class Activate(nn.Module):
    def __init__(self, channels: int):
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(channels))


class StyledConv(nn.Module):
    def __init__(self, in_ch: int, out_ch: int, style_dim: int, upsample: bool = False):
        super().__init__()
        self.conv = ModulatedConv(in_ch, out_ch, 3, style_dim, upsample)
        self.noise = Noise()
        self.activate = Activate(out_ch)

    def forward(self, x: Tensor, style: Tensor, scale: Tensor, noise: Tensor) -> Tensor:
        conv, noise = self.conv, self.scaled(noise)
        return styled_conv(
            x, conv.weight[0], style, scale, self.activate.bias, noise, conv.taps, conv.known
        )

    def with_picture(
        self, x: Tensor, style: Tensor, scale: Tensor, noise: Tensor, rgb: ToRgb
    ) -> tuple[Tensor, Tensor]:
        conv, noise = self.conv, self.scaled(noise)
        return styled_conv_to_rgb(
            x, conv.weight[0], style, scale, self.activate.bias, noise, conv.known, rgb
        )

    def scaled(self, noise: Tensor) -> Tensor:
        return self.conv.known("noise", torch.mul, self.noise.weight, noise)


class ToRGB(nn.Module):
    def __init__(self, in_ch: int, style_dim: int, upsample: bool):
        super().__init__()
        self.conv = ModulatedConv(in_ch, 3, 1, style_dim)
        self.bias = nn.Parameter(torch.zeros(1, 3, 1, 1))
        if upsample:
            self.upsample = StoredBlur()

    def forward(self, style: Tensor, below: Tensor | None) -> ToRgb:
        """What the layer before it takes to make the picture too."""
        return ToRgb(self.conv.weight[0], style, self.bias[0, :, 0, 0], below, BLUR)


class ConstantInput(nn.Module):
    def __init__(self, channels: int):
        super().__init__()
        self.input = nn.Parameter(torch.randn(1, channels, 4, 4))


class Generator(nn.Module):
    """`mapping`: z to w. `synthesis`: w+ to a picture. `latent_avg`: mean of w, [D] or [L, D]."""

    def __init__(self, config: GeneratorConfig):
        super().__init__()
        self.config = config
        c, d = config.channels, config.style_dim
        self.style = nn.Sequential(PixelNorm(), *[MappingLayer(d) for _ in range(config.n_mlp)])
        self.input = ConstantInput(c[4])
        self.conv1 = StyledConv(c[4], c[4], d)
        self.to_rgb1 = ToRGB(c[4], d, upsample=False)
        self.convs, self.to_rgbs = nn.ModuleList(), nn.ModuleList()
        for r in config.resolutions[1:]:
            self.convs += [StyledConv(c[r // 2], c[r], d, upsample=True), StyledConv(c[r], c[r], d)]
            self.to_rgbs.append(ToRGB(c[r], d, upsample=True))
        self.noises = nn.Module()
        for i in range(config.layers - 1):
            side = 4 << (i + 1) // 2
            self.noises.register_buffer(f"noise_{i}", torch.randn(1, 1, side, side))
        self.register_buffer("latent_avg", torch.zeros(config.layers, d), persistent=False)
        # The convolutions in the order in which they run, and which of the L latents each sees.
        convs, self._seen = [self.conv1.conv, self.to_rgb1.conv], [0, 1]
        for i in range(len(self.to_rgbs)):
            convs += [self.convs[2 * i].conv, self.convs[2 * i + 1].conv, self.to_rgbs[i].conv]
            self._seen += [2 * i + 1, 2 * i + 2, 2 * i + 3]
        self._styles = Styles(convs)

    def mapping(self, z: Tensor, truncation: float = 1.0) -> Tensor:
        """z [B, D], standard normal, to w [B, D]; truncation 0...1 draws w towards its mean."""
        w = self.style(z)
        return (
            w
            if truncation == 1
            else self.latent_avg.mean(0) + truncation * (w - self.latent_avg.mean(0))
        )

    def repeat(self, w: Tensor) -> Tensor:
        """w [B, D] to w+ [B, L, D]: the same w for every layer."""
        return w[:, None].expand(-1, self.config.layers, -1)

    def synthesis(self, w_plus: Tensor, resolution: int | None = None) -> Tensor:
        """w+ [B, L, D] (or w [B, D]) to pictures [B, 3, R, R], about [-1, 1], with the noise stored
        in the checkpoint.

        `resolution` R < size stops early and returns the skip picture of that side, the sum of the
        RGB layers so far.
        """
        if w_plus.ndim == 2:
            w_plus = self.repeat(w_plus)
        resolution = resolution or self.config.size
        if resolution not in self.config.resolutions:
            raise ValueError(
                f"resolution must be one of {self.config.resolutions}, not {resolution}."
            )
        styles, scales = self._styles(w_plus[:, self._seen])
        x = self.input.input.expand(len(w_plus), -1, -1, -1)
        x, picture = self.conv1.with_picture(
            x, styles[0], scales[0], self.noises.noise_0, self.to_rgb1(styles[1], None)
        )
        for i in range(self.config.resolutions.index(resolution)):
            up, flat, rgb = 3 * i + 2, 3 * i + 3, 3 * i + 4  # numbers of the convolutions
            x = self.convs[2 * i](
                x, styles[up], scales[up], getattr(self.noises, f"noise_{2 * i + 1}")
            )
            noise, to_rgb = (
                getattr(self.noises, f"noise_{2 * i + 2}"),
                self.to_rgbs[i](styles[rgb], picture),
            )
            x, picture = self.convs[2 * i + 1].with_picture(
                x, styles[flat], scales[flat], noise, to_rgb
            )
        return picture

    def forward(self, z: Tensor, truncation: float = 1.0) -> Tensor:
        return self.synthesis(self.mapping(z, truncation))
