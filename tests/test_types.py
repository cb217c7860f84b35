import base64
import dataclasses
import io

import numpy as np
import pytest
import torch
from PIL import Image

from essence import BadFile, Essence, EssenceMismatch, values
from essence.library.safe_files import write_safetensors

from . import fakes


def essence(**changes):
    fields = {
        "delta": torch.randn(12, 256),
        "name": "Grün",
        "model": "mini-1",
        "method": "optimize",
        "strength": 0.8,
    }
    fields["provenance"] = {"seed": 3, "losses": {"total": 0.5}, "options": {"steps": 10}}
    return Essence(**{**fields, **changes})


def test_a_file_keeps_everything(tmp_path):
    before = essence(thumbnail=Image.new("RGB", (300, 300), (200, 30, 30)), reach=4.0)
    before.save(tmp_path / "e.safetensors")
    after = Essence.load(tmp_path / "e.safetensors")
    assert torch.equal(after.delta, before.delta)
    for name in ("name", "model", "method", "strength", "provenance", "reach"):
        assert getattr(after, name) == getattr(before, name)
    assert max(after.thumbnail.size) <= 96
    assert abs(after.thumbnail.getpixel((40, 40))[0] - 200) < 10


@pytest.mark.parametrize("shape", [(18, 512), (1, 18, 512)])
@pytest.mark.parametrize("kind", ["npy", "pt"])
def test_public_directions_are_read(tmp_path, shape, kind):
    delta, path = torch.randn(shape), tmp_path / f"manu.{kind}"
    np.save(path, delta.numpy()) if kind == "npy" else torch.save(delta, path)
    loaded = Essence.load(path)
    assert torch.equal(loaded.delta, delta.view(18, 512))
    assert loaded.name == "manu" and loaded.model == ""


def test_apply_adds_strength_times_delta():
    e, w = essence(), torch.randn(3, 12, 256)
    torch.testing.assert_close(e.apply(w, 0.5), w + 0.5 * e.delta)
    torch.testing.assert_close(e.apply(w), w + 0.8 * e.delta)
    torch.testing.assert_close(e.apply(w, torch.tensor([0.0, 1.0, -1.0]))[2], w[2] - e.delta)
    assert torch.equal(e.apply(w[0], 0), w[0])


def test_another_generators_essence_is_refused_with_both_shapes():
    with pytest.raises(EssenceMismatch, match=r"\[18, 512\].*\[12, 256\]"):
        essence(delta=torch.randn(18, 512)).apply(torch.randn(12, 256))
    with pytest.raises(EssenceMismatch, match="mini-1.*mini-2"):
        essence().check((12, 256), "mini-2")
    essence(model="").check(
        (12, 256), "mini-2"
    )  # a public direction does not say: its shape must do


NO_DIRECTIONS = [
    torch.randn(256),
    torch.randn(2, 12, 256),
    torch.full((12, 256), float("nan")),
    torch.ones(12, 256).int(),
]


@pytest.mark.parametrize("delta", NO_DIRECTIONS)
def test_what_is_no_direction_is_refused(delta):
    with pytest.raises(BadFile):
        Essence(delta)


def damaged(path):
    """Every way in which a file breaks on its way."""
    whole = path.read_bytes()
    yield "empty", b""
    yield "truncated", whole[: len(whole) // 2]
    yield "text", b"hello"
    yield "header says 10 GB", (10**10).to_bytes(8, "little") + whole[8:]
    yield "header flipped", whole[:20] + bytes([whole[20] ^ 255]) + whole[21:]


def test_a_damaged_file_is_a_clear_error(tmp_path):
    path = tmp_path / "e.safetensors"
    essence().save(path)
    for what, content in list(damaged(path)):
        path.write_bytes(content)
        with pytest.raises(BadFile, match="e.safetensors"):
            Essence.load(path)
            pytest.fail(what)


def test_a_pickle_that_would_run_code_is_refused_unrun(tmp_path):
    class Payload:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    torch.save({"delta": Payload()}, tmp_path / "evil.pt")
    with pytest.raises(BadFile, match="read safely"):
        Essence.load(tmp_path / "evil.pt")
    assert not (tmp_path / "ran").exists()


def test_saving_replaces_whole_or_not_at_all(tmp_path):
    (tmp_path / "folder.safetensors").mkdir()
    with pytest.raises(OSError):
        essence().save(tmp_path / "folder.safetensors")
    assert [path.name for path in tmp_path.iterdir()] == ["folder.safetensors"]


def test_an_essence_whose_thumbnail_is_a_bomb_has_none(tmp_path):
    bomb = io.BytesIO()
    Image.new("1", (20_000, 20_000)).save(bomb, "PNG")
    header = {
        "format": values.FORMAT,
        "name": "x",
        "model": "",
        "method": "",
        "strength": 1.0,
        "thumbnail": base64.b64encode(bomb.getvalue()).decode(),
    }
    write_safetensors(tmp_path / "x.safetensors", {"delta": torch.zeros(4, 8)}, header)
    assert Essence.load(tmp_path / "x.safetensors").thumbnail is None


def test_an_endless_strength_is_a_damaged_header(tmp_path):
    header = {"format": values.FORMAT, "name": "x", "model": "", "method": "", "strength": 10**400}
    write_safetensors(tmp_path / "x.safetensors", {"delta": torch.zeros(4, 8)}, header)
    with pytest.raises(BadFile, match="damaged"):
        Essence.load(tmp_path / "x.safetensors")


@pytest.mark.parametrize("reach", [0, -1, 10**400, "far"])
def test_a_reach_that_is_none_is_a_damaged_header(tmp_path, reach):
    header = {
        "format": values.FORMAT,
        "name": "x",
        "model": "",
        "method": "",
        "strength": 1.0,
        "reach": reach,
    }
    write_safetensors(tmp_path / "x.safetensors", {"delta": torch.zeros(4, 8)}, header)
    with pytest.raises(BadFile, match="damaged"):
        Essence.load(tmp_path / "x.safetensors")


def test_the_addition_is_held_only_with_axes_and_a_reach():
    axes, w, far = (
        fakes.model_set().latents,
        torch.randn(3, 8, 8),
        essence(delta=100 * torch.ones(8, 8), reach=4.0),
    )
    plain = dataclasses.replace(far, reach=None)
    assert torch.equal(far.apply(w, 1.0), plain.apply(w, 1.0, axes=axes))
    assert (far.apply(w, 1.0, axes=axes) - w).norm() < 0.9 * (plain.apply(w, 1.0) - w).norm()
    assert (
        Essence.mixture([plain, far], [1, 1]).reach == 4.0
        and Essence.mixture([plain], [1]).reach is None
    )
    assert far.limited(["coarse"]).reach == 4.0
