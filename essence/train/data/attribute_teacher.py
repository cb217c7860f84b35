"""The vector that the image side of the image-text encoder should give for a picture."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from ..face_landmarks import SIDE
from .attributes import HAIRED, LOOKED, MEASURED, NAMES, OUTER, PROBED
from .tables import KINDS


@dataclass(frozen=True)
class TeacherOptions:
    decorrelate: float = 0.5  # 0: as measured, 1: no two attributes correlated
    layouts: int = 8  # directions of the thumbnail that the attributes do not explain
    layout_weight: float = 0.35  # deviation of each, where an attribute has about 0.3 to 1.3


@dataclass
class AttributeTeacher:
    """Raw attributes to targets: standardise, limit, take half of the correlations out, weight; and
    beside them a share of the picture's layout, which is its thumbnail as far as the attributes do
    not explain it.
    """

    centre: Tensor  # [K]
    scale: Tensor  # [K]
    mix: Tensor  # [K, K]
    layout_mean: Tensor  # [T]
    layout_out: Tensor  # [K, T]: what the attributes say of the thumbnail already
    layout_axes: Tensor  # [T, R]
    fill: Tensor  # [K, K]: the outer attributes' expected scores given the inner ones

    @classmethod
    def fit(cls, raw: Tensor, pictures: Tensor, options: TeacherOptions) -> AttributeTeacher:
        """raw [N, K] of whole (not tight) pictures, uint8 pictures [N, 3, 128, 128]."""
        centre, spread = raw.median(0).values, raw.quantile(0.9, 0) - raw.quantile(0.1, 0)
        # 2.56 deviations lie between the 10th and the 90th percentile.
        scale = (spread / 2.56).clamp(min=1e-3)
        scores = soft_limit((raw - centre) / scale)
        identity = torch.eye(len(NAMES))
        correlation = torch.corrcoef(scores.T).nan_to_num(0) + 1e-4 * identity
        values, axes = torch.linalg.eigh(
            options.decorrelate * correlation + (1 - options.decorrelate) * identity
        )
        tables = (MEASURED, PROBED, HAIRED, LOOKED)
        weights = torch.tensor([weight for table in tables for weight in table.values()])
        # A run without labels has constant probes, which say nothing.
        weights = weights * (spread > 0)
        mix = axes @ torch.diag(values.rsqrt()) @ axes.T @ torch.diag(weights)
        return cls(
            centre,
            scale,
            mix,
            *fit_layout(scores, pictures, options),
            expected_outer(correlation),
        )

    def to(self, device: str | torch.device) -> AttributeTeacher:
        return AttributeTeacher(**{name: value.to(device) for name, value in vars(self).items()})

    def scores(self, raw: Tensor, kind: Tensor) -> Tensor:
        """Standardised and limited, [N, K]; what a tight crop cannot show is filled with its
        expectation.
        """
        scores = soft_limit((raw - self.centre) / self.scale)
        return torch.where((kind == KINDS.index("tight"))[:, None], scores @ self.fill, scores)

    def targets(self, scores: Tensor, layout: Tensor) -> Tensor:
        """[N, K] and [N, R] to [N, K + R], about zero over people; not normalised."""
        return torch.cat([scores @ self.mix, layout], 1)

    def layout(self, scores: Tensor, pictures: Tensor) -> Tensor:
        """[N, R] of scores [N, K] and uint8 pictures [N, 3, 128, 128]."""
        unexplained = thumbnails(pictures) - self.layout_mean - scores @ self.layout_out
        return unexplained @ self.layout_axes


def soft_limit(scores: Tensor) -> Tensor:
    """To three deviations."""
    return 3 * torch.tanh(scores / 3)


def thumbnails(pictures: Tensor) -> Tensor:
    """uint8 [N, 3, 128, 128] to [N, 192] in [0, 1]: 8 x 8 pixels."""
    parts = (F.avg_pool2d(part.float(), SIDE // 8) for part in pictures.split(2048))
    return torch.cat([part.flatten(1) / 255 for part in parts])


def fit_layout(
    scores: Tensor, pictures: Tensor, options: TeacherOptions
) -> tuple[Tensor, Tensor, Tensor]:
    """Mean thumbnail [T], what the scores explain of it [K, T], and the main axes of the rest
    [T, R].
    """
    thumbs = thumbnails(pictures)
    mean = thumbs.mean(0)
    gram = scores.T @ scores / len(scores) + 0.01 * torch.eye(scores.shape[1])
    out = torch.linalg.solve(gram, scores.T @ (thumbs - mean) / len(scores))
    _, deviations, axes = torch.linalg.svd(thumbs - mean - scores @ out, full_matrices=False)
    deviations = deviations[: options.layouts] / len(scores) ** 0.5
    return mean, out, axes[: options.layouts].T * options.layout_weight / (deviations + 1e-3)


def expected_outer(correlation: Tensor, ridge: float = 0.3) -> Tensor:
    """[K, K]: scores @ fill keeps the inner attributes and expects the outer ones from them."""
    outer = torch.tensor([name in OUTER for name in NAMES])
    inner = correlation[~outer][:, ~outer]
    fill = torch.diag((~outer).float())
    rows = torch.linalg.solve(inner + ridge * torch.eye(len(inner)), correlation[~outer][:, outer])
    fill[~outer.view(-1, 1) & outer.view(1, -1)] = rows.flatten()
    return fill


def mirrored(scores: Tensor) -> Tensor:
    """The scores of the flipped picture."""
    return scores * _signs(scores.device)


@lru_cache
def _signs(device: torch.device) -> Tensor:
    """What becomes of each score in a mirror; made once, for a device would be waited for."""
    turned = ("yaw", "light side")
    return torch.tensor([-1.0 if name in turned else 1.0 for name in NAMES], device=device)
