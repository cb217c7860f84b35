"""The e4e inverter (Tov et al. 2021, arXiv 2102.02766): a picture to w+, as one w plus a small
delta for each layer.

A squeeze-and-excitation ResNet (Deng et al. 2019, "IR-SE50") gives feature maps at three scales; a
small convolutional head for each layer of the generator turns one of them into a vector. Parameter
names are those of the public checkpoints; the widths are configurable, and
`EncoderConfig.infer` reads them off the tensors.

An encoder of six channels also sees what the generator makes of the latents so far, and answers
with what is to be added to them: a few passes of it are ReStyle (Alaluf et al. 2021,
arXiv 2104.02699).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import accumulate

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import BadFile
from .style_layers import EqualLinear

# Heads below COARSE read the coarsest map, those below MIDDLE the middle one, the rest the finest.
COARSE, MIDDLE = 3, 7
SQUEEZE = 16  # channels to one inside a squeeze-and-excitation block
RESTYLE_PASSES = 5  # of the public checkpoints, which do not say so


@dataclass(frozen=True)
class EncoderConfig:
    widths: tuple[int, int, int, int] = (64, 128, 256, 512)
    depths: tuple[int, int, int, int] = (3, 4, 14, 3)  # residual units in each stage
    input_size: int = 256
    layers: int = 18  # L of the generator
    style_dim: int = 512  # D of the generator
    head_width: int = 512  # feature maps inside the heads; the public networks have D
    channels: int = 3  # 6: a picture and what the generator makes of the latents so far
    # Squares of fold x fold pixels are one place of the first layer: twice the detail for hardly
    # more time where it is 2. The public networks have 1.
    fold: int = 1

    @property
    def planes(self) -> int:
        """Channels that the first convolution reads."""
        return self.channels * self.fold**2

    @classmethod
    def infer(cls, state: Mapping[str, Tensor]) -> EncoderConfig:
        """Read the widths off a checkpoint's tensors; the input side follows from the number of
        halvings in the heads and from what the first layer reads. Raises BadFile where they are not
        an e4e encoder's.
        """

        def indices(prefix: str) -> list[int]:
            names = (name.split(".") for name in state if name.startswith(prefix + "."))
            found = sorted({int(parts[1]) for parts in names})
            if not found:
                raise KeyError(prefix + ".*")
            return found

        try:
            outs = [state[f"body.{i}.res_layer.1.weight"].shape[0] for i in indices("body")]
            stages = [width for i, width in enumerate(outs) if i == 0 or width != outs[i - 1]]
            depths = tuple(outs.count(width) for width in stages)
            heads = len(indices("styles"))
            halvings = sum(
                name.startswith("styles.0.convs.") and name.endswith("weight") for name in state
            )
            head_width = state["styles.0.convs.0.weight"].shape[0]
            style_dim = state["styles.0.linear.weight"].shape[0]
            planes = state["input_layer.0.weight"].shape[1]
        except KeyError as missing:
            raise BadFile(
                f"This is no e4e encoder in a known format: it has no tensor {missing}."
            ) from None
        if len(stages) != 4:
            raise BadFile(
                "An e4e encoder has four stages of different width; "
                f"this one has the widths {stages}."
            )
        read = {c * f * f: (c, f) for c in (3, 6) for f in (1, 2)}
        if planes not in read:
            raise BadFile(f"An e4e encoder reads 3 or 6 channels; this one reads {planes}.")
        channels, fold = read[planes]
        side = (16 << halvings) * fold
        return cls(tuple(stages), depths, side, heads, style_dim, head_width, channels, fold)


class SqueezeExcite(nn.Module):
    """Weigh the channels by what they hold on average (Hu et al. 2018)."""

    def __init__(self, channels: int):
        super().__init__()
        self.fc1 = nn.Conv2d(channels, max(channels // SQUEEZE, 1), 1, bias=False)
        self.fc2 = nn.Conv2d(max(channels // SQUEEZE, 1), channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(self.fc2(F.relu(self.fc1(x.mean(dim=(2, 3), keepdim=True)))))


class ResidualUnit(nn.Module):
    """IR-SE unit: [B, in, H, W] to [B, out, H / stride, W / stride]."""

    def __init__(self, in_ch: int, out_ch: int, stride: int):
        super().__init__()
        if in_ch == out_ch:
            self.shortcut_layer = nn.MaxPool2d(1, stride)
        else:
            self.shortcut_layer = nn.Sequential(
                nn.Conv2d(in_ch, out_ch, 1, stride, bias=False), nn.BatchNorm2d(out_ch)
            )
        self.res_layer = nn.Sequential(
            nn.BatchNorm2d(in_ch),
            nn.Conv2d(in_ch, out_ch, 3, 1, 1, bias=False),
            nn.PReLU(out_ch),
            nn.Conv2d(out_ch, out_ch, 3, stride, 1, bias=False),
            nn.BatchNorm2d(out_ch),
            SqueezeExcite(out_ch),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.shortcut_layer(x) + self.res_layer(x)


class Head(nn.Module):
    """A map [B, in, side, side], halved until one pixel is left, to a vector [B, out]."""

    def __init__(self, in_ch: int, width: int, out_dim: int, side: int):
        super().__init__()
        layers = []
        for i in range(int(math.log2(side))):
            layers += [nn.Conv2d(in_ch if i == 0 else width, width, 3, 2, 1), nn.LeakyReLU()]
        self.convs = nn.Sequential(*layers)
        self.linear = EqualLinear(width, out_dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(self.convs(x).flatten(1))


class Encoder4Editing(nn.Module):
    """Pictures [B, 3, S, S] in [-1, 1] to raw codes [B, L, D]; the inversion is the raw code plus
    the mean latent. With six channels, a picture and what the generator makes of some latents, to
    what is to be added to those.
    """

    def __init__(self, config: EncoderConfig):
        super().__init__()
        self.config = config
        w = config.widths
        self.input_layer = nn.Sequential(
            nn.Conv2d(config.planes, w[0], 3, 1, 1, bias=False),
            nn.BatchNorm2d(w[0]),
            nn.PReLU(w[0]),
        )
        units, in_ch = [], w[0]
        for width, depth in zip(w, config.depths, strict=True):
            for i in range(depth):
                units.append(ResidualUnit(in_ch, width, stride=2 if i == 0 else 1))
                in_ch = width
        self.body = nn.ModuleList(units)
        coarse = config.input_size // config.fold // 16
        sides = [
            coarse if i < COARSE else 2 * coarse if i < MIDDLE else 4 * coarse
            for i in range(config.layers)
        ]
        self.styles = nn.ModuleList(
            Head(w[3], config.head_width, config.style_dim, side) for side in sides
        )
        self.latlayer1 = nn.Conv2d(w[2], w[3], 1)
        self.latlayer2 = nn.Conv2d(w[1], w[3], 1)

    def features(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The maps of the last three stages merged from coarse to fine: sides S/16, S/8, S/4."""

        def enlarge(x: Tensor, like: Tensor) -> Tensor:
            return F.interpolate(x, size=like.shape[2:], mode="bilinear", align_corners=True)

        x, stages = self.input_layer(F.pixel_unshuffle(x, self.config.fold)), []
        ends = list(accumulate(self.config.depths))
        for i, unit in enumerate(self.body, start=1):
            x = unit(x)
            if i in ends[1:]:
                stages.append(x)
        fine, middle, coarse = stages
        middle = enlarge(coarse, middle) + self.latlayer1(middle)
        return coarse, middle, enlarge(middle, fine) + self.latlayer2(fine)

    def forward(self, x: Tensor) -> Tensor:
        """One w, and for each further layer the same w plus a delta (section 4)."""
        coarse, middle, fine = self.features(x)
        w = self.styles[0](coarse)
        deltas = [
            self.styles[i](coarse if i < COARSE else middle if i < MIDDLE else fine)
            for i in range(1, self.config.layers)
        ]
        return torch.stack([w] + [w + delta for delta in deltas], dim=1)


class Inverter(nn.Module):
    """Encoder plus the mean latent it starts from, [L, D]."""

    def __init__(self, encoder: Encoder4Editing, latent_avg: Tensor, passes: int = 1):
        """`passes` of an encoder that compares; others look once."""
        super().__init__()
        self.encoder, self.passes = encoder, passes
        self.register_buffer("latent_avg", latent_avg.expand(encoder.config.layers, -1).clone())

    @property
    def input_size(self) -> int:
        return self.encoder.config.input_size

    @property
    def compares(self) -> bool:
        """Whether it looks at the generator's pictures, too."""
        return self.encoder.config.channels == 6

    def forward(
        self,
        x: Tensor,
        render: Callable[[Tensor], Tensor] | None = None,
        passes: int | None = None,
        mean_picture: Tensor | None = None,
    ) -> Tensor:
        """Pictures [B, 3, S, S] in [-1, 1] to w+ [B, L, D]. One that compares asks `render` for the
        generator's pictures, of the same side, of w+, and looks `passes` times, or as often as it
        usually does; it may be told the `mean_picture` [1, 3, S, S] that it sees first.
        """
        w = self.latent_avg.expand(len(x), -1, -1)
        if not self.compares:
            return w + self.encoder(x).float()
        for look in range(passes or self.passes):
            known = look == 0 and mean_picture is not None
            made = mean_picture.expand_as(x) if known else render(w)
            w = w + self.encoder(torch.cat([x, made], 1)).float()
        return w


class EssenceEncoder(nn.Module):
    """A picture to its essence in one pass: the second variant of the paper (ECCV 2022), whose
    zero-centred code, no mean latent added, is b itself (docs/METHOD.md, section 2).
    """

    def __init__(self, encoder: Encoder4Editing, generator: str = "", clip: str = ""):
        """`generator` and `clip` are the fingerprints of what it was trained with: a generator, and
        the image side of an image-text encoder; empty where the file did not say.
        """
        super().__init__()
        self.encoder, self.generator, self.clip = encoder, generator, clip

    @property
    def input_size(self) -> int:
        return self.encoder.config.input_size

    def forward(self, x: Tensor) -> Tensor:
        """Pictures [B, 3, S, S] in [-1, 1] to essences b [B, L, D], float32."""
        return self.encoder(x).float()


class MeanInverter(nn.Module):
    """Stands in for an encoder where there is none: every picture starts at the mean latent
    [L, D], and refinement does the rest.
    """

    input_size, compares = 256, False

    def __init__(self, latent_avg: Tensor):
        super().__init__()
        self.register_buffer("latent_avg", latent_avg.clone())

    def forward(self, x: Tensor) -> Tensor:
        """Pictures [B, 3, S, S] to w+ [B, L, D], the same for all."""
        return self.latent_avg.expand(len(x), -1, -1)
