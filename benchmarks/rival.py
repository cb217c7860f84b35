"""The rival: the released optimiser's step, written plainly after the paper and a description of
the code, with its own inefficiencies.

It renders and encodes the sources anew in every step, goes through a picture seven times as large
on the way to CLIP, computes gradients of all weights, holds four pictures' activations at once and
works in float32. Its network's layers are plain torch as well: modulated weights for each picture
(a grouped convolution) and a resampling filter as a depthwise convolution.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from essence.methods.batching import MAPS
from essence.models.style_layers import BLUR, ModulatedConv, StyledConv, ToRGB
from essence.models.stylegan2 import Generator

ENLARGE = 7  # nearest repeat before the average pooling


def step_memory(sources: int, generator: Generator) -> int:
    """Bytes that a step takes, roughly: feature maps and their gradients, and three copies of the
    enlarged pictures.
    """
    config = generator.config
    maps = sum(width * side * side for side, width in config.channels.items())
    return 4 * sources * (MAPS * maps + 3 * 3 * (ENLARGE * config.size) ** 2)


class Rival:
    """Direction b and one coefficient for each source; `step()` does what one step of the released
    loop does and returns its loss. `z` [N, L, D] are the sources, `target` [1, E] an embedding.
    """

    def __init__(
        self,
        generator: Generator,
        visual: torch.nn.Module,
        clip_size: int,
        z: Tensor,
        target: Tensor,
    ):
        self.generator, self.visual, self.clip_size, self.z = generator, visual, clip_size, z
        self.target = target
        self.b = torch.zeros_like(z[0]).normal_(0, 0.1).requires_grad_()
        self.c = torch.ones(len(z), 1, 1, device=z.device, requires_grad=True)
        self.optimizer = torch.optim.Adam([self.b], lr=0.2, weight_decay=0.003)
        for network in (generator, visual):
            network.requires_grad_(True)

    def step(self) -> float:
        with torch.no_grad():
            before = self._encode(synthesis(self.generator, self.z))
        after = self._encode(synthesis(self.generator, self.z + self.c * self.b))
        d = F.normalize(after, dim=-1) - F.normalize(before, dim=-1)
        n = len(d)
        pairs = [1 - F.cosine_similarity(d[i], d[j], dim=0) for i in range(n) for j in range(i)]
        loss = 1 - F.cosine_similarity(after, self.target).mean()
        if pairs:
            loss = loss + 0.5 * torch.stack(pairs).mean()
        for network in (self.generator, self.visual):
            network.zero_grad(set_to_none=True)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        walk = torch.optim.Adam([self.c], lr=0.2)  # built anew in every step
        walk.step()
        self.c.grad = None
        return loss.item()

    def _encode(self, images: Tensor) -> Tensor:
        large = images.repeat_interleave(ENLARGE, 2).repeat_interleave(ENLARGE, 3)
        return self.visual(F.avg_pool2d(large, large.shape[-1] // self.clip_size))


def synthesis(generator: Generator, w: Tensor) -> Tensor:
    """The generator's picture [B, 3, S, S] of w+ [B, L, D] as plain code computes it: each picture
    with weights of its own.
    """
    g = generator
    x = _styled(g.conv1, g.input.input.expand(len(w), -1, -1, -1), w[:, 0], g.noises.noise_0)
    picture = _to_rgb(g.to_rgb1, x, w[:, 1], None)
    for i, to_rgb in enumerate(g.to_rgbs):
        x = _styled(g.convs[2 * i], x, w[:, 2 * i + 1], getattr(g.noises, f"noise_{2 * i + 1}"))
        x = _styled(g.convs[2 * i + 1], x, w[:, 2 * i + 2], getattr(g.noises, f"noise_{2 * i + 2}"))
        picture = _to_rgb(to_rgb, x, w[:, 2 * i + 3], picture)
    return picture


def _styled(layer: StyledConv, x: Tensor, w: Tensor, noise: Tensor) -> Tensor:
    x = _modulated(layer.conv, x, w) + layer.noise.weight * noise
    return F.leaky_relu(x + layer.activate.bias[:, None, None], 0.2) * 2**0.5


def _to_rgb(layer: ToRGB, x: Tensor, w: Tensor, skip: Tensor | None) -> Tensor:
    rgb = _modulated(layer.conv, x, w) + layer.bias
    if skip is None:
        return rgb
    b, c, height, width = skip.shape
    spread = F.pad(skip.view(b, c, height, 1, width, 1), (0, 1, 0, 0, 0, 1))
    return rgb + _filter(spread.view(b, c, 2 * height, 2 * width), (2, 1))


def _modulated(conv: ModulatedConv, x: Tensor, w: Tensor) -> Tensor:
    b, c, height, width = x.shape
    # [B, out, in, k, k]
    weight = conv.scale * conv.weight * conv.modulation(w)[:, None, :, None, None]
    out, k = weight.shape[1], weight.shape[-1]
    if k > 1:  # colours are not demodulated
        weight = weight * torch.rsqrt(weight.square().sum((2, 3, 4), keepdim=True) + 1e-8)
    x = x.reshape(1, b * c, height, width)
    if conv.upsample:
        transposed = weight.transpose(1, 2).reshape(b * c, out, k, k)
        x = F.conv_transpose2d(x, transposed, stride=2, groups=b)
        return _filter(x.view(b, out, *x.shape[2:]), (1, 1))
    x = F.conv2d(x, weight.view(b * out, c, k, k), padding=k // 2, groups=b)
    return x.view(b, out, height, width)


def _filter(x: Tensor, pad: tuple[int, int]) -> Tensor:
    taps = torch.tensor(BLUR, device=x.device)
    kernel = torch.outer(taps, taps).expand(x.shape[1], 1, -1, -1)
    return F.conv2d(F.pad(x, (*pad, *pad)), kernel, groups=x.shape[1])
