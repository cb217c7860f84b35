"""The encoder that the generator is trained with: a plain residual network from a picture to w+.
Later it is the inverter's teacher.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import BadFile
from ..library.safe_files import read_safetensors, write_safetensors
from ..models.stylegan2 import GeneratorConfig

EXACT = "latent."  # stays in single precision: w lies several deviations from zero


@dataclass(frozen=True)
class PictureEncoderConfig:
    widths: tuple[int, ...]  # of the stem, then of each halving block
    head: int  # width of the flat layer
    layers: int  # L
    style_dim: int  # D
    corner: int = 4  # side of the last map

    @property
    def size(self) -> int:
        return self.corner << (len(self.widths) - 1)

    @classmethod
    def for_generator(cls, config: GeneratorConfig) -> PictureEncoderConfig:
        """As wide as the generator at each resolution."""
        widths = [config.channels[r] for r in reversed(config.resolutions)]
        return cls(tuple(widths), 2 * config.style_dim, config.layers, config.style_dim)

    @classmethod
    def infer(cls, state: Mapping[str, Tensor]) -> PictureEncoderConfig:
        """From the tensors of a state dict. Raises BadFile."""
        try:
            widths = [len(state["stem.bias"])]
            while (name := f"blocks.{len(widths) - 1}.conv2.bias") in state:
                widths.append(len(state[name]))
            head, flat = state["head.weight"].shape
            dim = len(state["latent.bias"])
            layers, corner = 1 + len(state["deltas.bias"]) // dim, round((flat / widths[-1]) ** 0.5)
            return cls(tuple(widths), head, layers, dim, corner)
        except KeyError as missing:
            raise BadFile(
                f"This is no encoder of the generator's recipe: it has no tensor {missing}."
            ) from None


class HalvingBlock(nn.Module):
    def __init__(self, in_ch: int, out_ch: int):
        super().__init__()
        self.conv1 = nn.Conv2d(in_ch, in_ch, 3, padding=1)
        self.conv2 = nn.Conv2d(in_ch, out_ch, 3, stride=2, padding=1)
        self.skip = nn.Conv2d(in_ch, out_ch, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return (act(self.conv2(act(self.conv1(x)))) + self.skip(F.avg_pool2d(x, 2))) / 2**0.5


class PictureEncoder(nn.Module):
    """Pictures [B, 3, S, S] in [-1, 1] to w+ [B, L, D]: row 0 is w, every further row w and a
    delta.
    """

    def __init__(self, config: PictureEncoderConfig):
        super().__init__()
        self.config = config
        widths = config.widths
        self.stem = nn.Conv2d(3, widths[0], 3, padding=1)
        self.blocks = nn.ModuleList(
            HalvingBlock(a, b) for a, b in zip(widths, widths[1:], strict=False)
        )
        self.head = nn.Linear(widths[-1] * config.corner**2, config.head)
        self.latent = nn.Linear(config.head, config.style_dim)
        self.deltas = nn.Linear(config.head, (config.layers - 1) * config.style_dim)

    def forward(self, x: Tensor) -> Tensor:
        x = act(self.stem(x))
        for block in self.blocks:
            x = block(x)
        x = act(self.head(x.flatten(1)))
        with torch.autocast(x.device.type, enabled=False):
            w = self.latent(x.float())[:, None]
        return torch.cat([w, w + self.deltas(x).float().unflatten(1, (-1, w.shape[2]))], 1)


def act(x: Tensor) -> Tensor:
    return F.leaky_relu(x, 0.2) * 2**0.5


def load_encoder(path: str | Path) -> PictureEncoder:
    """From our safetensors; frozen, on the CPU. Raises BadFile."""
    state = {name: value.float() for name, value in read_safetensors(path)[0].items()}
    encoder = PictureEncoder(PictureEncoderConfig.infer(state))
    try:
        encoder.load_state_dict(state)
    except RuntimeError as error:
        raise BadFile(
            f"{Path(path).name} does not have the tensors of this encoder: {error}"
        ) from None
    return encoder.eval().requires_grad_(False)


def save_encoder(encoder: PictureEncoder, path: str | Path) -> None:
    state = {
        name: value if name.startswith(EXACT) else value.half()
        for name, value in encoder.state_dict().items()
    }
    write_safetensors(path, state, {"kind": "picture encoder"})
