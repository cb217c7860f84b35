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
from ..ops import leaky_relu, upfirdn2d
from ..ops.layers import Block
from ..ops.synthesis import FusedSynthesis

# The filter [1, 3, 3, 1] of every StyleGAN2, along one axis. It sums to two: the zeros put between
# the pixels halve the light on each axis.
BLUR = (0.25, 0.75, 0.75, 0.25)
# The mapping network learns 100 times slower; its stored weights are larger by as much.
MAPPING_LR = 0.01


@dataclass(frozen=True)
class GeneratorConfig:
    """The widths of a network. Raises BadFile where they make none."""

    size: int  # side of the pictures in pixels, a power of two
    style_dim: int  # D, width of z and w
    n_mlp: int  # layers of the mapping network
    channels: Mapping[int, int]  # feature maps at each resolution 4, 8, ..., size

    def __post_init__(self) -> None:
        if self.size < 8 or self.size & (self.size - 1):
            raise BadFile(
                "A StyleGAN2 makes pictures with a side that is a power of two from 8 up, "
                f"not {self.size}."
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
        """Read size, widths, style_dim and n_mlp off the shapes of a checkpoint's tensors. Raises
        BadFile where they are not a generator's.
        """
        try:
            style_dim = state["conv1.conv.modulation.weight"].shape[1]
            channels = {4: state["conv1.conv.weight"].shape[1]}
            for i in range(sum(name.endswith("upsample.kernel") for name in state)):
                channels[8 << i] = state[f"convs.{2 * i}.conv.weight"].shape[1]
        except KeyError as missing:
            raise BadFile(
                f"This is no StyleGAN2 generator in a known format: it has no tensor {missing}."
            ) from None
        n_mlp = sum(name.startswith("style.") and name.endswith(".weight") for name in state)
        return cls(max(channels), style_dim, n_mlp, channels)


class EqualLinear(nn.Module):
    """Linear layer with an equalised learning rate: the stored weight has unit variance and is
    scaled by 1 / sqrt(fan in) as it runs.
    """

    def __init__(self, in_dim: int, out_dim: int, bias: float = 0.0, lr: float = 1.0):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(out_dim, in_dim) / lr)
        self.bias = nn.Parameter(torch.full((out_dim,), bias))
        self.scale, self.lr = lr / math.sqrt(in_dim), lr

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight * self.scale, self.bias * self.lr)


class MappingLayer(EqualLinear):
    """A layer of the mapping network: linear, then leaky ReLU."""

    def __init__(self, dim: int):
        super().__init__(dim, dim, lr=MAPPING_LR)

    def forward(self, x: Tensor) -> Tensor:
        return leaky_relu(super().forward(x))


class PixelNorm(nn.Module):
    """z [B, D] to length sqrt(D)."""

    def forward(self, z: Tensor) -> Tensor:
        return z * torch.rsqrt(z.square().mean(dim=1, keepdim=True) + 1e-8)


class StoredBlur(nn.Module):
    """The blur as checkpoints have it, the same in all: `blur.kernel` behind an upsampling
    convolution, `upsample.kernel` for the picture so far. Nothing reads it.
    """

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("kernel", torch.outer(torch.tensor(BLUR), torch.tensor(BLUR)))


class ModulatedConv(nn.Module):
    """Modulation, convolution, demodulation (section 2.2, figure 2d).

    The paper multiplies the weights, w'_ijk = s_i w_ijk (eq. 1) and w''_ijk = w'_ijk / |w'_j|
    (eq. 3), for each picture; multiplying the maps before and behind the convolution gives the same
    numbers with one ordinary convolution for the whole batch.
    """

    def __init__(
        self,
        in_ch: int,
        out_ch: int,
        kernel: int,
        style_dim: int,
        upsample: bool = False,
        demodulate: bool = True,
    ):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(1, out_ch, in_ch, kernel, kernel))
        self.modulation = EqualLinear(style_dim, in_ch, bias=1.0)
        self.scale = 1 / math.sqrt(in_ch * kernel * kernel)
        self.upsample, self.demodulate = upsample, demodulate
        if upsample:
            self.blur = StoredBlur()

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        """x [B, in, H, W] and w [B, D] to [B, out, H, W], or twice the sides if it upsamples."""
        return self.with_style(x, self.modulation(w))

    def with_style(self, x: Tensor, s: Tensor) -> Tensor:
        """The same from the style s [B, in] itself."""
        s = s * self.scale
        x = x * s[:, :, None, None].to(x.dtype)
        weight = self.weight[0]
        if self.upsample:
            x = F.conv_transpose2d(x, weight.transpose(0, 1), stride=2)
            x = upfirdn2d(x, BLUR, pad=(1, 1))
        else:
            x = F.conv2d(x, weight, padding=weight.shape[-1] // 2)
        if self.demodulate:
            energy = weight.float().square().sum(dim=(2, 3))  # [out, in]
            inverse = torch.rsqrt(s.float().square() @ energy.T + 1e-8)  # 1 / |w'_j|, [B, out]
            x = x * inverse[:, :, None, None].to(x.dtype)
        return x


class NoiseStrength(nn.Module):
    """The factor B of figure 2, one for all channels, under the checkpoints' name."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))


class ActivationBias(nn.Module):
    """The bias b of figure 2, under the checkpoints' name."""

    def __init__(self, channels: int):
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(channels))


class StyledConv(nn.Module):
    """A style block of figure 2d: modulated convolution, noise and bias, leaky ReLU."""

    def __init__(self, in_ch: int, out_ch: int, style_dim: int, upsample: bool = False):
        super().__init__()
        self.conv = ModulatedConv(in_ch, out_ch, 3, style_dim, upsample)
        self.noise = NoiseStrength()
        self.activate = ActivationBias(out_ch)

    def forward(self, x: Tensor, s: Tensor, noise: Tensor) -> Tensor:
        """x [B, in, H, W], style s [B, in], noise [1, 1, H', W'] to [B, out, H', W']."""
        x = self.conv.with_style(x, s)
        return leaky_relu(x, self.activate.bias, self.noise.weight * noise)


class ToRGB(nn.Module):
    """tRGB of figure 7b: a map to colours by a modulated 1x1 convolution, not demodulated."""

    def __init__(self, in_ch: int, style_dim: int, upsample: bool):
        super().__init__()
        self.conv = ModulatedConv(in_ch, 3, 1, style_dim, demodulate=False)
        self.bias = nn.Parameter(torch.zeros(1, 3, 1, 1))
        if upsample:
            self.upsample = StoredBlur()

    def forward(self, x: Tensor, s: Tensor) -> Tensor:
        """x [B, in, H, W], style s [B, in] to [B, 3, H, W], float32: in bfloat16 the sum of nine of
        these would show as bands.
        """
        return self.conv.with_style(x, s).float() + self.bias


class ConstantInput(nn.Module):
    """The learned 4x4 map that every picture starts from."""

    def __init__(self, channels: int):
        super().__init__()
        self.input = nn.Parameter(torch.randn(1, channels, 4, 4))


class Generator(nn.Module):
    """`mapping`: z to w. `synthesis`: w+ to a picture. `latent_avg`: mean of w, [L, D]."""

    def __init__(self, config: GeneratorConfig):
        super().__init__()
        self.config = config
        c, d = config.channels, config.style_dim
        self.style = nn.Sequential(PixelNorm(), *[MappingLayer(d) for _ in range(config.n_mlp)])
        self.input = ConstantInput(c[4])
        self.conv1 = StyledConv(c[4], c[4], d)
        self.to_rgb1 = ToRGB(c[4], d, upsample=False)
        self.convs, self.to_rgbs = nn.ModuleList(), nn.ModuleList()
        blocks = [Block(None, self.conv1, self.to_rgb1)]
        for r in config.resolutions[1:]:
            up, flat = StyledConv(c[r // 2], c[r], d, upsample=True), StyledConv(c[r], c[r], d)
            self.convs += [up, flat]
            self.to_rgbs.append(ToRGB(c[r], d, upsample=True))
            blocks.append(Block(up, flat, self.to_rgbs[-1]))
        self._fused = FusedSynthesis(blocks)
        self.noises = nn.Module()
        for i in range(config.layers - 1):
            side = 4 << (i + 1) // 2
            self.noises.register_buffer(f"noise_{i}", torch.randn(1, 1, side, side))
        self.register_buffer("latent_avg", torch.zeros(config.layers, d), persistent=False)

    def mapping(self, z: Tensor, truncation: float = 1.0) -> Tensor:
        """z [B, D], standard normal, to w [B, D]; truncation 0...1 draws w towards its mean."""
        w = self.style(z)
        if truncation == 1:
            return w
        mean = self.latent_avg.mean(0)
        return mean + truncation * (w - mean)

    def repeat(self, w: Tensor) -> Tensor:
        """w [B, D] to w+ [B, L, D]: the same w for every layer."""
        return w[:, None].expand(-1, self.config.layers, -1)

    def synthesis(self, w_plus: Tensor, resolution: int | None = None) -> Tensor:
        """w+ [B, L, D] (or w [B, D]) to pictures [B, 3, R, R], about [-1, 1], with the noise stored
        in the checkpoint: the skip generator of figure 7b.

        `resolution` R < size stops early and returns the skip picture of that side, the sum of the
        RGB layers so far.
        """
        w = self.repeat(w_plus) if w_plus.ndim == 2 else w_plus
        resolution = resolution or self.config.size
        if resolution not in self.config.resolutions:
            raise ValueError(
                f"resolution must be one of {self.config.resolutions}, not {resolution}."
            )
        if self._fused.applies():
            blocks = self.config.resolutions.index(resolution) + 1
            return self._fused(self.input.input, self._noise(blocks), w, blocks)
        return self.synthesis_from_styles(self.styles(w), resolution)

    def styles(self, w_plus: Tensor) -> list[Tensor]:
        """w+ [B, L, D] (or w [B, D]) to the styles s [B, in] of all modulated convolutions, A of
        figure 2: at 4x4 one and its colours', then two and their colours' for each resolution.
        """
        w = self.repeat(w_plus) if w_plus.ndim == 2 else w_plus
        layers, seen = [self.conv1, self.to_rgb1], [0, 1]
        for i, to_rgb in enumerate(self.to_rgbs):
            layers += [self.convs[2 * i], self.convs[2 * i + 1], to_rgb]
            # The colours of a block and the first layer of the next see the same latent.
            seen += [2 * i + 1, 2 * i + 2, 2 * i + 3]
        return [layer.conv.modulation(w[:, i]) for layer, i in zip(layers, seen, strict=True)]

    def synthesis_from_styles(
        self, styles: Sequence[Tensor], resolution: int | None = None
    ) -> Tensor:
        """The pictures of styles as `styles` gives them, which need not come from any w; otherwise
        as `synthesis`.
        """
        blocks = self.config.resolutions.index(resolution or self.config.size) + 1
        noise, style = iter(self._noise(blocks)), iter(styles)
        x = self.input.input.expand(len(styles[0]), -1, -1, -1)
        x = self.conv1(x, next(style), next(noise))
        picture = self.to_rgb1(x, next(style))
        for i in range(blocks - 1):
            x = self.convs[2 * i](x, next(style), next(noise))
            x = self.convs[2 * i + 1](x, next(style), next(noise))
            picture = upfirdn2d(picture, BLUR, up=2, pad=(2, 1))
            picture = picture + self.to_rgbs[i](x, next(style))
        return picture

    def _noise(self, blocks: int) -> list[Tensor]:
        """The stored noise of the first `blocks` resolutions."""
        return [getattr(self.noises, f"noise_{i}") for i in range(2 * blocks - 1)]

    def forward(self, z: Tensor, truncation: float = 1.0) -> Tensor:
        return self.synthesis(self.mapping(z, truncation))
