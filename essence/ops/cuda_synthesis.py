"""StyleGAN2's synthesis with frozen weights on a GPU: cuDNN's convolutions, and between two of them
one kernel of ours (kernels.cu).

Maps have their channels innermost from the constant on. A layer's kernel demodulates, adds noise
and bias, leaks, modulates for the next layer and sums up the colours in one pass. An upsampling
convolution and the blur behind it are one ordinary convolution, which gives the four pixels that
each pixel becomes beside each other, as channels. Of each layer only what its convolution gave is
kept for the way back; weights are cast and laid out once. There are first derivatives only, those
of w+.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from . import cuda
from .layers import Block, frozen_weights, stacked_energies, stacked_modulations
from .reference import GAIN, LEAK
from .weight_cache import WeightCache
from .winograd import BLUR

# Pixels that one thread adds up on the way back: at least so many, and at most so many parts.
TILE, TILES = 32, 2048
SLOPE = (ctypes.c_float(LEAK), ctypes.c_float(GAIN))
TAPS = (ctypes.c_float * len(BLUR))(*BLUR)
LAST = torch.channels_last


class Layer(NamedTuple):
    """A styled convolution, and the colours behind it where there are any."""

    weight: Tensor  # [out, in, 3, 3]; of an upsampling one [4 out, in, 3, 3]
    back: Tensor  # of the convolution that gives its gradient, [in, out or 4 out, 3, 3]
    up: bool
    noise: Tensor  # [1, 1, H, W], multiplied by its strength, float32
    bias: Tensor  # [out], float32
    rgb_weight: Tensor | None  # [3, out], float32
    rgb_bias: Tensor | None  # [3], float32


class Network(NamedTuple):
    """All that follows from the weights of m styled convolutions and k ToRGBs."""

    start: Tensor  # the constant [1, C, 4, 4]
    layers: list[Layer]  # m of them; every other one has colours
    weight: Tensor  # of the modulations, [m + k, D, width]
    bias: Tensor  # [m + k, 1, width]
    energy: Tensor  # of the convolutions' weights, [m, width, width]


def synthesize(
    blocks: Sequence[Block],
    constant: Tensor,
    noises: Sequence[Tensor],
    w_plus: Tensor,
    cache: WeightCache,
) -> Tensor:
    """As FusedSynthesis; in the type of autocast where that is on, the picture in float32."""
    on, kind = torch.is_autocast_enabled("cuda"), torch.get_autocast_dtype("cuda")
    dtype = kind if on and w_plus.is_cuda else torch.float32
    weights = [constant, *noises, *frozen_weights(blocks)]
    network = cache(
        f"{len(blocks)} blocks, {dtype}",
        lambda *_: prepare(blocks, constant, noises, dtype),
        *weights,
    )
    return _Synthesis.apply(w_plus, network)


def prepare(
    blocks: Sequence[Block], constant: Tensor, noises: Sequence[Tensor], dtype: torch.dtype
) -> Network:
    """Weights in `dtype` with their channels innermost, everything else in float32."""
    layers, convs, noise = [], [], iter(noises)
    for up, flat, to_rgb in blocks:
        for layer in filter(None, (up, flat)):
            weight, is_up = layer.conv.weight[0].detach(), layer is up
            weight = split_by_parity(merged_with_blur(weight)) if is_up else weight
            rgb = () if is_up else (to_rgb.conv.weight[0, :, :, 0, 0], to_rgb.bias[0, :, 0, 0])
            strength = (layer.noise.weight * next(noise)).detach().float().contiguous()
            floats = [each.detach().float().contiguous() for each in (layer.activate.bias, *rgb)]
            colours = floats[1:] or [None, None]
            weights = (weight, weight.flip(2, 3).transpose(0, 1))
            weights = [each.to(dtype).contiguous(memory_format=LAST) for each in weights]
            layers.append(Layer(*weights, is_up, strength, floats[0], *colours))
            convs.append(layer.conv)
    rgbs = [block.to_rgb.conv for block in blocks]
    width = max(max(conv.weight.shape[1:3]) for conv in convs)
    tables = stacked_modulations([*convs, *rgbs], width)
    weight, bias, energy = (
        each.detach().float() for each in (*tables, stacked_energies(convs, width, width))
    )
    start = constant.detach().float().contiguous(memory_format=LAST)
    return Network(start, layers, weight, bias, energy)


def merged_with_blur(weight: Tensor) -> Tensor:
    """Weights [out, in, 3, 3] of a transposed convolution with stride 2 that a blur follows, to
    those of one, [in, out, 6, 6], stride 2 and padding 2, that gives the same.
    """
    taps = torch.tensor(BLUR, device=weight.device)
    out, inner = weight.shape[:2]
    single = weight.float().transpose(0, 1).reshape(-1, 1, 3, 3)
    return F.conv2d(single, torch.outer(taps, taps)[None, None], padding=3).view(inner, out, 6, 6)


def split_by_parity(weight: Tensor) -> Tensor:
    """Weights [in, out, 6, 6] of a transposed convolution with stride 2 and padding 2, to those of
    an ordinary one, [4 out, in, 3, 3], padding 1, that gives the pixels of even and odd rows and
    columns as channels of their own.

    On an H200 in bfloat16 all of a 1024-pixel network's took 2.1 ms forward and back instead of 7.2
    (docs/LOG.md, 2026-11-27).
    """
    taps = [weight[:, :, y::2, x::2].flip(2, 3) for y in (0, 1) for x in (0, 1)]
    return torch.cat(taps, 1).transpose(0, 1)


class _Synthesis(Function):
    @staticmethod
    def forward(ctx, w_plus: Tensor, network: Network) -> Tensor:
        w, layers, keeps = w_plus.detach().float(), network.layers, ctx.needs_input_grad[0]
        with torch.autocast("cuda", enabled=False):
            styles, scales = styles_and_scales(w, network)
            channels = network.start.shape[1]
            x = (network.start * styles[0, :, :channels, None, None]).to(layers[0].weight.dtype)
            kept, picture = [], None
            for i, layer in enumerate(layers):
                conv = F.conv2d(x.contiguous(memory_format=LAST), layer.weight, padding=1)
                conv = conv.contiguous(memory_format=LAST)
                x, picture = between(conv, layer, factors(network, styles, scales, i), picture)
                kept += [conv] if keeps else []
        ctx.save_for_backward(styles, scales, *kept)
        ctx.network, ctx.latents = network, w.shape[1]
        return picture

    @staticmethod
    @once_differentiable
    def backward(ctx, g_picture: Tensor) -> tuple[Tensor, None]:
        network, (styles, scales, *kept) = ctx.network, ctx.saved_tensors
        g_picture, g_x = g_picture.float().contiguous(), None
        g_styles, g_scales = torch.zeros_like(styles), torch.zeros_like(scales)
        sums, places = room_for_sums(kept, network.layers)
        for i, layer in reversed(list(enumerate(network.layers))):
            conv, here = kept.pop(), factors(network, styles, scales, i)
            g_conv = between_back(conv, layer, here, g_x, g_picture, sums, places[i])
            g_x = F.conv2d(g_conv, layer.back, padding=1).contiguous(memory_format=LAST)
            if layer.up:  # from here on, the picture below
                sides = tuple(side // 2 for side in g_picture.shape[2:])
                g_picture = cuda.resample(g_picture, BLUR, 1, 2, len(BLUR) - 3, sides)
        sizes = [len(places), *g_scales.shape[1:], *(each for place in places for each in place)]
        table = (ctypes.c_long * len(sizes))(*sizes)
        cuda.call(sums, "essence_synthesis_sums", sums, g_styles, g_scales, table)
        g_styles[0, :, : g_x.shape[1]] = (g_x * network.start).sum((2, 3))
        g_w = gradient_of_w(g_styles, g_scales, styles, scales, network, ctx.latents)
        return g_w, None


class Factors(NamedTuple):
    """Of a layer, [B, width] each; None: nothing follows, or no colours."""

    scale: Tensor
    next: Tensor | None
    rgb: Tensor | None


def factors(network: Network, styles: Tensor, scales: Tensor, i: int) -> Factors:
    count = len(network.layers)
    following = styles[i + 1] if i + 1 < count else None
    rgb = None if network.layers[i].up else styles[count + i // 2]
    return Factors(scales[i], following, rgb)


def styles_and_scales(w: Tensor, network: Network) -> tuple[Tensor, Tensor]:
    """w+ [B, L, D] to the styles of the m convolutions and the k ToRGBs, [m + k, B, width], and the
    m convolutions' 1 / sigma (eq. 3), [m, B, width].

    Convolution i sees latent i, ToRGB i latent 2 i + 1.
    """
    count = len(network.layers)
    seen = torch.cat([w[:, :count], w[:, 1 : count + 1 : 2]], 1)
    styles = torch.baddbmm(network.bias, seen.transpose(0, 1), network.weight)
    return styles, torch.rsqrt(torch.bmm(styles[:count].square(), network.energy) + 1e-8)


def gradient_of_w(
    g_styles: Tensor,
    g_scales: Tensor,
    styles: Tensor,
    scales: Tensor,
    network: Network,
    latents: int,
) -> Tensor:
    """The derivative of `styles_and_scales`, [B, L, D] for L `latents`."""
    count = len(network.layers)
    # Of (s^2 E + eps)^(-1/2) in s: -s (g scale^3) E^T.
    inner = torch.bmm(g_scales * scales.pow(3), network.energy.transpose(1, 2))
    g_styles[:count].addcmul_(styles[:count], inner, value=-1)
    g_seen = torch.bmm(g_styles, network.weight.transpose(1, 2)).transpose(0, 1)
    g_w = F.pad(g_seen[:, :count], (0, 0, 0, latents - count))
    g_w[:, 1 : count + 1 : 2] += g_seen[:, count:]
    return g_w


def between(
    conv: Tensor, layer: Layer, given: Factors, below: Tensor | None
) -> tuple[Tensor | None, Tensor | None]:
    """What a convolution gave to what the next one reads, [B, C, H, W], and, behind a layer with
    colours, to the picture so far, float32; else that is `below` as it was.
    """
    count, channels, height, width = sizes = map_sizes(conv, layer)
    out = None
    if given.next is not None:
        out = torch.empty(sizes, dtype=conv.dtype, device=conv.device, memory_format=LAST)
    picture = below
    if given.rgb is not None:
        picture = conv.new_empty(count, 3, height, width, dtype=torch.float32)
    cuda.call(
        conv,
        "essence_synthesis",
        conv,
        given.scale,
        layer.noise,
        layer.bias,
        given.next,
        out,
        given.rgb,
        layer.rgb_weight,
        layer.rgb_bias,
        None if given.rgb is None else below,
        None if given.rgb is None else picture,
        (ctypes.c_int * 6)(count, height, width, channels, given.scale.shape[1], layer.up),
        TAPS,
        *SLOPE,
    )
    return out, picture


class Place(NamedTuple):
    """Of a layer's sums, [B, 3, channels, tiles], among all layers'."""

    channels: int
    tiles: int
    start: int


def map_sizes(conv: Tensor, layer: Layer) -> tuple[int, int, int, int]:
    """B, C, H and W of a layer's map, of what its convolution gave."""
    count, channels, height, width = conv.shape
    return (count, channels // 4, 2 * height, 2 * width) if layer.up else tuple(conv.shape)


def room_for_sums(maps: Sequence[Tensor], layers: Sequence[Layer]) -> tuple[Tensor, list[Place]]:
    """Room for what the way back adds up for each tile of pixels, and where in it each of the
    `layers`, whose convolutions gave the `maps`, finds its own.
    """
    places, start = [], 0
    for count, channels, height, width in map(map_sizes, maps, layers):
        tiles = -(-height * width // pixels_of_a_tile(height * width))
        places.append(Place(channels, tiles, start))
        start += count * 3 * channels * tiles
    return maps[0].new_empty(start, dtype=torch.float32), places


def pixels_of_a_tile(pixels: int) -> int:
    return max(TILE, -(-pixels // TILES))


def between_back(
    conv: Tensor,
    layer: Layer,
    given: Factors,
    g_out: Tensor | None,
    g_picture: Tensor,
    sums: Tensor,
    place: Place,
) -> Tensor:
    """The gradient of what a convolution gave; leaves the layer's `sums` at their place."""
    count, channels, height, width = map_sizes(conv, layer)
    g_conv = torch.empty_like(conv)
    cuda.call(
        conv,
        "essence_synthesis_back",
        conv,
        given.scale,
        layer.noise,
        layer.bias,
        given.next,
        g_out,
        given.rgb,
        layer.rgb_weight,
        None if given.rgb is None else g_picture,
        g_conv,
        sums[place.start :],
        place.tiles,
        pixels_of_a_tile(height * width),
        (ctypes.c_int * 6)(count, height, width, channels, given.scale.shape[1], layer.up),
        *SLOPE,
    )
    return g_conv
