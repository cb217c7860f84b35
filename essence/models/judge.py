"""A judge that takes no part in learning: a small convolutional network that reads age, sex and
group off a face, and what is known of its errors.

Nothing is optimised against it. It looks at 64 pixels of the inner face, was trained on labels by
people (FairFace, arXiv 1908.04913), and shares neither architecture nor teacher with the
image-text encoder.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..pictures.tensors import resample
from .identity import face_chip

FRAME, SIDE = 72, 64  # the chip's side, and that of its middle, which the network reads
GROUPS = ("white", "black", "asian", "indian", "latino", "middle eastern")
# What it reads: age as a share of OLDEST years, the others as probabilities.
READ = ("age", "female", "white", "black", "asian", "indian")
OLDEST = 75.0


@dataclass(frozen=True)
class JudgeConfig:
    widths: tuple[int, ...] = (24, 48, 88, 144)
    # Attributes that the statistics are about: READ, and others that are measured (see
    # `evaluate.judging`).
    names: tuple[str, ...] = READ


class Stage(nn.Module):
    """Half the sides and another width, then a residual block: [B, in, H, W] to
    [B, width, H / 2, W / 2].
    """

    def __init__(self, in_ch: int, width: int):
        super().__init__()
        self.down = nn.Conv2d(in_ch, width, 3, 2, 1, bias=False)
        self.conv1 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.norms = nn.ModuleList(nn.BatchNorm2d(width) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norms[0](self.down(x)))
        y = F.relu(self.norms[1](self.conv1(x)))
        return F.relu(x + self.norms[2](self.conv2(y)))


class Judge(nn.Module):
    """`forward`: aligned pictures [B, 3, H, W] in [-1, 1] to the attributes READ, [B, 6].

    `centre` and `scale` [K] are median and spread of the attributes `config.names` over people;
    `reliability` [K] says how much of each survives what does not change a face: the correlation
    with people's labels where there are any, else between a picture and a degraded copy.
    """

    def __init__(self, config: JudgeConfig):
        super().__init__()
        self.config = config
        widths = (3, *config.widths)
        self.stages = nn.Sequential(
            *(Stage(a, b) for a, b in zip(widths, widths[1:], strict=False))
        )
        self.head = nn.Linear(widths[-1], 2 + len(GROUPS))
        for name in ("centre", "scale", "reliability"):
            self.register_buffer(name, torch.ones(len(config.names)))

    def logits(self, chips: Tensor) -> Tensor:
        """Chips [B, 3, SIDE, SIDE] to age, female and the groups, [B, 2 + 6]."""
        return self.head(self.stages(chips).mean((2, 3)))

    def forward(self, images: Tensor) -> Tensor:
        chips = middle(resample(face_chip(images), FRAME, "antialias"))
        age, female, groups = self.logits(chips).split((1, 1, len(GROUPS)), 1)
        return torch.cat([age, female.sigmoid(), groups.softmax(1)[:, : len(READ) - 2]], 1)


def middle(frames: Tensor) -> Tensor:
    """The middle of frames [B, 3, FRAME, FRAME]: [B, 3, SIDE, SIDE]."""
    edge = (FRAME - SIDE) // 2
    return frames[..., edge : edge + SIDE, edge : edge + SIDE]
