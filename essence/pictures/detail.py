"""Results in the photograph's own detail (docs/METHOD.md, section 9).

An inversion never is the photograph, but the *change* that an essence makes is smooth and can be
carried over to it. Geometry and appearance go apart: the photograph's landmarks move as the
model's face moves, and carry the pixels with them; what the model's pictures then still differ in
is fitted, window by window, as an affine function of the photograph's own colours (the guided
filter of He, Sun, Tang 2010), so that its edges are the photograph's edges. Both are found at the
generator's size and applied at any.

Pictures are float32 [3, H, W] in [-1, 1]. Points are (x, y) in [-1, 1] over the aligned square,
with pixel edges at -1 and 1 (`grid_sample` with align_corners=False).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

RADIUS = 5 / 128  # of the guided filter's windows, in sides
REGULARISATION = 0.01  # on the affine factors, for colours in [-1, 1]
SMOOTHING = 1e-2  # of the thin-plate spline: landmarks are found to a pixel or so
FINE_SIDE = 512  # pixels: smaller pictures are warped on a finer grid
BAND_PIXELS = 1 << 15  # worked on at a time
FIELD = 64  # side of the displacement's grid
BORDER_POINTS = 4  # fixed points on each edge of the square
# What the fit cannot explain is structure where it is this strong (mean over windows), and noise
# where it is weaker.
STRUCTURE = 0.06
# Mean difference of inversion and photograph over a window beyond which the model is not believed.
TOLERANCE = 0.25
# dlib's 68 landmarks: the jaw, the brows above which the forehead lies, eyes, outer lips.
JAW, BROWS, LEFT_EYE, RIGHT_EYE, LIPS = (
    slice(0, 17),
    slice(17, 27),
    slice(36, 42),
    slice(42, 48),
    slice(48, 60),
)


@dataclass(frozen=True, eq=False)
class Change:
    """What an edit does to a photograph, at the generator's size."""

    displacement: Tensor  # [2, F, F]: where each point of the result comes from, minus the point
    factors: Tensor  # A [3, 3, S, S]: the appearance changes by A I + c + r at the warped colour I
    offsets: Tensor  # c [3, S, S]
    structure: Tensor  # r [3, S, S]: what has no counterpart in the photograph's colours

    def scaled(self, weight: Tensor) -> Change:
        """The same, multiplied by `weight` [1, S, S] in [0, 1]: 0 leaves the photograph alone."""
        shrunk = F.interpolate(weight[None], self.displacement.shape[-2:], mode="area")[0]
        return Change(
            self.displacement * shrunk,
            self.factors * weight,
            self.offsets * weight,
            self.structure * weight,
        )


def find_change(
    before: Tensor,
    after: Tensor,
    guide: Tensor,
    landmarks: tuple[Tensor, Tensor, Tensor] | None = None,
    splines: tuple[LandmarkSpline, LandmarkSpline] | None = None,
) -> Change:
    """The change from G(w) to G(w + b), `before` and `after` [3, S, S], for a photograph of which
    `guide` [3, S, S] is the same square. `landmarks`: of before, after and photograph, [68, 2]
    each; without them nothing moves, and all of the change is appearance. `splines` through the
    landmarks of before and photograph save their computation where there are several edits.
    """
    structure, believed = torch.zeros_like(before), trust(guide, before)
    if landmarks is None:
        displacement = before.new_zeros(2, FIELD, FIELD)
    else:
        first, second, own = landmarks
        model, photograph = splines or (LandmarkSpline(first), LandmarkSpline(own))
        before = warp(before, model.displacement(second - first))
        displacement = photograph.displacement(second - first)
        guide = warp(guide, displacement)
    factors, offsets = guided_fit(guide, after - before)
    if landmarks is not None:
        rest = after - before - (factors * guide).sum(1) - offsets
        strength = window_mean(rest.abs().mean(0, keepdim=True), round(RADIUS * rest.shape[-1]))
        certain = ((strength / STRUCTURE) - 0.5).clamp(0, 1)
        around_mouth = mouth_oval(landmarks[2] + landmarks[1] - landmarks[0], rest.shape[-1])
        structure = around_mouth * certain * believed * rest
    return Change(displacement, factors, offsets, structure)


def apply_change(
    photograph: Tensor, change: Change, strength: float = 1.0, fine: Tensor | None = None
) -> Tensor:
    """The edited photograph [3, H, W], any size; a strength of 0 gives the photograph to the bit.

    The strength scales displacement and appearance alike: between strengths that were rendered it
    interpolates, beyond them it extrapolates. Where the fit lowers the contrast it would also
    flatten what is finer than the generator sees, hair and skin, of which it knows nothing: that
    detail is put back. `fine` saves its computation where there are several edits.
    """
    if strength == 0:
        return photograph
    edited = warp(photograph, strength * change.displacement, fine)
    height, width = photograph.shape[-2:]
    flattened = (-change.factors.sum(1).mean(0, keepdim=True)).clamp(min=0)  # of grey detail
    side = min(flattened.shape[-1] // 2, height, width)
    coarse = F.interpolate(edited[None], (side, side), mode="area")[0]
    fields = [change.factors.flatten(0, 1), change.offsets + change.structure, flattened, coarse]
    wide = [field @ linear_taps(field.shape[-1], width).T for field in fields]
    for rows in row_bands(height, width):
        factors, added, lost, blurred = (enlarge_rows(field, height, rows) for field in wide)
        colour = edited[:, rows]
        difference = added
        for k, own in enumerate(colour):  # a third of the time of a product that is summed up
            difference = torch.addcmul(difference, factors[k::3], own)
        if strength > 0:
            difference.addcmul_(lost, colour - blurred)
        edited[:, rows] = (colour + strength * difference).clamp(-1, 1)
    return edited


# -- geometry


class LandmarkSpline:
    """A thin-plate spline through landmarks [68, 2] and fixed points along the square's edge, ready
    for any movement of the landmarks.
    """

    def __init__(self, landmarks: Tensor):
        control = torch.cat([landmarks, border_points().to(landmarks)]).double()
        n = len(control)
        ones = torch.ones(n, 1).to(control)
        system = torch.zeros(n + 3, n + 3).to(control)
        system[:n, :n] = spline_kernel(control, control) + SMOOTHING * torch.eye(n).to(control)
        system[:n, n:] = torch.cat([ones, control], 1)
        system[n:, :n] = system[:n, n:].T
        points = grid_points(FIELD, FIELD).to(control).flatten(0, 1)  # [F * F, 2]
        basis = torch.cat([spline_kernel(points, control), torch.ones(len(points), 1), points], 1)
        solved = torch.linalg.solve(system, basis, left=False)  # system is symmetric
        self.weights = solved[:, : len(landmarks)].float()  # [F * F, 68]

    def displacement(self, movement: Tensor) -> Tensor:
        """Where the pixels of a picture whose landmarks move by `movement` [68, 2] come from:
        [2, F, F], to be added to the grid's own points.
        """
        forward = (self.weights @ movement.to(self.weights)).T.reshape(2, FIELD, FIELD)
        back = -forward
        for _ in range(2):  # x = y - v(x): the way back is looked up where it begins
            places = grid_points(FIELD, FIELD) + back.permute(1, 2, 0)
            back = -F.grid_sample(
                forward[None], places[None], padding_mode="border", align_corners=False
            )[0]
        return back


def spline_kernel(a: Tensor, b: Tensor) -> Tensor:
    """r^2 log r of all pairs, [A, 2] and [B, 2] to [A, B]."""
    square = (a[:, None] - b[None]).square().sum(-1)
    return 0.5 * square * torch.log(square.clamp(min=1e-12))


def border_points() -> Tensor:
    """Fixed points along the square's edge, [4 BORDER_POINTS, 2]."""
    along = torch.linspace(-1, 1, BORDER_POINTS + 1)[:-1]
    one = torch.ones_like(along)
    sides = [(along, -one), (one, along), (-along, one), (-one, -along)]
    return torch.cat([torch.stack(side, 1) for side in sides])


def grid_points(height: int, width: int, rows: slice = slice(None)) -> Tensor:
    """Centres of the pixels, [H, W, 2] or some `rows` of them, as (x, y) in [-1, 1]."""
    y = (2 * torch.arange(height)[rows] + 1) / height - 1
    x = (2 * torch.arange(width) + 1) / width - 1
    return torch.stack([x.expand(len(y), -1), y[:, None].expand(-1, width)], -1)


def warp(picture: Tensor, displacement: Tensor, fine: Tensor | None = None) -> Tensor:
    """A picture [C, H, W] sampled at its own points plus the displacement [2, F, F], a new tensor;
    `fine` is the same picture with more pixels, see `fine_picture`.
    """
    if not displacement.any():
        return picture.clone()
    height, width = picture.shape[-2:]
    fine = fine_picture(picture) if fine is None else fine
    warped, sampling, shift = torch.empty_like(picture), "bilinear", torch.zeros(2)
    if fine.shape[-1] > width:  # its even pixels lie on the picture's, see `double`
        shift = torch.tensor([0.5 / width, 0.5 / height])
        sampling = "bicubic"  # large pictures can spare a little sharpness, and not the time
    wide = displacement @ linear_taps(displacement.shape[-1], width).T
    for rows in row_bands(height, width):
        places = grid_points(height, width, rows) - shift
        places += enlarge_rows(wide, height, rows).permute(1, 2, 0)
        warped[:, rows] = F.grid_sample(
            fine[None], places[None], sampling, "border", align_corners=False
        )[0]
    return warped


def fine_picture(picture: Tensor) -> Tensor:
    """What `warp` samples: sampled on their own grid, small pictures would lose detail."""
    return double(picture) if max(picture.shape[-2:]) <= FINE_SIDE else picture


def double(picture: Tensor) -> Tensor:
    """Twice as many pixels along each side, [C, 2H, 2W], by the ideal (sinc) interpolation. Those
    at even places are the picture's own, so that what does not move stays as sharp as it was.
    """
    border = 8  # the transform is periodic: its edges meet in what is cut off again
    padded = F.pad(picture[None], (border,) * 4, "reflect")[0]
    height, width = padded.shape[-2:]
    spectrum = torch.fft.rfft2(padded)
    wide = torch.zeros(len(picture), 2 * height, width + 1, dtype=spectrum.dtype)
    above, below = (height + 1) // 2, height // 2
    wide[:, :above, : width // 2 + 1] = spectrum[:, :above]
    wide[:, -below:, : width // 2 + 1] = spectrum[:, -below:]
    # The highest frequency of an even side is shared by its positive and its negative one.
    if height % 2 == 0:
        wide[:, -below] /= 2
        wide[:, below] = wide[:, -below]
    if width % 2 == 0:
        wide[:, :, width // 2] /= 2
    fine = 4 * torch.fft.irfft2(wide, s=(2 * height, 2 * width))
    return fine[:, 2 * border : -2 * border, 2 * border : -2 * border]


def row_bands(height: int, width: int) -> list[slice]:
    """The rows of a picture in pieces that stay in a processor's cache while they are worked on."""
    step = max(1, BAND_PIXELS // width)
    return [slice(top, min(top + step, height)) for top in range(0, height, step)]


def enlarge_rows(field: Tensor, height: int, rows: slice) -> Tensor:
    """Some rows of a smooth field [C, h, W] that is enlarged, bilinearly, to `height`."""
    taps = linear_taps(field.shape[-2], height)[rows]
    seen = taps.any(0).nonzero()
    first, last = int(seen[0]), int(seen[-1]) + 1
    return taps[:, first:last] @ field[:, first:last]


@lru_cache(maxsize=32)
def linear_taps(size: int, enlarged: int) -> Tensor:
    """The matrix [enlarged, size] of linear interpolation along an axis, pixel centres between 0
    and 1.
    """
    unit = torch.eye(size)[None]
    return F.interpolate(unit, enlarged, mode="linear", align_corners=False)[0].T.contiguous()


# -- appearance


def guided_fit(guide: Tensor, change: Tensor) -> tuple[Tensor, Tensor]:
    """The guided filter: in every window the least-squares fit change = A guide + c, averaged over
    the windows that a pixel lies in. `guide` [3, S, S] and `change` [C, S, S] to A [C, 3, S, S] and
    c [C, S, S].
    """
    radius, count = max(1, round(RADIUS * guide.shape[-1])), len(change)

    def mean(x: Tensor) -> Tensor:
        return window_mean(x, radius)

    mean_guide, mean_change = mean(guide), mean(change)
    covariance = mean((guide[:, None] * guide[None]).flatten(0, 1)).unflatten(0, (3, 3))
    covariance = covariance - mean_guide[:, None] * mean_guide[None]
    cross = mean((change[:, None] * guide[None]).flatten(0, 1)).unflatten(0, (count, 3))
    cross = cross - mean_change[:, None] * mean_guide[None]
    covariance = covariance + REGULARISATION * torch.eye(3).to(guide)[..., None, None]
    inverse = inverse_of_symmetric(covariance)
    factors = (cross[:, :, None] * inverse[None]).sum(1)  # [C, 3, S, S]
    offsets = mean_change - (factors * mean_guide).sum(1)
    return mean(factors.flatten(0, 1)).unflatten(0, (count, 3)), mean(offsets)


def inverse_of_symmetric(m: Tensor) -> Tensor:
    """Inverses of symmetric 3x3 matrices [3, 3, ...]; torch's solver takes ten times as long."""
    a, b, c, d, e, f = m[0, 0], m[0, 1], m[0, 2], m[1, 1], m[1, 2], m[2, 2]
    aa, ab, ac = d * f - e * e, c * e - b * f, b * e - c * d
    bb, bc, cc = a * f - c * c, b * c - a * e, a * d - b * b
    rows = torch.stack([aa, ab, ac, ab, bb, bc, ac, bc, cc]).unflatten(0, (3, 3))
    return rows / (a * aa + b * ab + c * ac)


def window_mean(x: Tensor, radius: int) -> Tensor:
    """Mean over (2 radius + 1)^2 windows, cut off at the edges; [C, S, S]."""
    side = 2 * radius + 1
    x = F.avg_pool2d(x[None], (side, 1), 1, (radius, 0), count_include_pad=False)
    return F.avg_pool2d(x, (1, side), 1, (0, radius), count_include_pad=False)[0]


# -- where


def face_oval(landmarks: Tensor, size: int, softness: float = 0.12) -> Tensor:
    """A soft mask [1, S, S] over the face from its landmarks [68, 2]: 1 inside, 0 outside, as wide
    as the jaw and reaching above the brows as far as they lie above the nose's tip.
    """
    jaw, brows = landmarks[JAW], landmarks[BROWS]
    left, right = jaw[:, 0].min(), jaw[:, 0].max()
    bottom = jaw[:, 1].max()
    top = brows[:, 1].min() - 0.45 * (bottom - brows[:, 1].mean())
    centre = torch.stack([(left + right) / 2, (top + bottom) / 2])
    half = torch.stack([(right - left) / 2, (bottom - top) / 2]).clamp(min=1e-3)
    distance = ((grid_points(size, size).to(landmarks) - centre) / half).norm(dim=-1)
    return torch.sigmoid((1 - distance) / (softness / 2))[None]


def mouth_oval(landmarks: Tensor, size: int) -> Tensor:
    """A soft mask [1, S, S] around the mouth, where beards, moustaches and teeth appear: elsewhere
    what the fit cannot explain shows as blotches.
    """
    lips, nose, chin = landmarks[LIPS], landmarks[33], landmarks[8]
    centre = torch.stack([lips[:, 0].mean(), (nose[1] + chin[1]) / 2])
    half = torch.stack([0.9 * (lips[:, 0].max() - lips[:, 0].min()), 0.55 * (chin[1] - nose[1])])
    distance = ((grid_points(size, size).to(landmarks) - centre) / half.clamp(min=1e-3)).norm(
        dim=-1
    )
    return torch.sigmoid((1 - distance) / 0.1)[None]


def trust(photograph: Tensor, inversion: Tensor, tolerance: float = TOLERANCE) -> Tensor:
    """How far the model's change can be believed, [1, S, S] in [0, 1]: little where inversion and
    photograph [3, S, S] disagree, smoothed over windows.
    """
    radius = max(1, round(RADIUS * photograph.shape[-1]))
    error = window_mean((photograph - inversion).abs().mean(0, keepdim=True), radius)
    return torch.exp(-((error / tolerance) ** 2))
