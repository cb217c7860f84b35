"""The kernels for the processor: against plain torch, in values and gradients; and when they are
taken.
"""

import shutil
import warnings

import pytest
import torch
import torch.nn.functional as F

from essence import ops
from essence.models.identity import CHIP, face_descriptor
from essence.models.style_layers import BLUR
from essence.models.stylegan2 import Generator, GeneratorConfig
from essence.ops import WeightCache, build, dispatch, reference, winograd
from essence.runtime import hardware


def compiles() -> bool:
    try:
        build.cpu_library()
    except build.BuildError:
        return False
    return True


needs_compiler = pytest.mark.skipif(not compiles(), reason="needs Linux and a C++ compiler")
# In and out channels, height and width: whole tiles, cut ones, more than one chunk of channels; and
# one that takes several bands.
SHAPES = [
    (16, 16, 8, 8),
    (32, 80, 9, 13),
    (48, 16, 16, 7),
    (16, 32, 4, 21),
    (16, 16, 4, 4),
    (16, 16, 250, 62),
]


def normal(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


def layer(inner: int, out: int, height: int, width: int, taps, count: int = 2):
    """Arguments of `styled_conv` but the last."""
    up = 1 if taps is None else 2
    weight = normal(out, inner, 3, 3) / (3 * inner**0.5)
    return (
        normal(count, inner, height, width),
        weight,
        1 + normal(count, inner) / 4,
        1 + normal(count, out) / 4,
        normal(out),
        normal(1, 1, up * height, up * width),
        taps,
    )


def plainly(x, weight, style, scale, bias, noise, taps):
    x = x * style[:, :, None, None]
    x = (
        F.conv2d(x, weight, padding=1)
        if taps is None
        else reference.upfirdn2d(
            F.conv_transpose2d(x, weight.transpose(0, 1), stride=2), taps, pad=(1, 1)
        )
    )
    return x * scale[:, :, None, None] + noise + bias[:, None, None]


def gradients(
    y: torch.Tensor, before: torch.Tensor, inputs: list[torch.Tensor]
) -> tuple[torch.Tensor, ...]:
    """Of a wavy loss that leaves out pixels where rounding decides on which side of the leak they
    are.
    """
    wave = torch.sin(torch.arange(y.numel())).view(y.shape)
    return torch.autograd.grad(y, inputs, torch.where(before.abs() < 1e-4, 0, wave))


def agree(ours, expected):
    for a, b in zip(ours, expected, strict=True):
        torch.testing.assert_close(a / b.abs().max(), b / b.abs().max(), atol=2e-5, rtol=0)


@needs_compiler
@pytest.mark.parametrize("taps", [None, BLUR], ids=["flat", "up"])
@pytest.mark.parametrize("shape", SHAPES)
def test_a_layer_is_what_torch_makes_of_it(shape, taps):
    x, weight, style, scale, *rest = layer(*shape, taps)
    inputs = [t.requires_grad_() for t in (x, style, scale)]
    before = plainly(x, weight, style, scale, *rest)
    expected = reference.leaky_relu(before)
    ours = winograd.styled_conv(x, weight, style, scale, *rest, WeightCache())
    assert ours.is_contiguous(memory_format=torch.channels_last)
    agree(
        [ours, *gradients(ours, before, inputs)], [expected, *gradients(expected, before, inputs)]
    )


@needs_compiler
@pytest.mark.parametrize("leak", [0.0, 1.0])
@pytest.mark.parametrize("shape", SHAPES)
def test_a_plain_convolution_is_torchs(shape, leak):
    x, weight, *_, bias, _, _ = layer(*shape, None)
    x.requires_grad_()
    before = F.conv2d(x, weight, bias, padding=1)
    expected = F.leaky_relu(before, leak)
    ours = winograd.conv_leaky_relu(x, weight, bias, leak, WeightCache())
    agree([ours, *gradients(ours, before, [x])], [expected, *gradients(expected, before, [x])])


@needs_compiler
@pytest.mark.parametrize("asked", ["both", "map", "picture"])
@pytest.mark.parametrize("height, width, below", [(4, 4, False), (16, 6, True), (34, 10, True)])
def test_a_layer_and_its_picture_are_what_torch_makes_of_them(height, width, below, asked):
    """Whatever of the two a loss sees."""
    x, weight, style, scale, bias, noise, taps = layer(16, 32, height, width, None)
    skip = ops.OutputSkip(
        normal(3, 32, 1, 1),
        normal(2, 32),
        normal(3),
        normal(2, 3, height // 2, width // 2) if below else None,
        BLUR,
    )
    inputs = [x, style, scale, skip.style, *([skip.below] if below else [])]
    inputs = [t.requires_grad_() for t in inputs]
    before = plainly(x, weight, style, scale, bias, noise, taps)
    y = reference.leaky_relu(before)
    picture = F.conv2d(y * skip.style[:, :, None, None], skip.weight) + skip.bias[:, None, None]
    if below:
        picture = picture + reference.upfirdn2d(skip.below, BLUR, up=2, pad=(2, 1))
    arguments, found = (x, weight, style, scale, bias, noise, skip, WeightCache()), []
    ours = winograd.styled_conv_to_rgb(*arguments)
    for pair in (ours, (y, picture)):
        # A map with its uncertain pixels cut out; the picture counts as far as it does not depend
        # on them.
        certain = (before.abs() > 1e-4).all(1, keepdim=True)
        kept = {
            "map": torch.where(certain, pair[0], 0),
            "picture": torch.where(certain, pair[1], 0),
        }
        loss = sum(
            (t * torch.sin(torch.arange(t.numel())).view(t.shape)).sum()
            for name, t in kept.items()
            if asked in (name, "both")
        )
        found.append(
            [
                g
                for g in torch.autograd.grad(loss, inputs, allow_unused=True, retain_graph=True)
                if g is not None
            ]
        )
    agree([*ours, *found[0]], [y, picture, *found[1]])
    assert len(found[0]) == (3 if asked == "map" else len(inputs))


@needs_compiler
@pytest.mark.parametrize("taps", [None, BLUR], ids=["flat", "up"])
def test_nobody_depends_on_who_else_is_there_or_on_the_threads(taps):
    x, weight, style, scale, *rest = layer(32, 32, 12, 20, taps, count=5)
    together = winograd.styled_conv(x, weight, style, scale, *rest, WeightCache())
    one, threads = (x[3:4], weight, style[3:4], scale[3:4], *rest), torch.get_num_threads()
    try:
        for count in (1, 3):
            torch.set_num_threads(count)
            alone = winograd.styled_conv(*one, WeightCache())
            assert torch.equal(alone, together[3:4])
    finally:
        torch.set_num_threads(threads)


@needs_compiler
def test_gradients_are_the_same_each_time():
    x, weight, style, scale, *rest = layer(16, 32, 20, 20, BLUR)
    style.requires_grad_(), scale.requires_grad_()
    y = winograd.styled_conv(x, weight, style, scale, *rest, WeightCache())
    first, second = (
        torch.autograd.grad(y, [style, scale], torch.ones_like(y), retain_graph=True)
        for _ in range(2)
    )
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@needs_compiler
def test_a_second_derivative_is_refused_and_never_wrong():
    x, weight, style, scale, *rest = layer(16, 16, 8, 8, None)
    y = winograd.styled_conv(x.requires_grad_(), weight, style, scale, *rest, WeightCache())
    (g,) = torch.autograd.grad(y.square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        g.sum().backward()


@needs_compiler
def test_a_generator_makes_the_same_pictures_and_gradients(kernels):
    """At weights where no pixel is so near the activation's kink that rounding decides its slope:
    torch's own gradient jumps there, by up to 2 %, when w is moved by a rounding.
    """
    config = GeneratorConfig(32, 16, 2, {4: 32, 8: 32, 16: 32, 32: 16})
    w, nudge = normal(3, config.layers, 16), 1e-5 * normal(config.layers, 16, 3).view(3, -1, 16)

    def picture_and_gradient(w: torch.Tensor) -> list[torch.Tensor]:
        w = w.clone().requires_grad_()
        picture = generator.synthesis(w)
        return [picture.detach(), *torch.autograd.grad(picture.square().sum(), w)]

    for seed in range(50):
        torch.manual_seed(seed)
        generator = Generator(config).requires_grad_(False)
        for layer in (generator.conv1, *generator.convs):
            layer.noise.weight.fill_(0.1)
        kernels(False)
        expected = picture_and_gradient(w)
        nudged = [picture_and_gradient(w + sign * nudge)[1] for sign in (1, -1)]
        if all((n - expected[1]).abs().max() < 2e-5 * expected[1].abs().max() for n in nudged):
            break
    else:
        pytest.fail("every seed has a pixel at the kink")
    kernels(True)
    agree(picture_and_gradient(w), expected)


@needs_compiler
def test_the_face_network_sees_the_same(kernels):
    pictures, found = normal(2, 3, CHIP, CHIP).clamp(-1, 1), []
    for taken in (True, False):
        kernels(taken)
        found.append([*face_descriptor().features(pictures), face_descriptor()(pictures)])
    agree(*found)


# -- which is taken


@pytest.fixture
def kernels(monkeypatch):
    """Call it with whether the kernels shall be taken."""
    return lambda taken: monkeypatch.setattr(dispatch, "cpu_kernels", lambda: taken)


@pytest.fixture
def asked_anew(monkeypatch):
    dispatch.cpu_kernels.cache_clear()
    build.cpu_library.cache_clear()
    yield monkeypatch
    dispatch.cpu_kernels.cache_clear()
    build.cpu_library.cache_clear()


def test_only_what_they_can_compute_is_given_to_them(kernels):
    kernels(True)
    x, weight, *_, bias, _, _ = layer(16, 16, 8, 8, None)
    taken = dispatch.takes_cpu_kernels
    assert taken(x, weight, bias, None) and taken(x, weight, bias, BLUR)
    assert not taken(x[:, :, :3], weight, bias, None) and not taken(x, weight, bias, (0.5, 0.5))
    assert not taken(x.double(), weight, bias, None)
    assert not taken(x[:, :8], weight[:, :8], bias, None)
    assert not taken(x, weight[:, :, :1, :1], bias, None)
    with torch.autocast("cpu", torch.bfloat16):
        assert not taken(x, weight, bias, None)
    learned = weight.clone().requires_grad_()
    assert not taken(x, learned, bias, None)
    with torch.no_grad():
        assert taken(x, learned, bias, None)
    noise = normal(1, 1, 8, 8)
    assert taken(x, weight, bias, None, noise)
    assert not taken(x, weight, bias, None, noise.expand(2, -1, -1, -1))
    assert not taken(x, weight, bias, None, noise.requires_grad_())
    kernels(False)
    assert not taken(x, weight, bias, None)


def test_no_compiler_is_no_fault(asked_anew):
    asked_anew.delenv("ESSENCE_OPS", raising=False)
    asked_anew.setattr(shutil, "which", lambda name: None)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not dispatch.cpu_kernels()
        x, weight, style, scale, *rest = layer(16, 16, 8, 8, None)
        agree(
            [ops.styled_conv(x, weight, style, scale, *rest, WeightCache())],
            [reference.leaky_relu(plainly(x, weight, style, scale, *rest))],
        )
    if not torch.cuda.is_available():
        assert ops.backend().startswith("reference (torch): ") and "no GPU" in ops.backend()


def test_a_compiler_that_fails_is_told_once(asked_anew, tmp_path):
    broken = tmp_path / "c++"
    broken.write_text("#!/bin/sh\necho no such luck >&2\nexit 1\n")
    broken.chmod(0o755)
    asked_anew.delenv("ESSENCE_OPS", raising=False)
    asked_anew.setenv("CXX", str(broken))
    asked_anew.setenv("ESSENCE_CACHE", str(tmp_path / "cache"))
    asked_anew.setattr("sys.platform", "linux")
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        assert [dispatch.cpu_kernels() for _ in range(3)] == [False] * 3
    assert len(seen) == 1 and "no such luck" in str(seen[0].message)
    assert list((tmp_path / "cache" / "ops").iterdir()) == [], "something half made is left"


def test_plain_torch_can_be_demanded(asked_anew):
    asked_anew.setenv("ESSENCE_OPS", "reference")
    assert not dispatch.cpu_kernels()
    if not torch.cuda.is_available():
        assert ops.backend() == "reference (torch) as ESSENCE_OPS wants it; no GPU"


@needs_compiler
def test_they_are_compiled_once_for_all_processes(asked_anew, tmp_path):
    asked_anew.setenv("ESSENCE_CACHE", str(tmp_path))
    build.cpu_library()
    (made,) = (tmp_path / "ops").iterdir()
    when = made.stat().st_mtime_ns
    build.cpu_library.cache_clear()
    build.cpu_library()
    assert [path.stat().st_mtime_ns for path in (tmp_path / "ops").iterdir()] == [when]


@needs_compiler
def test_a_folder_that_cannot_be_written_is_no_hindrance(asked_anew, tmp_path):
    asked_anew.setattr(build.folders, "is_writable", lambda path: False)
    asked_anew.setenv("ESSENCE_CACHE", str(tmp_path / "cache"))
    build.cpu_library()
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize(
    "library, wide, own, unit, expected",
    [
        (True, True, False, False, False),  # oneDNN converts
        (True, True, True, False, True),
        (True, True, False, True, True),
        (True, False, False, False, True),  # no x86
        (False, True, True, True, False),
    ],
)
def test_bfloat16_pays_where_the_processor_has_instructions_for_it(
    monkeypatch, library, wide, own, unit, expected
):
    monkeypatch.setattr(
        torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: library, raising=False
    )
    for name in ("_is_avx2_supported", "_is_avx512_supported"):
        monkeypatch.setattr(torch.cpu, name, lambda: wide)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: own)
    monkeypatch.setattr(hardware, "has_matrix_unit", lambda: unit)
    assert hardware.multiplies_bfloat16() is expected


@pytest.mark.parametrize("asked", [None, "full", "half"])
@pytest.mark.parametrize("unit", [True, False])
@pytest.mark.parametrize("kernels", [True, False])
@pytest.mark.parametrize("supported", [True, False])
def test_frozen_networks_take_bfloat16_where_it_is_faster(
    monkeypatch, supported, kernels, unit, asked
):
    """The kernels take float32 and beat bfloat16 in vectors, not a unit for it."""
    monkeypatch.setattr(hardware, "multiplies_bfloat16", lambda: supported)
    monkeypatch.setattr(hardware, "has_matrix_unit", lambda: unit)
    monkeypatch.setattr(dispatch, "cpu_kernels", lambda: kernels)
    if asked:
        monkeypatch.setenv("ESSENCE_PRECISION", asked)
    else:
        monkeypatch.delenv("ESSENCE_PRECISION", raising=False)
    expected = supported and (unit or not kernels) if asked is None else asked == "half"
    assert ops.bfloat16_pays("cpu") == expected
    assert hardware.bfloat16_pays("cpu") == (supported if asked is None else asked == "half"), (
        "networks that learn have no kernels"
    )
