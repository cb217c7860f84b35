"""The bundled image-text encoder without open_clip: the same numbers, and models are in memory
without what takes seconds to import.
"""

from pathlib import Path

import pytest
import torch

from essence.library import building, clip_files, manifest
from essence.models import small_clip
from essence.models.stylegan2 import Generator, GeneratorConfig

from . import fakes

ROOT = Path(__file__).parents[1]
TEXTS = ["a smiling man", "", "an old woman with grey hair"]


@pytest.fixture(scope="module")
def both():
    """The bundled encoder as it is loaded, and open_clip's model with the same weights."""
    from open_clip.model import CLIP

    ours = clip_files.load_clip(manifest.model_sets()["mini"].components["clip"].path)
    theirs = CLIP(**ours.config)
    theirs.load_state_dict(ours.model.state_dict())
    return ours, theirs.eval().requires_grad_(False)


@pytest.mark.parametrize("half", [False, True])
def test_the_same_numbers_as_open_clip(both, half):
    ours, theirs = both
    assert isinstance(ours.model, small_clip.SmallCLIP)
    images, tokens = torch.randn(2, 3, ours.size, ours.size), ours.tokenizer(TEXTS)
    with torch.autocast("cpu", torch.bfloat16, enabled=half):
        torch.testing.assert_close(ours.model.encode_image(images), theirs.encode_image(images))
        torch.testing.assert_close(ours.model.encode_text(tokens), theirs.encode_text(tokens))


def test_the_same_gradient_as_open_clip(both):
    ours, theirs = both
    images = torch.randn(2, 3, ours.size, ours.size, requires_grad=True)
    found = [
        torch.autograd.grad(model.encode_image(images).square().sum(), images)[0]
        for model in (ours.model, theirs)
    ]
    torch.testing.assert_close(*found)


@pytest.mark.parametrize(
    "change",
    [
        {"quick_gelu": True},
        {"vision_cfg": fakes.CLIP["vision_cfg"]},
        {"text_cfg": fakes.CLIP["text_cfg"] | {"no_causal_mask": True}},
        {"text_cfg": None},
    ],
)
def test_everything_else_is_left_to_open_clip(both, change):
    assert small_clip.supports(both[0].config)
    assert not small_clip.supports(both[0].config | change)


def test_networks_are_built_without_filling_their_weights():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    with building.WithoutRandomWeights():
        network = Generator(GeneratorConfig(8, 16, 2, {4: 8, 8: 8}))
        torch.nn.MultiheadAttention(8, 2), torch.nn.Conv2d(3, 3, 3)
    assert torch.equal(before, torch.get_rng_state())
    assert network.convs[0].conv.weight.device.type == "cpu"
