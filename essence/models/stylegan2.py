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
from torch import Tensor, nn

from ..errors import BadFile
from ..ops.layers import Block
from ..ops.synthesis import FusedSynthesis
from .finer_level import FinerConfig, FinerLevel
from .style_layers import ConstantInput, MappingLayer, PixelNorm, StyledConv, ToRGB, enlarge


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

    def finer(self, channels: int) -> FinerConfig:
        """Of a level on top, so many feature maps wide."""
        return FinerConfig(2 * self.size, self.channels[self.size], channels, self.style_dim)

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
        self._blocks, self._finer = blocks, ()
        self._fused = FusedSynthesis(blocks)
        self.noises = nn.Module()
        for i in range(config.layers - 1):
            side = 4 << (i + 1) // 2
            self.noises.register_buffer(f"noise_{i}", torch.randn(1, 1, side, side))
        self.register_buffer("latent_avg", torch.zeros(config.layers, d), persistent=False)

    def grow(self, level: FinerLevel) -> None:
        """Let `synthesis` make pictures of the level's side as well. The level does not become part
        of the network: files, fingerprints and training go without it.
        """
        self._finer = (level,)  # a tuple: a module would be taken in
        self._fused = FusedSynthesis([*self._blocks, level.block])

    @property
    def finest(self) -> int:
        """Side of the largest pictures that `synthesis` makes."""
        return self._finer[0].config.size if self._finer else self.config.size

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
        RGB layers so far. `finest` takes the level that was grown on top.
        """
        w = self.repeat(w_plus) if w_plus.ndim == 2 else w_plus
        resolution = resolution or self.config.size
        sides = [*self.config.resolutions, *(level.config.size for level in self._finer)]
        if resolution not in sides:
            raise ValueError(f"resolution must be one of {sides}, not {resolution}.")
        blocks = sides.index(resolution) + 1
        if self._fused.applies():
            return self._fused(self.input.input, self._noise(blocks), self._lengthened(w), blocks)
        if resolution <= self.config.size:
            return self.synthesis_from_styles(self.styles(w), resolution)
        return self._finer[0](*self.maps_from_styles(self.styles(w), self.config.size), w[:, -1])

    def maps(self, w_plus: Tensor) -> tuple[Tensor, Tensor]:
        """w+ [B, L, D] to the last feature maps [B, C, R, R] and the picture [B, 3, R, R]."""
        if self._fused.applies() and not w_plus.is_cuda:
            blocks = len(self.config.resolutions)
            w = self._lengthened(w_plus)
            return self._fused.maps(self.input.input, self._noise(blocks), w, blocks)
        return self.maps_from_styles(self.styles(w_plus), self.config.size)

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
        return self.maps_from_styles(styles, resolution or self.config.size)[1]

    def maps_from_styles(self, styles: Sequence[Tensor], resolution: int) -> tuple[Tensor, Tensor]:
        """As `synthesis_from_styles`, with the feature maps that the colours were read off."""
        blocks = self.config.resolutions.index(resolution) + 1
        noise, style = iter(self._noise(blocks)), iter(styles)
        x = self.input.input.expand(len(styles[0]), -1, -1, -1)
        x = self.conv1(x, next(style), next(noise))
        picture = self.to_rgb1(x, next(style))
        for i in range(blocks - 1):
            x = self.convs[2 * i](x, next(style), next(noise))
            x = self.convs[2 * i + 1](x, next(style), next(noise))
            picture = enlarge(picture) + self.to_rgbs[i](x, next(style))
        return x, picture

    def _lengthened(self, w_plus: Tensor) -> Tensor:
        """With the last latent once more for both layers of a finer level."""
        return torch.cat([w_plus, *[w_plus[:, -1:]] * (2 * len(self._finer))], 1)

    def _noise(self, blocks: int) -> list[Tensor]:
        """Of the first `blocks` resolutions, as the checkpoint has it."""
        noises = [getattr(self.noises, f"noise_{i}") for i in range(self.config.layers - 1)]
        noises += [level.noise for level in self._finer for _ in range(2)]
        return noises[: 2 * blocks - 1]

    def forward(self, z: Tensor, truncation: float = 1.0) -> Tensor:
        return self.synthesis(self.mapping(z, truncation))
