"""The latents as one Gaussian: its moments while the encoder still moves, and a mapping network
that is exactly this Gaussian.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..models.stylegan2 import EqualLinear, Generator, MappingLayer

HEADROOM = 4.5  # standard deviations kept above zero, where leaky ReLU is straight
REFRESH = 50  # samplings between two looks at the axes


class Running(nn.Module):
    """Mean and second moment of w [N, D]; `decay` a batch, 0 for a plain mean over all that was
    added.
    """

    def __init__(self, dim: int, decay: float = 0.999):
        super().__init__()
        self.decay = decay
        self.register_buffer(
            "age", torch.tensor(REFRESH)
        )  # samplings since `root` was taken; all of it lies in a checkpoint
        self.register_buffer("root", torch.zeros(dim, dim))
        self.register_buffer("weight", torch.zeros((), dtype=torch.float64))
        self.register_buffer("first", torch.zeros(dim, dtype=torch.float64))
        self.register_buffer("second", torch.zeros(dim, dim, dtype=torch.float64))

    @torch.no_grad()
    def add(self, w: Tensor) -> None:
        w = w.double()
        for buffer, value in (
            (self.weight, w.new_tensor(float(len(w)))),
            (self.first, w.sum(0)),
            (self.second, w.T @ w),
        ):
            buffer.mul_(self.decay or 1.0).add_(value)

    @property
    def mean(self) -> Tensor:
        return (self.first / self.weight).float()

    def covariance(self) -> Tensor:
        mean = self.first / self.weight
        return (self.second / self.weight - torch.outer(mean, mean)).float()

    @torch.no_grad()
    def sample(self, count: int, rng: torch.Generator) -> Tensor:
        """w [count, D]; the axes are looked at anew every 50 samplings."""
        if self.age >= REFRESH:
            self.root.copy_(root(self.covariance()))
            self.age.zero_()
        self.age += 1
        return (
            self.mean + torch.randn(count, len(self.first), generator=rng).to(self.mean) @ self.root
        )


def root(covariance: Tensor) -> Tensor:
    """R [D, D] with R^T R = covariance; z @ R has it."""
    variance, directions = torch.linalg.eigh(covariance.double())
    return (variance.clamp(min=0).sqrt()[:, None] * directions.T).float()


@torch.no_grad()
def install(generator: Generator, mean: Tensor, covariance: Tensor) -> Tensor:
    """Make the mapping network N(mean, covariance), and `mean` its average. Returns the mean that
    it has in the end.

    A leaky ReLU is a straight line where its input is positive, so all of w is moved up until 4.5
    standard deviations lie above zero; the modulation's biases take the move back. The caller adds
    the difference of the means to whatever else makes latents.
    """
    layers = [module for module in generator.style if isinstance(module, MappingLayer)]
    if len(layers) < 2:
        raise ValueError(f"A Gaussian needs two mapping layers or more, not {len(layers)}.")
    shift = (HEADROOM * covariance.diagonal().clamp(min=0).sqrt() - mean).clamp(min=0)
    for module in generator.modules():
        if isinstance(module, EqualLinear) and not isinstance(module, MappingLayer):
            module.bias -= (module.weight * module.scale) @ shift / module.lr
    mean = mean + shift
    eye = torch.eye(len(mean))
    for layer in layers:
        _straight(layer, eye, torch.zeros_like(mean))
    _straight(layers[0], eye, torch.full_like(mean, HEADROOM))
    reach = root(covariance).T
    _straight(layers[-1], reach, mean - HEADROOM * reach.sum(1))
    generator.latent_avg.copy_(mean.expand_as(generator.latent_avg))
    return mean


def _straight(layer: MappingLayer, matrix: Tensor, offset: Tensor) -> None:
    """x -> matrix x + offset, as long as that is positive: the activation's gain is divided out."""
    gain = 2**0.5
    layer.weight.copy_(matrix / (gain * layer.scale))
    layer.bias.copy_(offset / (gain * layer.lr))
