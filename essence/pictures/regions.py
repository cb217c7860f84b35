"""Parts of an aligned face as soft masks: hair, skin, eyes, mouth, background.

From landmarks and colours alone, no network: what lies where a face has it, sharpened along the
photograph's own edges by the guided filter.
"""

from __future__ import annotations

import torch
from PIL import Image, ImageDraw
from torch import Tensor

from .detail import (
    BROWS,
    LEFT_EYE,
    LIPS,
    RIGHT_EYE,
    face_oval,
    grid_points,
    guided_fit,
    window_mean,
)
from .tensors import to_tensor

REGIONS = ("hair", "skin", "eyes", "mouth", "background")
GROWTH = 0.04  # of eyes and lips around their landmarks, in sides
HAIR_REACH = 1.75  # hair lies within the face's oval, enlarged by this


def face_regions(photograph: Tensor, landmarks: Tensor) -> dict[str, Tensor]:
    """Masks [1, S, S] in [0, 1] that sum to 1, by name, of an aligned `photograph` [3, S, S] with
    its `landmarks` [68, 2] in [-1, 1].
    """
    size = photograph.shape[-1]
    brows = landmarks[BROWS]
    eyes = torch.maximum(
        hull_mask(torch.cat([landmarks[LEFT_EYE], brows[:5]]), size),
        hull_mask(torch.cat([landmarks[RIGHT_EYE], brows[5:]]), size),
    )
    mouth = hull_mask(landmarks[LIPS], size)
    face = face_oval(landmarks, size)
    hair = hair_likelihood(photograph, landmarks, face)
    masks = {
        "eyes": eyes,
        "mouth": mouth * (1 - eyes),
        "hair": hair * (1 - torch.maximum(eyes, mouth)),
    }
    masks["skin"] = face * (1 - sum(masks.values())).clamp(min=0)
    masks["background"] = (1 - sum(masks.values())).clamp(min=0)
    stacked = torch.cat([masks[name] for name in REGIONS])
    factors, offsets = guided_fit(photograph, stacked)
    refined = ((factors * photograph).sum(1) + offsets).clamp(0, 1)
    refined = refined / refined.sum(0, keepdim=True).clamp(min=1e-6)
    return {name: refined[i : i + 1] for i, name in enumerate(REGIONS)}


def drawn_mask(picture: Image.Image, size: int) -> Tensor:
    """A picture of the aligned square, drawn by hand, as a mask [1, S, S]: white is 1, black 0."""
    return (to_tensor(picture.convert("L").convert("RGB"), size)[0, :1] + 1) / 2


def hull_mask(points: Tensor, size: int) -> Tensor:
    """The convex hull of points [N, 2] in [-1, 1], grown and softened: [1, S, S]."""
    centre = points.mean(0)
    angle = torch.atan2(*(points - centre).T.flip(0))
    outline = [tuple(point) for point in ((points[angle.argsort()] + 1) * size / 2).tolist()]
    canvas = Image.new("L", (size, size))
    ImageDraw.Draw(canvas).polygon(outline, fill=255)
    mask = torch.frombuffer(bytearray(canvas.tobytes()), dtype=torch.uint8).float() / 255
    radius = max(1, round(GROWTH * size / 2))
    grown = (window_mean(mask.view(1, size, size), radius) * 4).clamp(max=1)
    return window_mean(grown, radius)


def hair_likelihood(photograph: Tensor, landmarks: Tensor, face: Tensor) -> Tensor:
    """Where hair lies, [1, S, S]: around the face and above the chin, in the colours found right
    above the forehead rather than those at the picture's upper edge.
    """
    size = photograph.shape[-1]
    points = grid_points(size, size).to(landmarks)
    jaw = landmarks[:17]
    centre = torch.stack([jaw[:, 0].mean(), landmarks[27:31, 1].mean()])
    half = torch.stack([(jaw[:, 0].max() - jaw[:, 0].min()) / 2, jaw[:, 1].max() - centre[1]])
    distance = ((points - centre) / half.clamp(min=1e-3)).norm(dim=-1)
    place = torch.sigmoid((HAIR_REACH - distance) / 0.1) * torch.sigmoid(
        (jaw[8, 1] - points[..., 1]) / 0.1
    )
    above = (points[..., 1] < landmarks[BROWS][:, 1].min()) & (face[0] < 0.5)
    crown = above & (distance < 1.45) & ((points[..., 0] - centre[0]).abs() < half[0])
    edge = (points[..., 1] < -0.9) | ((points[..., 0].abs() > 0.92) & (points[..., 1] < 0.3))
    hair, back = (colour_score(photograph, region) for region in (crown, edge))
    return (place * torch.sigmoid(hair - back))[None] * (1 - face)


def colour_score(photograph: Tensor, region: Tensor) -> Tensor:
    """Log likelihood [S, S] of each pixel's colour under a Gaussian of the colours in `region`."""
    colours = photograph.permute(1, 2, 0)
    sample = colours[region]
    if len(sample) < 8:
        return torch.zeros_like(region, dtype=photograph.dtype)
    mean = sample.mean(0)
    covariance = torch.cov(sample.T) + 0.01 * torch.eye(3).to(sample)
    offset = colours - mean
    mahalanobis = (offset @ torch.linalg.inv(covariance) * offset).sum(-1)
    return -0.5 * (mahalanobis + torch.logdet(covariance)).clamp(-30, 30)
