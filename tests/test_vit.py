"""The vision transformer in few kernels against open_clip's own."""

import copy

import pytest
import torch
import torch.nn.functional as F

from essence.models import vit

from . import fakes

VISION = {"image_size": 32, "layers": 3, "width": 32, "patch_size": 8, "head_width": 8}


@pytest.fixture(params=[True, False], ids=["quick", "gelu"])
def visual(request):
    from open_clip.model import CLIP

    config = fakes.CLIP | {"vision_cfg": VISION, "quick_gelu": request.param}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = CLIP(**config).visual.eval().requires_grad_(False)
        for weight in model.parameters():
            weight += 0.1 * torch.randn_like(weight)
    return model


def embedded(work, dtype=torch.float32):
    """Embeddings of some pictures, and the gradient of their sum of squares."""
    images = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(1)).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
        e = work(images).float()
    e.square().sum().backward()
    return e.detach(), images.grad


def test_the_same_numbers_and_gradients(visual):
    assert vit.supports(visual)
    for ours, theirs in zip(embedded(vit.FrozenViT(visual)), embedded(visual), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)


def test_preprocessing_goes_into_the_first_weights(visual):
    mean, std = torch.tensor([0.4, 0.5, 0.6]).view(3, 1, 1), torch.tensor([0.2, 0.3, 0.25])
    std, ours = std.view(3, 1, 1), vit.FrozenViT(visual)
    found = embedded(lambda images: ours(images, (mean, std)))
    expected = embedded(lambda images: visual(((images + 1) / 2 - mean) / std))
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)


def test_half_precision_looks_the_same_way(visual):
    exact = embedded(visual)[0]
    half = embedded(vit.FrozenViT(visual), torch.bfloat16)[0]
    assert F.cosine_similarity(half, exact).min() > 0.999


def test_weights_that_are_moved_or_changed_are_noticed(visual):
    ours = vit.FrozenViT(visual)
    before = embedded(ours)[0]
    visual.transformer.resblocks[1].mlp.c_fc.weight.mul_(2)
    after = embedded(ours)[0]
    assert not torch.allclose(before, after)
    torch.testing.assert_close(after, embedded(visual)[0], atol=1e-5, rtol=1e-4)


def test_learned_weights_and_other_networks_are_left_alone(visual):
    learned = copy.deepcopy(visual).requires_grad_(True)
    assert not vit.supports(learned)
    assert not vit.supports(torch.nn.Linear(2, 2))
