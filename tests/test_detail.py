"""Carrying a change over to a photograph: what must hold for any pictures."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from essence.pictures import detail

SIDE = 64


def smooth(seed: int, channels: int = 3, size: int = SIDE) -> torch.Tensor:
    """A soft random picture in [-.5, .5]."""
    noise = torch.rand(channels, 6, 6, generator=torch.Generator().manual_seed(seed)) - 0.5
    return F.interpolate(noise[None], (size, size), mode="bilinear")[0]


def face(shift: tuple[float, float] = (0.0, 0.0)) -> torch.Tensor:
    """68 points on an oval and in it, moved."""
    angle = torch.linspace(0, 6.283, 69)[:-1]
    radius = torch.tensor([1.0, 0.7, 0.4, 0.15]).repeat(17)
    oval = torch.stack([0.45 * angle.cos(), 0.5 * angle.sin()], 1) * radius[:, None]
    return oval + torch.tensor((0.0, 0.1)) + torch.tensor(shift)


@pytest.mark.parametrize("size", [SIDE, 200, 33])
def test_no_change_gives_the_photograph(size):
    model, photograph = smooth(0), smooth(1, size=size)
    change = detail.find_change(model, model, smooth(1), (face(), face(), face((0.1, 0))))
    edited = detail.apply_change(photograph, change)
    torch.testing.assert_close(edited, photograph, atol=1e-4, rtol=0)


def test_a_strength_of_zero_is_the_photograph_to_the_bit():
    landmarks = (face(), face((0.1, 0.05)), face())
    change = detail.find_change(smooth(0), smooth(2), smooth(1), landmarks)
    photograph = smooth(1, size=150)
    assert torch.equal(detail.apply_change(photograph, change, 0.0), photograph)


@pytest.mark.parametrize("size", [SIDE, 170])
def test_a_constant_change_is_a_constant_shift(size):
    shift = torch.tensor([0.2, -0.1, 0.05]).view(3, 1, 1)
    change = detail.find_change(smooth(0), smooth(0) + shift, smooth(1))
    photograph = smooth(1, size=size)
    edited = detail.apply_change(photograph, change)
    torch.testing.assert_close(edited, photograph + shift, atol=1e-3, rtol=0)


def test_appearance_is_linear_in_the_change():
    before, guide, photograph = smooth(0), smooth(1), smooth(1, size=100)
    one, two = 0.2 * smooth(2), 0.2 * smooth(3)

    def added(change: torch.Tensor, strength: float = 1.0) -> torch.Tensor:
        found = detail.find_change(before, before + change, guide)
        # A photograph without fine detail: what is put back of that is not linear.
        return detail.apply_change(photograph, found, strength) - photograph

    a, b = detail.guided_fit(guide, one), detail.guided_fit(guide, two)
    for sum_, x, y in zip(detail.guided_fit(guide, one - 2 * two), a, b, strict=True):
        torch.testing.assert_close(sum_, x - 2 * y, atol=1e-5, rtol=0)
    torch.testing.assert_close(added(one, 0.5), 0.5 * added(one), atol=1e-5, rtol=0)


def test_a_change_that_follows_the_colours_is_found_exactly():
    """Where the change is an affine function of the photograph's colours, its edges are kept at
    any size: only the regularisation is missing.
    """
    photograph = 2 * smooth(4, size=256) + 0.3 * torch.sign(smooth(5, size=256))
    photograph = photograph.clamp(-1, 1)
    guide = torch.nn.functional.interpolate(photograph[None], (SIDE, SIDE), mode="area")[0]
    change = detail.find_change(guide, guide.flip(0), guide)  # red and blue change places
    edited = detail.apply_change(photograph, change)
    wrong = (photograph - photograph.flip(0)).abs().mean()
    assert (edited - photograph.flip(0)).abs().mean() < 0.25 * wrong


def test_the_photograph_moves_as_the_models_landmarks_do():
    """Everything inside the face moves by the same way; the edge of the square stays."""
    landmarks = (face(), face((0.1, 0.0)), face())
    flat = torch.zeros(3, SIDE, SIDE)
    change = detail.find_change(flat, flat, flat, landmarks)
    x, y = change.displacement
    middle = slice(28, 36)
    assert x[middle, middle].mean() == pytest.approx(-0.1, abs=0.02)
    assert y[middle, middle].abs().max() < 0.02
    assert change.displacement[:, [0, -1]].abs().max() < 0.03
    photograph = smooth(6, size=200)
    edited = detail.apply_change(photograph, change)
    step = 10  # 0.1 of half of 200 pixels
    inner = slice(80, 120)
    shifted = photograph[:, inner, 80 - step : 120 - step]
    assert (edited[:, inner, inner] - shifted).abs().mean() < 0.01


def test_a_mask_decides_where():
    change = detail.find_change(smooth(0), smooth(2), smooth(1), (face(), face((0.1, 0)), face()))
    photograph = smooth(1)
    mask = torch.zeros(1, SIDE, SIDE)
    nothing = detail.apply_change(photograph, change.scaled(mask))
    torch.testing.assert_close(nothing, photograph)
    whole = detail.apply_change(photograph, change.scaled(torch.ones_like(mask)))
    torch.testing.assert_close(whole, detail.apply_change(photograph, change))


def test_the_oval_lies_on_the_face_and_trust_where_pictures_agree():
    marks = torch.zeros(68, 2)
    marks[detail.JAW, 0] = torch.linspace(-0.5, 0.5, 17)
    marks[detail.JAW, 1] = 0.8 - 2 * marks[detail.JAW, 0] ** 2
    marks[detail.BROWS, 1] = -0.2
    oval = detail.face_oval(marks, SIDE)
    assert oval.shape == (1, SIDE, SIDE) and oval.min() >= 0 and oval.max() <= 1
    assert oval[0, 32, 32] > 0.95 and oval[0, [0, -1]].max() < 0.05
    photograph, inversion = torch.zeros(3, SIDE, SIDE), torch.zeros(3, SIDE, SIDE)
    inversion[:, :, 48:] = 1
    believed = detail.trust(photograph, inversion)[0]
    assert believed[:, :40].min() > 0.95 and believed[:, 56:].max() < 0.05


@pytest.mark.parametrize("height, width", [(200, 200), (33, 50), (7, 300)])
def test_fields_are_enlarged_as_torch_does(height, width):
    field = smooth(3, 2)
    whole = F.interpolate(field[None], (height, width), mode="bilinear")[0]
    wide = field @ detail.linear_taps(SIDE, width).T
    for rows in (slice(0, height), slice(2, 5), slice(height - 1, height)):
        torch.testing.assert_close(detail.enlarge_rows(wide, height, rows), whole[:, rows])


def test_large_photographs_are_edited_in_bands_that_do_not_show(monkeypatch):
    model, edited, photograph = smooth(0), smooth(1), smooth(2, size=200)
    guide = F.interpolate(photograph[None], (SIDE, SIDE), mode="area")[0]
    change, found = (
        detail.find_change(model, edited, guide, (face(), face((0.1, 0.05)), face())),
        [],
    )
    for pixels in (1 << 20, 1300):
        monkeypatch.setattr(detail, "BAND_PIXELS", pixels)
        found.append(detail.apply_change(photograph, change, 0.8))
    torch.testing.assert_close(*found, atol=1e-5, rtol=0)


@pytest.mark.parametrize("size", [64, 33])
def test_what_hardly_moves_stays_as_sharp_as_it_was(size):
    """Noise holds all frequencies, and would show any that is lost."""
    picture = 2 * torch.rand(3, size, size, generator=torch.Generator().manual_seed(1)) - 1
    still = torch.full((2, detail.FIELD, detail.FIELD), 1e-7)
    torch.testing.assert_close(detail.warp(picture, still), picture, atol=1e-4, rtol=0)
