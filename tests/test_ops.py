"""The operations: the reference against its definition, the kernels against the reference, and when
which is taken.

The kernels' source also compiles as C++ that runs the threads in turn ("host"): the arithmetic is
held without a GPU, the launches are not.
"""

import ctypes
import itertools
import shutil
import subprocess
import warnings

import pytest
import torch

from essence import ops
from essence.errors import UserError
from essence.models.style_layers import BLUR
from essence.ops import build, cuda, dispatch, reference

ARCHITECTURES = ["sm_75", "sm_80", "sm_86", "sm_89", "sm_90"]
NEWER = ["sm_100"]  # where the compiler knows them
KERNELS = ["activate", "slope", "resample", "norm", "norm_back"]
KERNELS += ["synthesis", "synthesis_back", "synthesis_sums"]
SIZES = [(2, 3, 7, 5), (1, 5, 1, 1), (3, 4, 16, 12), (2, 2, 33, 19)]
GEOMETRIES = [
    (1, (1, 1), BLUR),
    (2, (2, 1), BLUR),
    (1, (0, 0), (1.0,)),
    (3, (3, 4), (0.1, 0.2, 0.3, 0.25, 0.15)),
    (1, (3, 2), BLUR),
]
TOLERANCE = {torch.float32: 1e-5, torch.float16: 4e-3, torch.bfloat16: 3e-2}

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
ON_GPU = [
    pytest.param(("cuda", dtype), marks=[pytest.mark.gpu, needs_gpu], id=f"cuda-{dtype}")
    for dtype in TOLERANCE
]


def toolkit():
    try:
        return build.cuda_toolkit()
    except build.BuildError:
        return None


@pytest.fixture(scope="session")
def host_library(tmp_path_factory):
    path = tmp_path_factory.mktemp("ops") / "host.so"
    command = [
        "-x",
        "c++",
        "-std=c++17",
        "-O1",
        "-Wall",
        "-Werror",
        "-shared",
        "-fPIC",
        str(build.CUDA_SOURCE),
        "-o",
        str(path),
    ]
    if not shutil.which("g++"):
        pytest.skip("needs g++")
    subprocess.run(["g++", *command], check=True)
    return ctypes.CDLL(str(path))


@pytest.fixture(params=[pytest.param(("cpu", torch.float32), id="host"), *ON_GPU])
def place(request, monkeypatch):
    """(device, dtype) where `cuda`'s functions run."""
    if request.param[0] == "cpu":
        library = request.getfixturevalue("host_library")
        monkeypatch.setattr(cuda, "_library", lambda device: library)
        monkeypatch.setattr(cuda, "_stream", lambda x: None)
    return request.param


def tensor(place, *shape, last=False):
    device, dtype = place
    x = torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape))).to(device, dtype)
    return x.contiguous(memory_format=torch.channels_last) if last else x


def derivatives(function, *inputs):
    """Output, first derivatives, and the derivatives of a function of the first ones."""
    inputs = [x.detach().clone().requires_grad_() for x in inputs]
    y = function(*inputs)
    g = torch.linspace(-1, 1, y.numel(), device=y.device).to(y.dtype).view(y.shape).requires_grad_()
    first = torch.autograd.grad(y, inputs, g, create_graph=True)
    loss = sum(
        (d.float() * (1 + torch.arange(d.numel(), device=d.device).view(d.shape) % 3)).sum()
        for d in first
    )
    second = torch.autograd.grad(loss, [g, *inputs], allow_unused=True, materialize_grads=True)
    return [y, *first, *second]


def agree(ours, expected, dtype):
    for a, b in zip(ours, expected, strict=True):
        assert a.dtype == b.dtype
        scale = 1 + b.abs().max().item()  # sums over a picture in half precision
        torch.testing.assert_close(
            a.float() / scale, b.float() / scale, atol=TOLERANCE[dtype], rtol=TOLERANCE[dtype]
        )


@pytest.mark.parametrize("last", [False, True], ids=["nchw", "nhwc"])
@pytest.mark.parametrize("shape", SIZES)
@pytest.mark.parametrize(
    "with_bias, noises", [(True, 1), (False, 1), (True, None), (False, None), (True, "each")]
)
def test_kernel_activates_as_the_reference(place, shape, with_bias, noises, last):
    x, b, h, w = tensor(place, *shape, last=last), shape[0], *shape[2:]
    inputs = [x]
    if with_bias:
        inputs.append(tensor(place, shape[1]))
    if noises:
        inputs.append(tensor(place, b if noises == "each" else 1, 1, h, w))

    def call(module):
        def function(x, *rest):
            rest = list(rest)
            bias = rest.pop(0) if with_bias else None
            return module.leaky_relu(x, bias, rest[0] if rest else None)

        return function

    ours = derivatives(call(cuda), *inputs)
    agree(ours, derivatives(call(reference), *inputs), place[1])
    assert ours[0].stride() == torch.empty_like(x).stride()


def test_the_side_of_the_kink_is_decided_before_any_rounding(place):
    """x + bias + noise is nothing, the least more, or the least less, in a type that could not hold
    x + bias: the slope is the leak's up to zero, and its output has the sign.
    """
    device, dtype = place
    bias, noise = torch.tensor([1.0], device=device), torch.tensor([2.0**-12, 0, -(2.0**-12)])
    x = torch.full((1, 1, 1, 3), -1.0, device=device, dtype=dtype)
    for last in (False, True):
        for module in (cuda, reference):
            leaf = x.clone().requires_grad_()
            given = leaf.contiguous(memory_format=torch.channels_last) if last else leaf
            y = module.leaky_relu(given, bias, noise.view(1, 1, 1, 3).to(device))
            y.sum().backward()
            gain = 2**0.5
            expected = torch.tensor([gain, 0.2 * gain, 0.2 * gain], device=device)
            assert torch.equal(leaf.grad.flatten(), expected.to(dtype))
            assert y.sign().flatten().tolist() == [1, 0, -1]


def test_kernel_activates_rows(place):
    x, bias = tensor(place, 3, 10), tensor(place, 10)
    agree(
        derivatives(cuda.leaky_relu, x, bias), derivatives(reference.leaky_relu, x, bias), place[1]
    )


def test_kernel_activates_what_is_yet_to_be_scaled(place):
    inputs = (
        tensor(place, 2, 3, 5, 7),
        tensor(place, 3),
        tensor(place, 1, 1, 5, 7),
        tensor(place, 2, 3),
    )
    agree(
        derivatives(cuda.leaky_relu, *inputs), derivatives(reference.leaky_relu, *inputs), place[1]
    )


@pytest.mark.parametrize("last", [False, True], ids=["nchw", "nhwc"])
@pytest.mark.parametrize("shape", SIZES)
@pytest.mark.parametrize("up, pad, taps", GEOMETRIES)
def test_kernel_resamples_as_the_reference(place, shape, up, pad, taps, last):
    if min(shape[2:]) * up + sum(pad) < len(taps):
        pytest.skip("nothing comes out")
    x = tensor(place, *shape, last=last)
    ours, expected = (
        derivatives(lambda x, m=m: m.upfirdn2d(x, taps, up, pad), x) for m in (cuda, reference)
    )
    agree(ours, expected, place[1])


def test_kernel_takes_views(place):
    """Sliced and transposed pictures, and memory that begins at an odd place."""
    x = tensor(place, 2, 6, 9, 8)
    for view in (x[:, ::2], x.transpose(2, 3), x.flatten()[1 : 1 + 2 * 3 * 4 * 8].view(2, 3, 4, 8)):
        agree([cuda.leaky_relu(view)], [reference.leaky_relu(view)], place[1])
        agree(
            [cuda.upfirdn2d(view, BLUR, 1, (1, 1))],
            [reference.upfirdn2d(view, BLUR, 1, (1, 1))],
            place[1],
        )


@pytest.mark.parametrize("up, pad, taps", GEOMETRIES[:4])
def test_reference_resampling_has_two_derivatives(up, pad, taps):
    x = torch.randn(1, 2, 4, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: reference.upfirdn2d(x, taps, up, pad), x)
    assert torch.autograd.gradgradcheck(lambda x: reference.upfirdn2d(x, taps, up, pad), x)


def test_reference_activation_has_two_derivatives():
    shapes = ((2, 3, 4, 5), (3,), (1, 1, 4, 5), (2, 3))
    parts = [torch.randn(*shape, dtype=torch.float64, requires_grad=True) for shape in shapes]
    for inputs in (parts, parts[:3], parts[:1]):
        assert torch.autograd.gradcheck(reference.leaky_relu, inputs)
        assert torch.autograd.gradgradcheck(reference.leaky_relu, inputs)


@pytest.mark.parametrize("last", [False, True], ids=["nchw", "nhwc"])
@pytest.mark.parametrize(
    "with_bias, with_noise, with_scale", list(itertools.product([False, True], repeat=3))
)
def test_reference_is_the_sum_through_the_slope(with_bias, with_noise, with_scale, last):
    x, bias, noise, scale = (
        torch.randn(2, 3, 4, 5),
        torch.randn(3),
        torch.randn(2, 1, 4, 5),
        torch.randn(2, 3),
    )
    x = x.contiguous(memory_format=torch.channels_last) if last else x
    total = (
        (scale[:, :, None, None] if with_scale else 1) * x
        + with_bias * bias[:, None, None]
        + with_noise * noise
    )
    kept, parts = (
        x.clone(),
        (bias if with_bias else None, noise if with_noise else None, scale if with_scale else None),
    )
    y = reference.leaky_relu(x, *parts)
    torch.testing.assert_close(y, 2**0.5 * torch.where(total > 0, total, 0.2 * total))
    assert y.stride() == x.stride() and torch.equal(x, kept)


# -- which is taken


@pytest.fixture
def chooser(monkeypatch):
    dispatch.cuda_kernels.cache_clear()
    yield monkeypatch
    dispatch.cuda_kernels.cache_clear()


def fail():
    raise build.BuildError("there is no CUDA compiler")


def test_one_warning_says_why_plain_torch_is_used(chooser):
    chooser.delenv("ESSENCE_OPS", raising=False)
    chooser.setattr(cuda, "compile_kernels", fail)
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        assert [dispatch.cuda_kernels() for _ in range(3)] == [False] * 3
    assert len(seen) == 1 and "there is no CUDA compiler" in str(seen[0].message)


def test_a_demand_that_cannot_be_met_is_an_error_and_reference_asks_for_nothing(chooser):
    chooser.setattr(cuda, "compile_kernels", fail)
    chooser.setenv("ESSENCE_OPS", "cuda")
    with pytest.raises(UserError, match="there is no CUDA compiler"):
        dispatch.cuda_kernels()
    chooser.setenv("ESSENCE_OPS", "reference")
    assert dispatch.cuda_kernels() is False
    dispatch.cuda_kernels.cache_clear()
    chooser.setenv("ESSENCE_OPS", "gpu")
    with pytest.raises(UserError, match="auto, cuda, reference.*'gpu'"):
        dispatch.cuda_kernels()


def test_pictures_on_the_processor_never_ask_for_a_compiler(chooser):
    chooser.setattr(cuda, "compile_kernels", fail)
    chooser.setenv("ESSENCE_OPS", "cuda")
    x = torch.randn(1, 2, 4, 4)
    assert torch.equal(ops.leaky_relu(x), reference.leaky_relu(x))


def test_no_compiler_is_said(monkeypatch, tmp_path):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    monkeypatch.setattr(build.Path, "is_file", lambda path: False)
    with pytest.raises(build.BuildError, match="nvidia-cuda-nvcc"):
        build.cuda_toolkit()


def test_a_failing_compiler_is_a_reason(monkeypatch, tmp_path):
    (tmp_path / "bin").mkdir()
    nvcc = tmp_path / "bin" / "nvcc"
    nvcc.write_text("#!/bin/sh\nexit 1\n")
    nvcc.chmod(0o755)
    monkeypatch.setenv("CUDA_HOME", str(tmp_path))
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path / "cache"))
    with pytest.raises(build.BuildError, match="the compiler failed"):
        build.compile_cuda(["sm_90"])


@pytest.mark.skipif(
    toolkit() is None or torch.version.cuda is None, reason="needs nvcc and a torch with CUDA"
)
def test_kernels_compile_for_every_architecture(monkeypatch, tmp_path):
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path))
    nvcc = [build.cuda_toolkit() / "bin" / "nvcc", "--list-gpu-code"]
    known = subprocess.run(nvcc, capture_output=True, text=True).stdout.split()
    architectures = [each for each in ARCHITECTURES + NEWER if each in known or each not in NEWER]
    library = ctypes.CDLL(build.compile_cuda(architectures))
    assert all(hasattr(library, f"essence_{name}") for name in KERNELS)
    code = build.cuda_toolkit() / "bin" / "cuobjdump"
    if code.is_file():
        listed = subprocess.run(
            [code, "--list-elf", library._name], capture_output=True, text=True
        ).stdout
        assert all(a in listed for a in architectures)
    before = [path.stat().st_mtime_ns for path in tmp_path.rglob("*.so")]
    build.compile_cuda(architectures)
    assert before == [path.stat().st_mtime_ns for path in tmp_path.rglob("*.so")], "built twice"
