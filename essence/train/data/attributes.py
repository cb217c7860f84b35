"""Numbers that say what a face looks like: colours and shapes, measured with 68 landmarks.

They teach the small image-text encoder: its image embedding is a weighted list of them and of
probes (`attribute_teacher`), its captions are read off them (`captions`). All pictures are
`[B, 3, 128, 128]` in [-1, 1] in FFHQ alignment; landmarks are `[B, 68, 2]`, x and y in [0, 1].
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

# The part of the aligned picture that a tight crop covers too: left, top, right, bottom in pixels.
INNER = (26, 38, 102, 114)
SAMPLES = 7  # a patch is read at 7 x 7 points

# Patches at fixed places: centre x, y, width, height, all as parts of the side.
FIXED = {
    "hair": (0.50, 0.12, 0.28, 0.08),
    "crown": (0.50, 0.21, 0.20, 0.05),
    "side_l": (0.13, 0.55, 0.08, 0.20),
    "side_r": (0.87, 0.55, 0.08, 0.20),
    "low_l": (0.14, 0.82, 0.12, 0.20),
    "low_r": (0.86, 0.82, 0.12, 0.20),
    "back_l": (0.06, 0.10, 0.10, 0.16),
    "back_r": (0.94, 0.10, 0.10, 0.16),
    "wall_l": (0.04, 0.32, 0.06, 0.16),
    "wall_r": (0.96, 0.32, 0.06, 0.16),
    "cloth_l": (0.22, 0.97, 0.20, 0.05),
    "cloth_r": (0.78, 0.97, 0.20, 0.05),
}
# Patches that follow the face: {landmark: share} for the centre, shift x, y, width, height.
MOVING = {
    "cheek_l": ({36: 0.25, 39: 0.25, 48: 0.5}, -0.02, 0, 0.08, 0.08),
    "cheek_r": ({42: 0.25, 45: 0.25, 54: 0.5}, 0.02, 0, 0.08, 0.08),
    "nose": ({29: 0.5, 30: 0.5}, 0, 0, 0.05, 0.06),
    "forehead": ({19: 0.5, 24: 0.5}, 0, -0.08, 0.18, 0.05),
    "brow_l": ({18: 0.34, 19: 0.33, 20: 0.33}, 0, 0.004, 0.10, 0.015),
    "brow_r": ({23: 0.34, 24: 0.33, 25: 0.33}, 0, 0.004, 0.10, 0.015),
    "eye_l": ({36: 0.5, 39: 0.5}, 0, 0, 0.10, 0.04),
    "eye_r": ({42: 0.5, 45: 0.5}, 0, 0, 0.10, 0.04),
    "lid_l": ({37: 0.5, 38: 0.5}, 0, -0.015, 0.08, 0.015),
    "lid_r": ({43: 0.5, 44: 0.5}, 0, -0.015, 0.08, 0.015),
    "under_l": ({40: 0.5, 41: 0.5}, 0, 0.045, 0.12, 0.06),
    "under_r": ({46: 0.5, 47: 0.5}, 0, 0.045, 0.12, 0.06),
    "bridge": ({39: 0.3, 42: 0.3, 27: 0.4}, 0, 0, 0.03, 0.09),
    "moustache": ({33: 0.45, 51: 0.55}, 0, 0, 0.12, 0.015),
    "chin": ({57: 0.45, 8: 0.55}, 0, 0, 0.10, 0.05),
    "jaw_l": ({48: 0.5, 5: 0.5}, 0, 0, 0.06, 0.06),
    "jaw_r": ({54: 0.5, 11: 0.5}, 0, 0, 0.06, 0.06),
    "lip_up": ({51: 0.5, 62: 0.5}, 0, 0, 0.06, 0.012),
    "lip_low": ({57: 0.5, 66: 0.5}, 0, 0, 0.06, 0.015),
    "mouth": ({62: 0.5, 66: 0.5}, 0, 0, 0.09, 0.012),
}
# Attributes measured on the picture. The value is the weight in the embedding: how much it is
# essence rather than identity or noise.
MEASURED = {
    "skin light": 0.8,
    "skin red": 0.4,
    "skin yellow": 0.5,
    "hair light": 1.5,
    "hair red": 1.0,
    "hair yellow": 1.0,
    "hair sides": 1.3,
    "hair long": 1.0,
    "fringe": 0.8,
    "bald": 0.5,
    "back light": 0.8,
    "back red": 0.6,
    "back yellow": 0.6,
    "back busy": 0.4,
    "cloth light": 0.5,
    "brow dark": 0.7,
    "brow height": 0.6,
    "brow frown": 0.4,
    "eye open": 0.4,
    "eye dark": 0.6,
    "lid dark": 0.5,
    "frame": 0.7,
    "moustache": 1.0,
    "beard": 1.0,
    "lip red": 0.6,
    "lip dark": 0.6,
    "mouth open": 0.9,
    "teeth": 0.5,
    "mouth width": 0.9,
    "smile": 1.1,
    "face long": 0.15,
    "jaw wide": 0.15,
    "nose wide": 0.1,
    "yaw": 0.3,
    "pitch": 0.3,
    "light side": 0.6,
    "face contrast": 0.3,
    "saturation": 0.9,
    "warm": 0.6,
    "light": 0.6,
    "contrast": 0.3,
    "sharp": 0.1,
    "wrinkles": 0.2,
}
# Linear probes on the face network.
PROBED = {
    "age": 1.0,
    "female": 0.7,
    "white": 0.3,
    "black": 0.4,
    "asian": 0.4,
    "indian": 0.15,
    "glasses": 1.2,
}
# Linear probes on the whole picture.
HAIRED = {
    "black hair": 0.8,
    "brown hair": 0.6,
    "blond hair": 0.8,
    "red hair": 0.8,
    "grey hair": 0.8,
}
# Linear probes fitted to what was seen by eye, and to ages; the outer ones on the whole picture,
# the others on the face network alone.
LOOKED = {
    "child": 0.8,
    "elderly": 0.6,
    "sunglasses": 0.8,
    "bearded": 0.8,
    "moustached": 0.6,
    "make-up": 0.6,
    "drawn": 1.0,
    "hat": 1.0,
    "headscarf": 0.8,
    "bald head": 0.8,
}
# What a tight crop cannot show.
OUTER = (
    *HAIRED,
    "hat",
    "headscarf",
    "bald head",
    "hair light",
    "hair red",
    "hair yellow",
    "hair sides",
    "hair long",
    "bald",
    "back light",
    "back red",
    "back yellow",
    "back busy",
    "cloth light",
    "saturation",
    "warm",
    "light",
    "contrast",
)
NAMES = (*MEASURED, *PROBED, *HAIRED, *LOOKED)


# ---- patches


def patches(images: Tensor, marks: Tensor) -> dict[str, Tensor]:
    """Colours [B, 49, 3] in [0, 1] of every patch, rows first."""
    device = images.device
    boxes = [torch.tensor(box, device=device).expand(len(images), 4) for box in FIXED.values()]
    for shares, dx, dy, width, height in MOVING.values():
        centre = sum(share * marks[:, point] for point, share in shares.items())
        side = torch.tensor([width, height], device=device).expand(len(images), 2)
        boxes.append(torch.cat([centre + torch.tensor([dx, dy], device=device), side], 1))
    boxes = torch.stack(boxes, 1)  # [B, P, 4]
    steps = torch.linspace(-0.5, 0.5, SAMPLES, device=device)
    offsets = torch.stack(torch.meshgrid(steps, steps, indexing="xy"), -1).view(1, 1, -1, 2)
    grid = (boxes[:, :, None, :2] + offsets * boxes[:, :, None, 2:]) * 2 - 1
    # [B, 3, P, 49]
    colours = F.grid_sample((images + 1) / 2, grid, align_corners=False, padding_mode="border")
    return {name: colours[:, :, i].transpose(1, 2) for i, name in enumerate((*FIXED, *MOVING))}


def opponent_colours(rgb: Tensor) -> Tensor:
    """RGB [..., 3] to lightness, red against green, yellow against blue."""
    r, g, b = rgb.unbind(-1)
    return torch.stack([0.3 * r + 0.59 * g + 0.11 * b, r - g, (r + g) / 2 - b], -1)


# ---- measures


def measure_attributes(images: Tensor, marks: Tensor) -> Tensor:
    """[B, len(MEASURED)], in the order of MEASURED; raw units (shares of the eye distance, colours
    in [0, 1]).
    """
    patch = {name: opponent_colours(colours) for name, colours in patches(images, marks).items()}
    found = _colours(patch) | _shapes(marks) | _whole(images, patch)
    return torch.stack([found[name] for name in MEASURED], 1)


def _colours(patch: dict[str, Tensor]) -> dict[str, Tensor]:
    def median(*names: str) -> Tensor:
        """Colour of some patches together, [B, 3]."""
        return torch.cat([patch[name] for name in names], 1).median(dim=1).values

    skin, hair, lips = (
        median("cheek_l", "cheek_r", "nose"),
        median("hair"),
        median("lip_up", "lip_low"),
    )
    back = median("back_l", "back_r", "wall_l", "wall_r")
    skin_light = skin[:, 0]

    def darker_than_skin(*names: str) -> Tensor:
        return skin_light - median(*names)[:, 0]

    def hair_rather_than_background(*names: str) -> Tensor:
        """-1 to 1: are these patches more like the background or more like the hair?"""
        sides = []
        for name in names:
            colour = median(name)
            to_back, to_hair = (colour - back).norm(dim=1), (colour - hair).norm(dim=1)
            sides.append((to_back - to_hair) / (to_back + to_hair + 0.1))
        return sum(sides) / len(sides)

    channels = {
        f"{what} {channel}": colour[:, i]
        for what, colour in (("skin", skin), ("hair", hair), ("back", back))
        for i, channel in enumerate(("light", "red", "yellow"))
    }
    background = [median(name)[:, 0] for name in ("back_l", "back_r", "wall_l", "wall_r")]
    walls = patch["wall_l"][..., 0].std(dim=1) + patch["wall_r"][..., 0].std(dim=1)
    # A profile down the nose.
    bridge = patch["bridge"][..., 0].view(-1, SAMPLES, SAMPLES).median(dim=2).values
    return channels | {
        "hair sides": hair_rather_than_background("side_l", "side_r"),
        "hair long": hair_rather_than_background("low_l", "low_r"),
        "fringe": darker_than_skin("forehead"),
        "bald": -(median("hair", "crown") - skin).norm(dim=1),
        "back busy": torch.stack(background, 1).std(dim=1) + walls,
        "cloth light": median("cloth_l", "cloth_r")[:, 0],
        "brow dark": darker_than_skin("brow_l", "brow_r"),
        "eye dark": darker_than_skin("eye_l", "eye_r"),
        "lid dark": darker_than_skin("lid_l", "lid_r"),
        "frame": bridge.diff(dim=1).abs().amax(dim=1) / (skin_light + 0.1),
        "moustache": darker_than_skin("moustache"),
        "beard": darker_than_skin("chin", "jaw_l", "jaw_r"),
        "lip red": lips[:, 1] - skin[:, 1],
        "lip dark": skin_light - lips[:, 0],
        "teeth": median("mouth")[:, 0] - lips[:, 0],
        "light side": median("cheek_r")[:, 0] - median("cheek_l")[:, 0],
    }


def _shapes(marks: Tensor) -> dict[str, Tensor]:
    eye_l, eye_r = marks[:, 36:42].mean(1), marks[:, 42:48].mean(1)
    eyes, apart = (eye_l + eye_r) / 2, (eye_r - eye_l).norm(dim=1)

    def gap(a: int, b: int) -> Tensor:
        return (marks[:, a] - marks[:, b]).norm(dim=1) / apart

    def height(*points: int) -> Tensor:
        return marks[:, list(points), 1].mean(1)

    return {
        "brow height": (eyes[:, 1] - height(*range(17, 27))) / apart,
        "brow frown": (height(20, 21, 22, 23) - height(17, 18, 25, 26)) / apart,
        "eye open": gap(37, 41) + gap(38, 40) + gap(43, 47) + gap(44, 46),
        "mouth open": gap(62, 66),
        "mouth width": gap(48, 54),
        "smile": (height(51, 57, 62, 66) - height(48, 54)) / apart,
        "face long": (height(8) - eyes[:, 1]) / apart,
        "jaw wide": gap(4, 12),
        "nose wide": gap(31, 35),
        "yaw": (marks[:, 30, 0] - marks[:, [0, 16], 0].mean(1)) / apart,
        "pitch": (height(30) - eyes[:, 1]) / apart,
    }


def _whole(images: Tensor, patch: dict[str, Tensor]) -> dict[str, Tensor]:
    rgb = (images + 1) / 2
    light = 0.3 * rgb[:, 0] + 0.59 * rgb[:, 1] + 0.11 * rgb[:, 2]
    left, top, right, bottom = INNER
    face = light[:, top:bottom, left:right]
    edges = face[:, 1:-1, 1:-1] - F.avg_pool2d(face[:, None], 3, 1)[:, 0]
    rough = torch.cat([patch[name][..., 0] for name in ("forehead", "under_l", "under_r")], 1)
    rough = rough - F.avg_pool1d(rough[:, None], 3, 1, 1)[:, 0]
    return {
        "face contrast": face.std(dim=(1, 2)),
        "sharp": edges.abs().mean(dim=(1, 2)).clamp(min=1e-3).log(),
        "saturation": (rgb.amax(1) - rgb.amin(1)).mean(dim=(1, 2)),
        "warm": (rgb[:, 0] - rgb[:, 2]).mean(dim=(1, 2)),
        "light": light.mean(dim=(1, 2)),
        "contrast": light.std(dim=(1, 2)),
        "wrinkles": rough.abs().mean(dim=1).clamp(min=1e-3).log(),
    }
