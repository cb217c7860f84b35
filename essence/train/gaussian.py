"""The latents as one Gaussian: its moments while the encoder is being trained, and a mapping
network that samples exactly this Gaussian.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..models.style_layers import EqualLinear, MappingLayer
from ..models.stylegan2 import Generator

HEADROOM = 4.5  # standard deviations kept above zero, where leaky ReLU is linear


class RunningMoments(nn.Module):
    """Mean and second moment of w [N, D], exponentially weighted with `decay` for each batch; with
    decay 0 plain means over all that was added.
    """

    def __init__(self, dim: int, decay: float = 0.999):
        super().__init__()
        self.decay = decay
        # Buffers, because a resumed run needs all of them.
        self.register_buffer("root", torch.zeros(dim, dim))
        self.register_buffer("weight", torch.zeros((), dtype=torch.float64))
        self.register_buffer("first", torch.zeros(dim, dtype=torch.float64))
        self.register_buffer("second", torch.zeros(dim, dim, dtype=torch.float64))

    @torch.no_grad()
    def add(self, w: Tensor, counts: Tensor | None = None) -> None:
        """Rows w [N, D], or those of them of which `counts`, bool [N], says so."""
        w = w.double()
        share = w.new_ones(len(w)) if counts is None else counts.double()
        weighted = w * share[:, None]
        decay = self.decay or 1.0
        self.weight.mul_(decay).add_(share.sum())
        self.first.mul_(decay).add_(weighted.sum(0))
        self.second.mul_(decay).add_(weighted.T @ w)

    @property
    def mean(self) -> Tensor:
        return (self.first / self.weight).float()

    def covariance(self) -> Tensor:
        mean = self.first / self.weight
        return (self.second / self.weight - torch.outer(mean, mean)).float()

    @torch.no_grad()
    def update_root(self) -> None:
        """Have `sample` follow what has been added so far."""
        self.root.copy_(covariance_root(self.covariance()))

    @torch.no_grad()
    def sample(self, count: int, rng: torch.Generator) -> Tensor:
        """w [count, D] from the Gaussian as of the last `update_root`, around today's mean."""
        z = torch.randn(count, len(self.first), generator=rng, device=rng.device)
        return self.mean + z @ self.root


def covariance_root(covariance: Tensor) -> Tensor:
    """R [D, D] with R^T R = covariance: the covariance of z @ R for standard normal z."""
    variance, directions = torch.linalg.eigh(covariance.double())
    return (variance.clamp(min=0).sqrt()[:, None] * directions.T).float()


@torch.no_grad()
def install_gaussian(generator: Generator, mean: Tensor, covariance: Tensor) -> Tensor:
    """Make the mapping network N(mean, covariance), in place, and `mean` its average. Returns the
    mean that it has in the end.

    A leaky ReLU is a straight line where its input is positive, so all of w is moved up until 4.5
    standard deviations lie above zero; the modulation's biases take the move back. The caller adds
    the difference of the means to whatever else makes latents.
    """
    layers = [module for module in generator.style if isinstance(module, MappingLayer)]
    if len(layers) < 2:
        raise ValueError(f"A Gaussian needs two mapping layers or more, not {len(layers)}.")

    def set_linear(layer: MappingLayer, matrix: Tensor, offset: Tensor) -> None:
        """x -> matrix x + offset where that is positive: the activation's gain is divided out."""
        gain = 2**0.5
        layer.weight.copy_(matrix / (gain * layer.scale))
        layer.bias.copy_(offset / (gain * layer.lr))

    shift = (HEADROOM * covariance.diagonal().clamp(min=0).sqrt() - mean).clamp(min=0)
    for module in generator.modules():
        if isinstance(module, EqualLinear) and not isinstance(module, MappingLayer):
            module.bias -= (module.weight * module.scale) @ shift / module.lr
    mean = mean + shift
    identity = torch.eye(len(mean))
    set_linear(layers[0], identity, torch.full_like(mean, HEADROOM))
    for layer in layers[1:-1]:
        set_linear(layer, identity, torch.zeros_like(mean))
    root = covariance_root(covariance).T
    set_linear(layers[-1], root, mean - HEADROOM * root.sum(1))
    generator.latent_avg.copy_(mean.expand_as(generator.latent_avg))
    return mean
