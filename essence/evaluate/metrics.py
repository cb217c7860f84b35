"""How good samples, inversions and essences are, in numbers. Pictures have the last word."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ..models.identity import face_descriptor
from ..train.common import precision, to_float
from ..train.face_landmarks import ALIGNED_BOX, predictor

BATCH = 32
SAME_PERSON = 0.6  # dlib's threshold for the distance of two descriptors
# Stages of the face network whose maps are averaged over space: 64 + 128 + 256 + 256 numbers.
POOLED_STAGES = (1, 2, 3, 4)


# ---- identity


def identity_distance(a: Tensor, b: Tensor) -> Tensor:
    """Euclidean distance of each pair of face descriptors: [N, 128], [N, 128] to [N]."""
    return (a - b).norm(dim=-1)


def distance_between_people(descriptors: Tensor) -> float:
    """Mean identity distance over all pairs of different rows of [N, 128]."""
    if len(descriptors) < 2:
        raise ValueError("It takes two people to differ.")
    return torch.pdist(descriptors).mean().item()


@torch.no_grad()
def chip_descriptors(pictures: np.ndarray) -> Tensor:
    """Aligned pictures uint8 [N, H, W, 3] to [N, 128] as dlib itself would describe them:
    landmarks, its own chip of 150 pixels with a margin of a quarter, then the network. These
    distances compare with dlib's threshold of 0.6 for one person; the whole crop's do not.
    """
    import dlib  # heavy

    chips = []
    for picture in pictures:
        scale = max(1.0, 256 / picture.shape[0])
        picture = dlib.resize_image(np.ascontiguousarray(picture), scale)
        box = (round(edge * picture.shape[0]) for edge in ALIGNED_BOX)
        marks = predictor()(picture, dlib.rectangle(*box))
        chip = dlib.get_face_chip(picture, marks, 150, 0.25)
        chips.append(torch.from_numpy(chip).permute(2, 0, 1))
    network = face_descriptor()
    parts = (to_float(part).to(network.mean.device) for part in torch.stack(chips).split(BATCH))
    return torch.cat([network(part).cpu() for part in parts])


# ---- sets of pictures


@torch.no_grad()
def set_features(pictures: Tensor) -> Tensor:
    """uint8 [N, 3, H, W] to [N, 704]: the face network's maps after each stage but the first,
    averaged over space.
    """
    network, found = face_descriptor(), []
    for part in pictures.split(BATCH):
        with precision("cpu"):
            maps = network.features(to_float(part).to(network.mean.device))
        pooled = [maps[i].float().mean(dim=(2, 3)) for i in POOLED_STAGES]
        found.append(torch.cat(pooled, 1).cpu())
    return torch.cat(found)


def kid(real: Tensor, made: Tensor) -> float:
    """Kernel inception distance (Binkowski et al. 2018, arXiv 1801.01401) of features [N, F],
    standardised by the real ones: unbiased squared MMD with the kernel (x.y / d + 1)^3. About zero
    for two halves of one set.
    """
    x, y = _standardised(real, made)

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        return (a @ b.T / a.shape[1] + 1) ** 3

    def within(a: Tensor) -> Tensor:
        k = kernel(a, a)
        return (k.sum() - k.diagonal().sum()) / (len(a) * (len(a) - 1))

    return (within(x) + within(y) - 2 * kernel(x, y).mean()).item()


def fid(real: Tensor, made: Tensor) -> float:
    """Frechet inception distance (Heusel et al. 2017, arXiv 1706.08500): between Gaussians fitted
    to features [N, F], standardised by the real ones.
    """
    x, y = _standardised(real, made)
    a, b = torch.cov(x.T), torch.cov(y.T)
    values, axes = torch.linalg.eigh(a)
    root = axes @ torch.diag(values.clamp(min=0).sqrt()) @ axes.T
    overlap = torch.linalg.eigvalsh(root @ b @ root).clamp(min=0).sqrt().sum()
    return ((x.mean(0) - y.mean(0)).square().sum() + a.trace() + b.trace() - 2 * overlap).item()


def _standardised(real: Tensor, made: Tensor) -> tuple[Tensor, Tensor]:
    mean, deviation = real.mean(0), real.std(0) + 1e-6
    return (real.double() - mean) / deviation, (made.double() - mean) / deviation


# ---- detail


def sharpness(pictures: np.ndarray) -> np.ndarray:
    """Variance of the Laplacian of the grey picture, [N]; uint8 [N, H, W, 3]."""
    grey = pictures.astype(np.float32).mean(-1)
    inner = grey[:, 1:-1, 1:-1]
    around = grey[:, :-2, 1:-1] + grey[:, 2:, 1:-1] + grey[:, 1:-1, :-2] + grey[:, 1:-1, 2:]
    return (around - 4 * inner).var(axis=(1, 2))
