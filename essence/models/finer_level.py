"""A level of twice the side on top of a generator that is finished."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..ops.layers import Block
from .style_layers import StyledConv, ToRGB, enlarge


@dataclass(frozen=True)
class FinerConfig:
    size: int  # side of the pictures, twice the generator's
    below: int  # feature maps of the generator's last resolution
    channels: int  # and of this one
    style_dim: int  # D


class FinerLevel(nn.Module):
    """The layers of one more resolution on top of a generator that is finished. They read its last
    latent, so that w+ stays what it was, and bring no noise of their own.
    """

    def __init__(self, config: FinerConfig, generator: str = ""):
        """`generator`: fingerprint of the one that it was trained on."""
        super().__init__()
        self.config, self.generator = config, generator
        d, size = config.style_dim, config.size
        self.up = StyledConv(config.below, config.channels, d, upsample=True)
        self.flat = StyledConv(config.channels, config.channels, d)
        self.to_rgb = ToRGB(config.channels, d, upsample=True)
        self.register_buffer("noise", torch.zeros(1, 1, size, size), persistent=False)

    @property
    def block(self) -> Block:
        return Block(self.up, self.flat, self.to_rgb)

    def forward(self, x: Tensor, picture: Tensor, w: Tensor) -> Tensor:
        """Maps [B, in, H, W] and picture [B, 3, H, W] of the level below, w [B, D], to the picture
        of twice the side.
        """
        for layer in (self.up, self.flat):
            x = layer(x, layer.conv.modulation(w), self.noise[..., :1, :1])
        return enlarge(picture) + self.to_rgb(x, self.to_rgb.conv.modulation(w))
