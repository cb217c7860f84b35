"""StyleGAN2's synthesis with frozen weights, faster than layer by layer.

The same pictures and the same gradients of w+ as the plain forward of models/stylegan2.py, to
rounding: the styles of all layers come from two batched products, what follows from the weights
alone is computed once, and each pair of a convolution and its ToRGB is one operation.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from . import OutputSkip, WeightCache, cuda_synthesis, is_learned, styled_conv, styled_conv_to_rgb
from .dispatch import takes_cuda_kernels
from .layers import Block, ModulatedConv, frozen_weights, stacked_energies, stacked_modulations
from .winograd import BLUR


class FusedSynthesis:
    """Callable: constant input and w+ to pictures, by the modules of `blocks`, from 4x4 up."""

    def __init__(self, blocks: Sequence[Block]):
        self.blocks = blocks
        self.layers = [layer for block in blocks for layer in block if layer is not None]
        self.styles = BatchedStyles([layer.conv for layer in self.layers])
        self.caches = [WeightCache() for _ in self.layers]
        self.prepared = WeightCache()  # for a GPU
        # Which of the L latents each layer sees: the colours of a block and the first layer of the
        # next see the same.
        self.seen = [0, 1]
        for i in range(len(blocks) - 1):
            self.seen += [2 * i + 1, 2 * i + 2, 2 * i + 3]

    def applies(self) -> bool:
        """Whether the weights are frozen; under torch.compile the plain forward is better."""
        return not torch.compiler.is_compiling() and not is_learned(frozen_weights(self.blocks))

    def __call__(
        self, constant: Tensor, noises: Sequence[Tensor], w_plus: Tensor, blocks: int
    ) -> Tensor:
        """`constant` [1, C, 4, 4], `noises` [1, 1, H, W] of each styled convolution, w+ [B, L, D],
        to the picture [B, 3, R, R] of the first `blocks` blocks, float32.
        """
        if takes_cuda_kernels(w_plus):
            return cuda_synthesis.synthesize(
                self.blocks[:blocks], constant, noises, w_plus, self.prepared
            )
        return self.maps(constant, noises, w_plus, blocks)[1]

    def maps(
        self, constant: Tensor, noises: Sequence[Tensor], w_plus: Tensor, blocks: int
    ) -> tuple[Tensor, Tensor]:
        """The last block's feature maps [B, C, R, R] and the picture, by the CPU's kernels."""
        styles, scales = self.styles(w_plus[:, self.seen])
        layers = iter(zip(self.caches, styles, scales, strict=True))
        noise = iter(noises)
        x, picture = constant.expand(len(w_plus), -1, -1, -1), None
        for up, flat, to_rgb in self.blocks[:blocks]:
            if up is not None:
                cache, style, scale = next(layers)
                strength = cache("noise", torch.mul, up.noise.weight, next(noise))
                weight, bias = up.conv.weight[0], up.activate.bias
                x = styled_conv(x, weight, style, scale, bias, strength, BLUR, cache)
            cache, style, scale = next(layers)
            strength = cache("noise", torch.mul, flat.noise.weight, next(noise))
            weight, bias = flat.conv.weight[0], flat.activate.bias
            rgb_style, rgb_bias = next(layers)[1], to_rgb.bias[0, :, 0, 0]
            skip = OutputSkip(to_rgb.conv.weight[0], rgb_style, rgb_bias, picture, BLUR)
            x, picture = styled_conv_to_rgb(x, weight, style, scale, bias, strength, skip, cache)
        return x, picture


class BatchedStyles:
    """Modulation and demodulation of n convolutions in two batched products: many small ones would
    take longer.
    """

    def __init__(self, convs: Sequence[ModulatedConv]):
        self.convs, self.cache = convs, WeightCache()

    def __call__(self, w: Tensor) -> tuple[list[Tensor], list[Tensor | None]]:
        """w [B, n, D], one for each convolution, to their styles s [B, in], with the weights' scale
        in them, and, where they demodulate, 1 / sigma [B, out] (eq. 3), float32, else None.
        """
        parts = [
            part
            for conv in self.convs
            for part in (conv.weight, conv.modulation.weight, conv.modulation.bias)
        ]
        weight, bias, energy = self.cache("stacked", self._stack, *parts)
        wide = torch.baddbmm(bias, w.transpose(0, 1), weight)  # [n, B, widest in]
        demodulating = [i for i, conv in enumerate(self.convs) if conv.demodulate]
        inverse = torch.rsqrt(wide[demodulating].float().square() @ energy + 1e-8)
        scales: list[Tensor | None] = [None] * len(self.convs)
        for i, scale in zip(demodulating, inverse, strict=True):
            scales[i] = scale[:, : self.convs[i].weight.shape[1]]
        styles = [
            style[:, : conv.weight.shape[2]] for style, conv in zip(wide, self.convs, strict=True)
        ]
        return styles, scales

    def _stack(self, *_: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Weights and biases of the n modulations, and the energies of the m convolutions that
        demodulate.
        """
        out, inner = (max(conv.weight.shape[axis] for conv in self.convs) for axis in (1, 2))
        demodulating = [conv for conv in self.convs if conv.demodulate]
        return (
            *stacked_modulations(self.convs, inner),
            stacked_energies(demodulating, inner, out),
        )
