import copy
import dataclasses

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from essence.evaluate.metrics import chip_descriptors
from essence.models.identity import CHIP, FILE, face_chip, face_descriptor
from essence.models.latents import LatentAxes
from essence.models.style_layers import BLUR, ModulatedConv
from essence.models.stylegan2 import Generator, GeneratorConfig
from essence.ops import WeightCache, dispatch, leaky_relu, styled_conv, upfirdn2d
from essence.ops.synthesis import BatchedStyles, FusedSynthesis
from essence.pictures.tensors import to_tensor
from essence.runtime.folders import package_file

from . import fakes


@pytest.mark.parametrize("up, pad", [(1, (1, 1)), (2, (2, 1))])
def test_upfirdn_is_a_convolution_with_the_outer_product(up, pad):
    x = torch.randn(2, 3, 7, 5, dtype=torch.float64)
    spread = torch.zeros(2, 3, 7 * up, 5 * up, dtype=torch.float64)
    spread[..., ::up, ::up] = x
    kernel = torch.outer(torch.tensor(BLUR), torch.tensor(BLUR)).double()
    expected = F.conv2d(F.pad(spread, (*pad, *pad)), kernel.flip(0, 1).expand(3, 1, 4, 4), groups=3)
    torch.testing.assert_close(upfirdn2d(x, BLUR, up=up, pad=pad), expected)


def test_upfirdn_has_two_derivatives():
    x = torch.randn(1, 2, 4, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: upfirdn2d(x, BLUR, up=2, pad=(2, 1)), x)
    assert torch.autograd.gradgradcheck(lambda x: upfirdn2d(x, BLUR, up=2, pad=(2, 1)), x)


@torch.no_grad()
def test_modulation_of_activations_equals_modulation_of_weights():
    """The paper's own order of operations, for each picture by itself."""
    conv = fakes.model_set().generator.convs[1].conv
    x, w, bias, noise = (
        torch.randn(3, 8, 8, 8),
        torch.randn(3, 8),
        torch.randn(8),
        torch.randn(1, 1, 8, 8),
    )
    weight = conv.scale * conv.weight * conv.modulation(w)[:, None, :, None, None]
    weight = weight * torch.rsqrt(weight.square().sum(dim=(2, 3, 4), keepdim=True) + 1e-8)
    expected = torch.cat([F.conv2d(x[i : i + 1], weight[i], padding=1) for i in range(3)])
    (style,), (scale,) = BatchedStyles([conv])(w[:, None])
    ours = styled_conv(x, conv.weight[0], style, scale, bias, noise, None, WeightCache())
    torch.testing.assert_close(ours, leaky_relu(expected, bias, noise), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(conv(x, w), expected, atol=1e-5, rtol=1e-4)


def test_styles_of_many_convolutions_are_those_of_each():
    """Wide and narrow ones, colours among them, with the gradients of latents and weights."""
    convs = [
        ModulatedConv(6, 4, 3, 5),
        ModulatedConv(4, 3, 1, 5, demodulate=False),
        ModulatedConv(4, 8, 3, 5, upsample=True),
    ]
    w = torch.randn(2, 3, 5, requires_grad=True)
    styles, scales = BatchedStyles(convs)(w)
    assert [i for i, scale in enumerate(scales) if scale is not None] == [0, 2]
    for i, conv in enumerate(convs):
        expected = conv.modulation(w[:, i]) * conv.scale
        torch.testing.assert_close(styles[i], expected)
        if scales[i] is not None:
            filters = conv.weight * expected[:, None, :, None, None]
            torch.testing.assert_close(
                scales[i], torch.rsqrt(filters.square().sum(dim=(2, 3, 4)) + 1e-8)
            )
    sum(factor.sum() for factor in [*styles, *scales] if factor is not None).backward()
    parameters = [
        p for conv in convs for p in (conv.weight, conv.modulation.weight, conv.modulation.bias)
    ]
    assert all(
        t.grad is not None and t.grad.abs().sum() > 0
        for t in [w, *parameters]
        if t is not convs[1].weight
    )


@torch.no_grad()
def test_what_follows_from_a_weight_follows_the_weight():
    """It is kept while nobody learns the weight; an average of generators, and a file, write into
    it all the same.
    """
    cache, layer = WeightCache(), torch.nn.Linear(3, 2).requires_grad_(False)

    def energy():
        return cache("energy", lambda weight: weight.float().square(), layer.weight)

    expected = energy().clone()
    assert energy() is energy() and cache("other", torch.neg, layer.weight) is not energy()
    layer.weight.mul_(2)
    torch.testing.assert_close(energy(), 4 * expected)
    layer.load_state_dict({**layer.state_dict(), "weight": 3 * layer.weight})
    torch.testing.assert_close(energy(), 36 * expected)
    layer.weight.data = layer.weight.data.double() / 6
    torch.testing.assert_close(energy(), expected)
    with torch.enable_grad():
        layer.requires_grad_()
        energy().sum().backward()
    torch.testing.assert_close(layer.weight.grad, 2 * layer.weight)


@pytest.mark.parametrize("kernels", [True, False], ids=["kernels", "torch"])
@pytest.mark.parametrize("resolution", [None, 16])
def test_the_fused_synthesis_is_the_plain_one(monkeypatch, kernels, resolution):
    """The same pictures and the same gradients of w+, with the kernels, if they compile here, and
    without; and it is taken where the weights are frozen only.
    """
    if not kernels:
        monkeypatch.setattr(dispatch, "cpu_kernels", lambda: False)
    with torch.random.fork_rng():
        torch.manual_seed(
            9
        )  # with which no pixel is so near to zero that rounding decides the leak
        generator = Generator(GeneratorConfig(32, 16, 2, {4: 32, 8: 32, 16: 32, 32: 16}))
        w = torch.randn(3, generator.config.layers, 16, requires_grad=True)
    for layer in (generator.conv1, *generator.convs):
        layer.noise.weight.data.fill_(0.1)
    generator.requires_grad_(False)
    taken, call = [], FusedSynthesis.__call__
    monkeypatch.setattr(FusedSynthesis, "__call__", lambda *args: (taken.append(1), call(*args))[1])

    def found():
        picture = generator.synthesis(w, resolution)
        wave = torch.sin(torch.arange(picture.numel())).view(picture.shape)
        return picture, torch.autograd.grad(picture, w, wave)[0]

    fused = found()
    generator.conv1.noise.weight.requires_grad_()
    plain = found()
    assert taken == [1]
    torch.testing.assert_close(fused[0], plain[0], atol=1e-4, rtol=0)
    largest = plain[1].abs().max()
    torch.testing.assert_close(fused[1] / largest, plain[1] / largest, atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", ["conv.weight", "conv.modulation.bias", "activate.bias"])
def test_a_weight_that_is_learned_gets_its_gradient(name):
    """Through two derivatives, as path length regularisation takes them."""
    generator = copy.deepcopy(fakes.model_set().generator).requires_grad_(False)
    weight = generator.convs[1].get_parameter(name).requires_grad_()
    w = torch.randn(2, 8, 8, requires_grad=True)
    (g,) = torch.autograd.grad(generator.synthesis(w).square().sum(), w, create_graph=True)
    g.square().sum().backward()
    assert weight.grad.abs().sum() > 0 and w.grad.abs().sum() > 0


@torch.no_grad()
def test_early_stop_gives_the_skip_picture():
    generator = fakes.model_set().generator
    w = torch.randn(2, 8, 8)
    small = generator.synthesis(w, resolution=16)
    assert small.shape == (2, 3, 16, 16)
    changed = w.clone()
    changed[:, 6:] += 1  # layers beyond 16 pixels
    torch.testing.assert_close(generator.synthesis(changed, resolution=16), small)
    with pytest.raises(ValueError, match="resolution must be one of"):
        generator.synthesis(w, resolution=48)


@torch.no_grad()
def test_truncation_zero_is_the_mean_and_noise_is_fixed():
    generator = fakes.model_set().generator
    z = torch.randn(3, 8)
    mean = generator.latent_avg.mean(0)
    torch.testing.assert_close(generator.mapping(z, 0), mean.expand(3, -1))
    assert torch.equal(generator(z), generator(z))


@torch.no_grad()
def test_descriptor_agrees_with_dlib():
    import dlib

    picture = np.random.default_rng(0).integers(0, 256, (CHIP, CHIP, 3), dtype=np.uint8)
    expected = np.array(
        dlib.face_recognition_model_v1(str(package_file(FILE))).compute_face_descriptor(picture)
    )
    ours = face_descriptor()(torch.from_numpy(picture).permute(2, 0, 1)[None] / 127.5 - 1)[0]
    np.testing.assert_allclose(ours.numpy(), expected, atol=1e-5)


def test_axes_are_one_standard_deviation_long():
    mix = torch.randn(6, 6, generator=torch.Generator().manual_seed(0))
    axes = LatentAxes.of(torch.ones(6), mix @ mix.T)
    samples = axes.sample(40_000, torch.Generator().manual_seed(1))
    torch.testing.assert_close(torch.cov(samples.T), mix @ mix.T, atol=0.25, rtol=0.1)
    coordinates = axes.coordinates(samples - axes.mean)
    torch.testing.assert_close(torch.cov(coordinates.T), torch.eye(6), atol=0.05, rtol=0)


def test_clip_reads_pictures_of_any_side_and_texts():
    clip = fakes.model_set().clip
    pictures, texts = (
        clip.embed_images(torch.rand(2, 3, 50, 70)),
        clip.embed_texts(["a face", "another face"]),
    )
    assert pictures.shape == texts.shape == (2, 8)
    torch.testing.assert_close(torch.cat([pictures, texts]).norm(dim=1), torch.ones(4))


def test_the_face_chip_is_what_dlib_cuts(face_image):
    """Its descriptor is near that of dlib's own chip, and far nearer than the whole picture's."""
    crop = face_image.crop((128, 128, 384, 384))
    theirs = chip_descriptors(np.asarray(crop)[None])
    net, whole = face_descriptor(), to_tensor(crop)
    assert (net(face_chip(whole)) - theirs).norm() < 0.35 < (net(whole) - theirs).norm()


def people(count=40, layers=6, width=5):
    """Axes with unequal variances, and latents of people, some of them far out."""
    random = torch.Generator().manual_seed(7)
    mix = torch.randn(width, width, generator=random)
    axes = LatentAxes.of(torch.randn(width, generator=random), mix @ mix.T)
    common, own = (
        torch.randn(count, 1, width, generator=random),
        torch.randn(count, layers, width, generator=random),
    )
    return axes, axes.mean + torch.linspace(0.2, 6, count).view(-1, 1, 1) * (
        common + 0.3 * own
    ) @ mix.T


def place(axes, w, delta):
    """Where on the line of `delta` each w lies, in standard deviations, found without the code
    under test.
    """
    line = delta.mean(0)
    people = axes.sample(200_000, torch.Generator().manual_seed(9)) @ line
    return (w.mean(1) @ line - people.mean()) / people.std()


@pytest.mark.parametrize("sign", [1, -1])
def test_an_essence_ends_where_the_generators_people_end(sign):
    axes, w = people()
    delta = sign * 2 * torch.randn(6, 5, generator=torch.Generator().manual_seed(8)) @ axes.axes
    before = place(axes, w, delta)
    ways = [axes.hold(w, strength * delta, 3.0) for strength in (0.0, 0.1, 0.5, 1.0, 2.0, 50.0)]
    went = torch.stack([place(axes, w + way, delta) - before for way in ways])
    assert (went.diff(dim=0) > -1e-4).all()  # a stronger essence never moves less
    assert (
        before + went[-1] <= before.clamp(min=2.5) + 0.52
    ).all()  # nobody passes 3, or goes on by more than a half
    assert before.max() > 3  # some were beyond it already
    near = before < 1
    assert near.any() and torch.allclose(
        ways[1][near], 0.1 * delta.expand(int(near.sum()), -1, -1), rtol=0.01
    )
    assert all(
        torch.allclose(way / way.norm(), delta / delta.norm(), atol=1e-4) for way in ways[3]
    )  # shorter, not another


def test_without_a_reach_or_a_way_nothing_is_held():
    axes, w = people()
    delta = 30 * torch.randn(6, 5)
    assert axes.hold(w, delta, None) is delta
    still = torch.zeros(6, 5, requires_grad=True)
    axes.hold(w, still, 4.0).sum().backward()
    assert torch.equal(
        still.grad, torch.full((6, 5), float(len(w)))
    )  # the first step of learning goes anywhere


@torch.no_grad()
def test_pictures_from_styles_are_those_of_their_latents(monkeypatch):
    """By both ways through the generator, at every resolution."""
    generator = fakes.model_set().generator
    w_plus = torch.randn(3, 8, 8, generator=torch.Generator().manual_seed(0))
    styles = generator.styles(w_plus)
    assert [s.shape[1] for s in styles] == [8, 8, 8, 8, 8, 8, 8, 8, 8, 4, 4]
    for resolution in generator.config.resolutions:
        made = generator.synthesis_from_styles(styles, resolution)
        fused = generator.synthesis(w_plus, resolution)
        torch.testing.assert_close(made, fused, atol=1e-5, rtol=1e-4)
    monkeypatch.setattr(FusedSynthesis, "applies", lambda self: False)
    assert torch.equal(generator.synthesis(w_plus), generator.synthesis_from_styles(styles))
    assert torch.equal(
        generator.styles(w_plus[:, 0])[3], generator.styles(generator.repeat(w_plus[:, 0]))[3]
    )
    styles[4] = styles[4] + 1  # no latent says that
    assert not torch.allclose(generator.synthesis_from_styles(styles), made)


def test_a_cpu_draws_what_is_shown_in_single_precision_though_it_learns_in_half():
    models = fakes.model_set()
    w = models.generator.repeat(torch.randn(2, 8, generator=torch.Generator().manual_seed(0)))
    half = dataclasses.replace(models, half=True)
    assert torch.equal(half.shown(w), models.images(w))
    assert not torch.equal(half.images(w), models.images(w))
