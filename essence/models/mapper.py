"""From the image-text space to the generator's latents and styles, without optimisation.

A reconstruction of CSLA (arXiv 2210.04506), whose code is not public: widths, losses and centres
are ours (docs/METHOD.md, section 3). What is mapped are residuals: an embedding minus a centre
becomes a shift of w, and a shift of w becomes a shift of every layer's style.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .latents import LatentAxes


@dataclass(frozen=True)
class MapperConfig:
    embed_dim: int  # E
    style_dim: int  # D
    axes: int  # K, of the latents
    width: int  # of the hidden layers
    depth: int  # hidden layers
    styles: tuple[int, ...] = ()  # width of each modulated convolution's style; none: w alone
    essences: bool = False  # whether it says an essence encoder's answers too


class Mapper(nn.Module):
    """`forward`: embeddings minus their centre to shifts of w. `style_shifts`: those to shifts of
    the styles, where the mapper has learned them.
    """

    def __init__(self, config: MapperConfig, generator: str = "", clip: str = ""):
        """`generator` and `clip` are the fingerprints of what it was trained for: a generator, and
        the image side of an image-text encoder.
        """
        super().__init__()
        self.config, self.generator, self.clip = config, generator, clip
        e, k, width = config.embed_dim, config.axes, config.width
        self.register_buffer("centre", torch.zeros(e))  # of the unit embeddings of pictures
        self.register_buffer("spread", torch.ones(()))  # their mean distance to it
        self.register_buffer("axes", torch.zeros(k, config.style_dim))  # LatentAxes.axes
        sides = [e, *[width] * config.depth]

        def perceptron() -> nn.Sequential:
            hidden = [
                layer
                for a, b in zip(sides, sides[1:], strict=False)
                for layer in (nn.Linear(a, b), nn.LeakyReLU(0.2))
            ]
            return nn.Sequential(*hidden, nn.Linear(sides[-1], k))

        self.to_w = perceptron()
        self.to_essence = perceptron() if config.essences else None
        self.to_styles = nn.ModuleList(nn.Linear(k, width) for width in config.styles)
        # Adaptive style mixing: from the shift of w one factor for each layer's style.
        if config.styles:
            self.mixing = nn.Sequential(
                nn.Linear(k, 64), nn.LeakyReLU(0.2), nn.Linear(64, len(config.styles))
            )
        for i, count in enumerate(config.styles):  # standard deviation of every style
            self.register_buffer(f"deviation_{i}", torch.ones(count))

    def coordinates(self, residual: Tensor) -> Tensor:
        """Unit embeddings minus `centre` [B, E] to a shift of w in standard deviations along the
        axes, [B, K].
        """
        unit = (len(self.centre) ** 0.5) / self.spread
        return self.to_w(residual * unit)

    def forward(self, residual: Tensor) -> Tensor:
        """Unit embeddings minus `centre`, or differences of embeddings, [B, E] to shifts of w
        [B, D].
        """
        return self.coordinates(residual) @ self.axes

    def essence_coordinates(self, residual: Tensor) -> Tensor:
        """Unit embeddings minus `centre` [B, E] to essences along the axes, the same for every
        layer, [B, K]; for mappers that have learned them.
        """
        return self.to_essence(residual * (len(self.centre) ** 0.5) / self.spread)

    def style_shifts(self, coordinates: Tensor) -> list[Tensor]:
        """Shifts of w [B, K] along the axes to shifts of the styles, [B, in] each, in the order of
        `Generator.styles`; none where it has learned none.
        """
        if not self.config.styles:
            return []
        factors = 2 * torch.sigmoid(self.mixing(coordinates)).unsqueeze(-1)  # [B, layers, 1]
        return [
            factors[:, i] * layer(coordinates) * deviation
            for i, (layer, deviation) in enumerate(
                zip(self.to_styles, self.deviations, strict=True)
            )
        ]

    @property
    def deviations(self) -> list[Tensor]:
        """Of the styles: [in] of each layer."""
        return [getattr(self, f"deviation_{i}") for i in range(len(self.to_styles))]

    def residual(self, embedding: Tensor) -> Tensor:
        """Embeddings of pictures [..., E], of any length, as what `forward` takes."""
        return F.normalize(embedding, dim=-1) - self.centre

    def shift(self, residual: Tensor) -> Tensor:
        """The mapped residual [E] minus the mapped centre, [D]: no residual is no shift."""
        both = torch.stack([residual, torch.zeros_like(residual)])
        mapped, centre = self(both.to(self.centre))
        return mapped - centre

    def essence(self, residual: Tensor) -> Tensor:
        """As `shift`, but how far others go: what an essence encoder would say, [D]."""
        both = torch.stack([residual, torch.zeros_like(residual)])
        mapped, centre = self.essence_coordinates(both.to(self.centre)) @ self.axes
        return mapped - centre


def new_mapper(
    axes: LatentAxes,
    embeddings: Tensor,
    width: int,
    depth: int,
    styles: list[Tensor],
    generator: str,
    clip: str,
    essences: bool = False,
) -> Mapper:
    """An untrained mapper with the moments of samples: unit embeddings [N, E], and their `styles`
    [N, in] of each layer (none: w alone).
    """
    k, d = axes.axes.shape
    widths = tuple(style.shape[1] for style in styles)
    config = MapperConfig(embeddings.shape[1], d, k, width, depth, widths, essences)
    mapper = Mapper(config, generator, clip)
    mapper.centre.copy_(embeddings.mean(0))
    mapper.spread.copy_((embeddings - mapper.centre).norm(dim=1).square().mean().sqrt())
    mapper.axes.copy_(axes.axes)
    for i, style in enumerate(styles):
        mapper.deviations[i].copy_(style.std(0).clamp(min=1e-6))
    return mapper
