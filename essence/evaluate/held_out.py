"""The pictures that no recipe trains on."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ..errors import UserError
from ..pictures.tensors import resample
from ..train.common import (
    PHOTOGRAPHS,
    held_out,
    list_pictures,
    load_pictures,
    to_float,
    to_uint8,
)
from ..train.face_landmarks import SIDE


class HeldOut:
    """The pictures that no recipe trains on: names, and uint8 [N, 3, S, S]; photographs first.
    Raises UserError where there are none.
    """

    def __init__(self, data: str, size: int):
        paths = list_pictures(data)
        held = held_out([path.name for path in paths])
        chosen = [path for path in paths if path.name in held]
        chosen.sort(key=lambda path: not path.name.startswith(PHOTOGRAPHS))
        if not chosen:
            raise UserError(f"{data} has too few pictures to hold any out: it takes at least ten.")
        self.names, self.pictures = [path.name for path in chosen], load_pictures(chosen, size)
        self.photographs = torch.tensor([name.startswith(PHOTOGRAPHS) for name in self.names])
        self.training_paths = [path for path in paths if path.name not in held]


def to_rows(pictures: Tensor) -> np.ndarray:
    """[N, 3, H, W] to [N, H, W, 3]."""
    return pictures.permute(0, 2, 3, 1).contiguous().numpy()


def to_channels(pictures: np.ndarray) -> Tensor:
    """[N, H, W, 3] to [N, 3, H, W]."""
    return torch.from_numpy(np.ascontiguousarray(pictures)).permute(0, 3, 1, 2)


def at_side(pictures: Tensor, side: int = SIDE) -> Tensor:
    """uint8 [N, 3, H, W] at another side."""
    if pictures.shape[-1] == side:
        return pictures
    return to_uint8(resample(to_float(pictures), side, "antialias"))
