"""dlib's face recognition network (public domain) in torch: a differentiable measure of identity.

The weights lie in the `face_recognition_models` package; `dlib_face_tensors.json` says where in
that file each tensor starts. The numbers agree with `dlib.face_recognition_model_v1` to about 1e-6.
Two pictures of one person are usually closer than 0.6.
"""

from __future__ import annotations

import hashlib
import json
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import BadFile
from ..ops import WeightCache, conv_leaky_relu
from ..runtime.folders import package_file

CHIP = 150  # side of the pictures it reads
# What dlib's own face chip (padding 0.25) shows of a picture in FFHQ alignment: left, top, right,
# bottom as parts of the side. The mean over 147 pictures; each edge varies by less than 0.02.
CHIP_BOX = (0.156, 0.257, 0.848, 0.949)
MEAN = (122.782, 117.001, 104.298)  # of R, G, B in 0...255
SHA256 = "55533b28a95800a551ba546ba62fe69625c7e95a7061c338adffead08719da30"
FILE = "dlib_face_recognition_resnet_model_v1.dat"
TENSORS = Path(__file__).with_name("dlib_face_tensors.json")
# Width of each residual block; True marks the ones that halve the picture.
BLOCKS = [(32, False)] * 3 + [(64, True)] + [(64, False)] * 3 + [(128, True)] + [(128, False)] * 2
BLOCKS += [(256, True)] + [(256, False)] * 2 + [(256, True)]
STAGE_ENDS = (2, 6, 9, 12, 13)  # the blocks whose outputs serve as features


class Block(nn.Module):
    """Residual block: [B, in, H, W] to [B, width, H, W], or half the sides."""

    def __init__(self, in_ch: int, width: int, halve: bool):
        super().__init__()
        self.halve = halve
        self.conv1 = nn.Conv2d(in_ch, width, 3, 2 if halve else 1, 0 if halve else 1)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1)
        self.cache1, self.cache2 = WeightCache(), WeightCache()

    def forward(self, x: Tensor) -> Tensor:
        first, second = self.conv1, self.conv2
        if self.halve:
            y = F.relu(first(x))
        else:
            y = conv_leaky_relu(x, first.weight, first.bias, 0.0, self.cache1)
        y = conv_leaky_relu(y, second.weight, second.bias, 1.0, self.cache2)
        if self.halve:
            x = F.avg_pool2d(x, 2, 2)
        return F.relu(_pad_like(x, y) + _pad_like(y, x))


def face_chip(images: Tensor) -> Tensor:
    """The inner face of aligned pictures [B, 3, S, S]: what the network was made for.

    dlib's threshold of 0.6 for one person holds for descriptors of it; those of the whole picture
    lie closer together.
    """
    left, top, right, bottom = (round(edge * images.shape[-1]) for edge in CHIP_BOX)
    return images[..., top:bottom, left:right]


def _pad_like(x: Tensor, other: Tensor) -> Tensor:
    """Zeros at the bottom, right and in channels until `x` is at least as large as `other`."""
    grow = [max(b - a, 0) for a, b in zip(x.shape[1:], other.shape[1:], strict=True)]
    return F.pad(x, (0, grow[2], 0, grow[1], 0, grow[0])) if any(grow) else x


class FaceDescriptor(nn.Module):
    """Pictures [B, 3, H, W] in [-1, 1], resized to 150x150, to descriptors [B, 128]; not
    normalised, compared by Euclidean distance.
    """

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 32, 7, 2)
        widths = [32] + [width for width, _ in BLOCKS]
        self.blocks = nn.ModuleList(
            Block(widths[i], width, halve) for i, (width, halve) in enumerate(BLOCKS)
        )
        self.fc = nn.Linear(256, 128, bias=False)
        self.register_buffer("mean", torch.tensor(MEAN).view(3, 1, 1))

    def features(self, images: Tensor) -> list[Tensor]:
        """Feature maps at the end of each stage, from 32 channels at 35x35 to 256 at 2x2."""
        if images.shape[-2:] != (CHIP, CHIP):
            images = F.interpolate(
                images, size=(CHIP, CHIP), mode="bilinear", align_corners=False, antialias=True
            )
        x = ((images + 1) * 127.5 - self.mean) / 256
        x = F.max_pool2d(F.relu(self.conv(x)), 3, 2)
        stages = []
        for i, block in enumerate(self.blocks):
            x = block(x)
            if i in STAGE_ENDS:
                stages.append(x)
        return stages

    def describe(self, features: list[Tensor]) -> Tensor:
        """Descriptors [B, 128], float32, from what `features` returned."""
        return self.fc(features[-1].mean(dim=(2, 3))).float()

    def forward(self, images: Tensor) -> Tensor:
        return self.describe(self.features(images))


@lru_cache(maxsize=1)
def face_descriptor() -> FaceDescriptor:
    """The network with dlib's weights, frozen, on the CPU; the same one for the whole process.
    Raises BadFile where the file is not the known one.
    """
    data = package_file(FILE).read_bytes()
    if hashlib.sha256(data).hexdigest() != SHA256:
        raise BadFile(
            f"{FILE} is not the file it should be (its sha256 differs): "
            "reinstall face_recognition_models."
        )
    stored = {}
    for name, offset, shape in json.loads(TENSORS.read_text()):
        numbers = np.frombuffer(data, "<f4", int(np.prod(shape)), offset).copy()
        stored[name] = torch.from_numpy(numbers).view(shape)
    state = {
        "mean": torch.tensor(MEAN).view(3, 1, 1),
        "fc.weight": stored["fc.weight"].T.contiguous(),
    }
    convs = ["conv", *(f"blocks.{i}.conv{j}" for i in range(len(BLOCKS)) for j in (1, 2))]
    for i, conv in enumerate(convs):
        # Behind each convolution the file has a factor and an addend for each channel.
        gamma, beta = stored[f"affine{i}.gamma"], stored[f"affine{i}.beta"]
        state[f"{conv}.weight"] = stored[f"conv{i}.weight"] * gamma[:, None, None, None]
        state[f"{conv}.bias"] = stored[f"conv{i}.bias"] * gamma + beta
    model = FaceDescriptor()
    model.load_state_dict(state)
    return model.eval().requires_grad_(False)
