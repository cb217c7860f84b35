"""Linear probes: ridge regression from the face network's features to what labels say."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ...models.identity import face_descriptor
from .attributes import INNER

HINTS = 64  # numbers that sum up the face network's features


def face_features(images: Tensor) -> Tensor:
    """Inner face to [B, 7168]: each stage of the face network averaged on a 3x3 grid, and its
    deviation over space.
    """
    left, top, right, bottom = INNER
    found = []
    for stage in face_descriptor().features(images[..., top:bottom, left:right])[1:]:
        stage = stage.float()
        found += [F.adaptive_avg_pool2d(stage, 3).flatten(1), stage.std(dim=(2, 3))]
    return torch.cat(found, 1)


def hair_features(images: Tensor) -> Tensor:
    """Whole picture to [B, 3776]: the face network's first stages averaged on a 4x4 grid, and 8x8
    pixels.
    """
    stages = face_descriptor().features(images)[:3]
    pooled = [F.adaptive_avg_pool2d(stage.float(), 4) for stage in stages]
    pooled.append(F.adaptive_avg_pool2d(images, 8))
    return torch.cat([part.flatten(1) for part in pooled], 1)


def hints(features: Tensor, rows: int = 6000) -> Tensor:
    """The HINTS main coordinates of features [N, F] (half precision will do), of unit variance over
    about `rows` of them: [N, HINTS], zeros beyond N - 1.
    """
    some = features[:: max(1, len(features) // rows)].float()
    mean, scale = some.mean(0), some.std(0) + 1e-3
    x = (some - mean) / scale
    count = min(HINTS, len(x) - 1)
    _, deviations, axes = torch.svd_lowrank(x, count, niter=4)
    axes = axes * (len(x) ** 0.5 / deviations.clamp(min=1e-3))
    parts = [((part.float() - mean) / scale) @ axes for part in features.split(2048)]
    return F.pad(torch.cat(parts), (0, HINTS - count))


@dataclass
class Probe:
    """Ridge regression: (features - mean) @ weight + bias."""

    mean: Tensor  # [F]
    scale: Tensor  # [F]
    weight: Tensor  # [F, K]
    bias: Tensor  # [K]

    @classmethod
    def fit(cls, features: Tensor, values: Tensor, known: Tensor, rows: int = 12000) -> Probe:
        """features [N, F] (half precision will do), values [N, K], known [N, K] bool; at most
        `rows` rows for each column.

        Columns known on the same pictures share one factorisation; a column known nowhere is zero.
        The ridge of F (features have unit variance) was the best of several for a few hundred
        labels and for ten thousand.
        """
        # In parts: the table may be in half precision and large.
        parts = features.split(2048)
        mean = sum(part.float().sum(0) for part in parts) / len(features)
        square = sum((part.float() - mean).square().sum(0) for part in parts) / len(features)
        scale = square.sqrt() + 1e-3
        weight, bias = torch.zeros(features.shape[1], values.shape[1]), torch.zeros(values.shape[1])
        groups: dict[bytes, list[int]] = {}
        for k in range(values.shape[1]):
            groups.setdefault(known[:, k].numpy().tobytes(), []).append(k)
        for columns in groups.values():
            chosen = known[:, columns[0]].nonzero()[:, 0]
            order = torch.randperm(len(chosen), generator=torch.Generator().manual_seed(0))
            chosen = chosen[order[:rows]]
            if len(chosen):
                target = values[chosen][:, columns]
                bias[columns] = target.mean(0)
                x = (features[chosen].float() - mean) / scale
                weight[:, columns] = ridge_weights(x, target - bias[columns])
        return cls(mean, scale, weight, bias)

    def __call__(self, features: Tensor) -> Tensor:
        """[N, F] to [N, K]."""
        parts = ((part.float() - self.mean) / self.scale for part in features.split(2048))
        return torch.cat([part @ self.weight + self.bias for part in parts])


def ridge_weights(x: Tensor, y: Tensor) -> Tensor:
    """Weights [F, K] for x [N, F] and y [N, K], through the smaller of the two Gram matrices."""
    ridge = x.shape[1]
    if len(x) < x.shape[1]:
        gram = x @ x.T
        gram.diagonal().add_(ridge)
        return x.T @ torch.linalg.solve(gram, y)
    gram = x.T @ x
    gram.diagonal().add_(ridge)
    return torch.cholesky_solve(x.T @ y, torch.linalg.cholesky(gram))


def balanced_probe(features: Tensor, values: Tensor) -> Probe:
    """The ridge regression of one column, values [N] from -1 to 1, in which the positive rows count
    as much as the others together: a notion may be rare. features [N, F].
    """
    return class_probe(features, values[:, None], (values > 0).long())


def class_probe(features: Tensor, values: Tensor, classes: Tensor) -> Probe:
    """The ridge regression of values [N, K] from features [N, F] in which every class that occurs
    in `classes` [N] counts as much as any other, however rare it is.
    """
    _, place, counts = classes.unique(return_inverse=True, return_counts=True)
    weight = (len(classes) / len(counts) / counts.float())[place]
    mean, scale = (weight[:, None] * features).mean(0), features.std(0) + 1e-3
    bias = (weight[:, None] * values).mean(0)
    x = (features - mean) / scale
    gram = x @ x.T
    gram.diagonal().add_(x.shape[1] / weight)
    return Probe(mean, scale, x.T @ torch.linalg.solve(gram, values - bias), bias)
