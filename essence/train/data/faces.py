"""What the image-text recipe knows of its pictures once landmarks and the face network have seen
them: it trains from this alone, on a machine that has neither.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ...errors import UserError
from ..common import save_atomic
from ..face_landmarks import SIDE

BROKEN = (OSError, RuntimeError, KeyError, AttributeError, ValueError, TypeError, EOFError)
COLUMNS = ("kind", "held", "marks", "measured", "probed", "hints")


@dataclass
class Faces:
    """N pictures; every tensor has N rows."""

    pictures: list[bytes]  # WebP, square, any side
    kind: Tensor  # int8, an index into `tables.KINDS`
    held: Tensor  # bool, held out
    # uint8 [N, 68, 2]: landmarks in 256ths of the side (see `whole_marks`); only those of aligned
    # pictures, which are relit, are kept in a file.
    marks: Tensor
    measured: Tensor  # [N, len(MEASURED)]
    probed: Tensor  # [N, the rest of NAMES]
    hints: Tensor  # [N, probes.HINTS], what the face network sees, in short

    def __len__(self) -> int:
        return len(self.pictures)

    def decode(self, rows: Sequence[int] | range | None = None) -> Tensor:
        """uint8 [n, 3, 128, 128] of some rows, of all by default."""

        def read(row: int) -> Tensor:
            with Image.open(io.BytesIO(self.pictures[row])) as image:
                image = image.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BICUBIC)
            return torch.from_numpy(np.array(image)).permute(2, 0, 1)

        with ThreadPoolExecutor() as pool:
            return torch.stack(list(pool.map(read, range(len(self)) if rows is None else rows)))

    def save(self, path: Path) -> None:
        """In half precision where that is enough. Raises UserError."""
        state = {name: getattr(self, name) for name in COLUMNS}
        state = {k: v.half() if v.is_floating_point() else v for k, v in state.items()}
        state["marks"] = self.marks[self.kind == 0]
        joined = np.frombuffer(b"".join(self.pictures), np.uint8).copy()
        lengths = torch.tensor([len(picture) for picture in self.pictures])
        save_atomic(state | {"bytes": torch.from_numpy(joined), "lengths": lengths}, path)

    @classmethod
    def load(cls, path: Path) -> Faces:
        """Raises UserError for a file that is none of ours."""
        try:
            state = torch.load(path, weights_only=True)
            joined, ends = state.pop("bytes").numpy().tobytes(), state.pop("lengths").cumsum(0)
            starts = [0, *ends[:-1].tolist()]
            pictures = [joined[a:b] for a, b in zip(starts, ends.tolist(), strict=True)]
            columns = {name: state[name] for name in COLUMNS}
            marks = torch.zeros(len(pictures), *columns["marks"].shape[1:], dtype=torch.uint8)
            marks[columns["kind"] == 0] = columns["marks"]
        except (*BROKEN, pickle.UnpicklingError) as error:
            raise UserError(
                f"{path} holds no prepared faces ({type(error).__name__}): give the faces.pt of an "
                "earlier run."
            ) from error
        floats = {k: v.float() if v.is_floating_point() else v for k, v in columns.items()}
        return cls(pictures, **(floats | {"marks": marks}))


def encode(pictures: Tensor, side: int = SIDE, quality: int = 85) -> list[bytes]:
    """uint8 [N, 3, 128, 128] to WebP, each at `side`."""

    def write(picture: Tensor) -> bytes:
        image = Image.fromarray(picture.permute(1, 2, 0).numpy())
        buffer = io.BytesIO()
        image.resize((side, side), Image.Resampling.LANCZOS).save(
            buffer, "WEBP", quality=quality, method=6
        )
        return buffer.getvalue()

    with ThreadPoolExecutor() as pool:
        return list(pool.map(write, pictures))


def whole_marks(marks: Tensor) -> Tensor:
    """Landmarks in [0, 1] as uint8: dlib's are whole pixels of an aligned picture at 256."""
    return (marks * 256 - 0.5).round().clamp(0, 255).to(torch.uint8)


def marks_of(whole: Tensor) -> Tensor:
    return (whole.float() + 0.5) / 256
