"""The generator's way through a GPU, its kernels run as C++ (see test_ops.py)."""

import copy
import dataclasses

import pytest
import torch
import torch.nn.functional as F

from essence.library import loading
from essence.models.style_layers import BLUR
from essence.models.stylegan2 import Generator, GeneratorConfig
from essence.ops import cuda, cuda_synthesis, reference
from essence.ops.weight_cache import WeightCache
from essence.pictures.tensors import to_uint8

from . import fakes
from .test_ops import host_library, needs_gpu  # noqa: F401

CONFIGS = [
    GeneratorConfig(16, 8, 1, {4: 8, 8: 8, 16: 4}),
    GeneratorConfig(32, 6, 1, {4: 3, 8: 6, 16: 6, 32: 2}),
]


@pytest.fixture
def on_host(host_library, monkeypatch):  # noqa: F811
    monkeypatch.setattr(cuda, "_library", lambda device: host_library)
    monkeypatch.setattr(cuda, "_stream", lambda x: None)


def generator_of(config):
    with torch.random.fork_rng():
        torch.manual_seed(3)
        generator = Generator(config)
        for module in generator.modules():
            if hasattr(module, "noise"):
                module.noise.weight.data.normal_()
            for name in ("bias",):
                if isinstance(getattr(module, name, None), torch.nn.Parameter):
                    getattr(module, name).data += 0.3 * torch.randn_like(getattr(module, name))
    return generator


def fused(generator, w, resolution):
    blocks = generator.config.resolutions.index(resolution) + 1
    noises = [getattr(generator.noises, f"noise_{i}") for i in range(2 * blocks - 1)]
    constant = generator.input.input
    network = generator._fused.blocks[:blocks]
    return cuda_synthesis.synthesize(network, constant, noises, w, WeightCache())


@pytest.mark.parametrize("resolution", [4, 16])
@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: str(config.size))
def test_pictures_and_gradients_are_those_of_the_plain_forward(on_host, config, resolution):
    generator = generator_of(config)
    plain, ours = (
        torch.randn(
            3, config.layers, config.style_dim, generator=torch.Generator().manual_seed(1)
        ).requires_grad_()
        for _ in range(2)
    )
    expected = generator.synthesis(plain, resolution)  # weights require a gradient: layer by layer
    picture = fused(generator, ours, resolution)
    torch.testing.assert_close(picture, expected, atol=1e-5, rtol=1e-4)
    weight = torch.linspace(-1, 1, picture.numel()).view(picture.shape)
    (expected * weight).sum().backward()
    (picture * weight).sum().backward()
    scale = plain.grad.abs().max()
    torch.testing.assert_close(ours.grad / scale, plain.grad / scale, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("shape", [(4, 3, 5, 5), (2, 5, 4, 7)])
def test_upsampling_and_blur_are_one_convolution(shape):
    random = torch.Generator().manual_seed(0)
    x = torch.randn(2, *shape[1:], generator=random)
    weight = torch.randn(shape[0], shape[1], 3, 3, generator=random)
    spread = F.conv_transpose2d(x, weight.transpose(0, 1), stride=2)
    expected = reference.upfirdn2d(spread, BLUR, pad=(1, 1))
    merged = cuda_synthesis.merged_with_blur(weight)
    ours = F.conv_transpose2d(x, merged, stride=2, padding=2)
    torch.testing.assert_close(ours, expected, atol=1e-5, rtol=1e-5)
    split = F.conv2d(x, cuda_synthesis.split_by_parity(merged), padding=1)
    split = split.unflatten(1, (2, 2, -1)).permute(0, 3, 4, 1, 5, 2)  # [B, out, H, 2, W, 2]
    torch.testing.assert_close(split.reshape(ours.shape), ours, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("with_branch", [True, False])
def test_sum_and_norm_are_those_of_torch(on_host, with_branch):
    random = torch.Generator().manual_seed(2)
    norm = torch.nn.LayerNorm(12).requires_grad_(False)
    norm.weight.normal_(generator=random), norm.bias.normal_(generator=random)
    found = []
    for module in (cuda, reference):
        random.manual_seed(4)
        x, branch = (torch.randn(2, 5, 12, generator=random).requires_grad_() for _ in range(2))
        given = (x, branch if with_branch else None)
        total, out = module.add_norm(*given, norm, torch.float32)
        (total.sin().sum() + (out * torch.arange(12)).sum()).backward()
        found.append((total, out, x.grad, *([branch.grad] if with_branch else [])))
    for ours, expected in zip(*found, strict=True):
        torch.testing.assert_close(ours, expected, atol=1e-5, rtol=1e-4)


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize("half", [False, True], ids=["full", "half"])
def test_on_a_gpu_pictures_and_gradients_are_the_processors(half):
    generator = generator_of(GeneratorConfig(64, 32, 1, dict.fromkeys((4, 8, 16, 32, 64), 32)))
    found = []
    for device in ("cpu", "cuda"):
        w = torch.randn(4, 10, 32, generator=torch.Generator().manual_seed(1)).to(device)
        network = copy.deepcopy(generator).requires_grad_(device == "cpu").to(device)
        w.requires_grad_()
        with torch.autocast("cuda", torch.bfloat16, enabled=half and device == "cuda"):
            picture = network.synthesis(w)
        picture.square().mean().backward()
        found.append((picture.detach().cpu(), w.grad.cpu()))
    (expected, g_expected), (picture, g) = found
    spread = expected.std()
    assert (picture - expected).abs().mean() / spread < (2e-2 if half else 2e-3)
    assert F.cosine_similarity(g.flatten(), g_expected.flatten(), dim=0) > (0.99 if half else 0.999)


@pytest.mark.gpu
@needs_gpu
def test_on_a_gpu_the_recorded_renderer_gives_the_launched_pictures():
    fake = fakes.model_set()
    generator = copy.deepcopy(fake.generator).cuda()
    models = dataclasses.replace(fake, generator=generator)
    for seed in range(3):  # launched, recorded, replayed
        w = torch.randn(2, 8, 8, generator=torch.Generator().manual_seed(seed))
        launched = to_uint8(models.images(w.cuda())).astype(int)
        assert abs(models.render(w).astype(int) - launched).max() <= 1


class RoundedConvolutions:
    """torch.nn.functional with convolutions in so many bits, whose sums are float32 as cuDNN's."""

    def __init__(self, dtype: torch.dtype):
        self.dtype = dtype

    def __getattr__(self, name: str):
        return getattr(F, name)

    def conv2d(self, x, weight, **given):
        rounded = F.conv2d(self._round(x), self._round(weight), **given)
        return self._round(rounded)

    def _round(self, x):
        return x.to(self.dtype).float()


@torch.no_grad()
@pytest.mark.parametrize("dtype, most", [(torch.float16, 2), (torch.bfloat16, 8)], ids=str)
def test_bundled_pictures_bear_half_precision(on_host, monkeypatch, dtype, most):
    """Those that are shown, in float16, within 2 levels of 255; what CLIP sees of those that are
    learned from, in bfloat16, with a cosine of .999.
    """
    bundled = loading.load_model_set("mini", "cpu", half=False)
    generator = bundled.generator
    z = torch.randn(4, generator.config.style_dim, generator=torch.Generator().manual_seed(1))
    w = generator.repeat(generator.mapping(z))
    exact = fused(generator, w, bundled.size)
    monkeypatch.setattr(cuda_synthesis, "F", RoundedConvolutions(dtype))
    rounded = fused(generator, w, bundled.size)
    assert not torch.equal(rounded, exact)
    assert (rounded - exact).abs().max() * 127.5 < most
    cosines = F.cosine_similarity(bundled.encode(exact), bundled.encode(rounded))
    assert cosines.min() > 0.999
