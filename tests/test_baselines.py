"""Baselines: what is blended is what was asked for, and they are offered like any method."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

from demo import presets
from essence import METHODS, PRESETS, Pictures, UserError
from essence.cli import main as cli
from essence.methods import method_of, style_transfer
from essence.methods.blends import BlendOptions, ClipBlendOptions
from essence.methods.invert import invert
from essence.methods.refine import RefineOptions
from essence.methods.style_transfer import GatysOptions
from essence.methods.words import text_target
from essence.pictures.tensors import from_uint8, resample, to_tensor
from essence.studio import last

from . import fakes

BASELINES = [name for m in METHODS.values() if m.baseline for name in m.presets]
QUICK_GATYS = GatysOptions(steps=8, network="face")


@pytest.fixture(scope="module")
def models():
    return dataclasses.replace(fakes.model_set())


@pytest.fixture(scope="module")
def z():
    return torch.randn(3, 8, 8, generator=torch.Generator().manual_seed(2))


@pytest.fixture(scope="module")
def target(models):
    w = 2 * torch.randn(1, 8, 8, generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        return fakes.target(models, models.images(w))


def run(models, z, target, options):
    _, method = method_of(options)
    return list(method.learn(models, target, fakes.sources(models, z), options))


@pytest.mark.parametrize("preset", BASELINES)
@pytest.mark.parametrize("with_axes", [True, False])
def test_every_baseline_gives_a_picture_for_each_source(z, target, preset, with_axes):
    models = dataclasses.replace(fakes.model_set(with_axes))
    steps = run(models, z, target, dataclasses.replace(PRESETS[preset], steps=2))
    result = steps[-1].result
    assert METHODS[method_of(PRESETS[preset])[0]].result is Pictures is type(result)
    assert result.images.shape == (3, 32, 32, 3) and result.images.dtype == np.uint8
    assert [step.index for step in steps] == list(range(1, steps[-1].total + 1))
    assert all(np.isfinite(step.losses["total"]) for step in steps)
    if result.latents is not None:
        assert np.array_equal(models.render(result.latents), result.images)


def inverted(models, target, steps):
    """The target's latents, as the blends find them."""
    options = RefineOptions(steps=steps, preview_every=BlendOptions.preview_every)
    return last(invert(models, [target.picture], ["t"], options)).result[0].w


def test_the_blend_lies_on_the_line_from_the_source_to_the_inverted_target(models, z, target):
    z_t = inverted(models, target, 2)
    for share in (0.0, 0.5, 1.0):
        found = run(models, z, target, BlendOptions(steps=2, share=share))[-1].result.latents
        torch.testing.assert_close(found, (1 - share) * z + share * z_t)


def test_mixing_takes_the_layers_of_its_bands_and_no_others(models, z, target):
    options = BlendOptions(steps=2, share=1.0, bands=("middle",))
    found, z_t = run(models, z, target, options)[-1].result.latents, inverted(models, target, 2)
    torch.testing.assert_close(found[:, 4:8], z_t[4:8].expand(3, -1, -1))
    assert torch.equal(found[:, :4], z[:, :4])
    with pytest.raises(UserError, match="no band 'hair'"):
        BlendOptions(bands=("hair",))


def test_a_blend_in_clips_space_comes_near_to_both(models, z, target):
    """Nearer to the mean of the two embeddings than the source is; all of the share is the target
    alone.
    """
    options = ClipBlendOptions(steps=15, penalty=0.0)
    with torch.no_grad():
        e_s = F.normalize(models.encode(models.images(z)), dim=1)
    e_t = F.normalize(target.embedding, dim=0)
    for share in (0.5, 1.0):
        goal = torch.lerp(e_s, e_t, share)
        made = run(models, z, target, dataclasses.replace(options, share=share))[-1].result
        with torch.no_grad():
            e = models.encode(models.images(made.latents))
        before = F.cosine_similarity(e_s, goal, dim=1)
        assert (F.cosine_similarity(e, goal, dim=1) > before).all()
    still = run(models, z, target, dataclasses.replace(options, share=0.0, penalty=1.0))
    assert still[0].losses["total"] == pytest.approx(0, abs=1e-5)


def test_words_can_be_blended_in_clips_space_alone(models, z):
    words = text_target(models, "an old man", "a man")
    assert run(models, z, words, ClipBlendOptions(steps=2))[-1].result.images.shape[0] == 3
    for options in (BlendOptions(steps=1), GatysOptions(steps=1, network="face")):
        with pytest.raises(UserError, match="takes a picture as its target, not words"):
            run(models, z, words, options)


# ---- style transfer


def test_a_style_arrives_and_the_content_is_held(models, z):
    """The Gram matrices come nearer to the target's, the more the more they count, and the content
    stays the less.
    """
    stripes = torch.zeros(1, 3, 32, 32).index_fill_(3, torch.arange(0, 32, 4), 1.0)
    target = fakes.target(models, stripes)
    name, maps = style_transfer.feature_maps("face", models)
    found = {}
    for style in (1.0, 100.0):
        steps = run(models, z[:1], target, dataclasses.replace(QUICK_GATYS, style=style))
        totals = [step.losses["total"] for step in steps]
        assert min(totals) < totals[0] and steps[-1].result.provenance["network"] == name
        found[style] = steps[-1].result.images
    assert "face network" in name
    with torch.no_grad():
        painting = maps(resample(to_tensor(target.picture), 32, "antialias"))[0]
        photos = maps(from_uint8(models.render(z[:1])))

        def distances(images):
            styles, content = maps(from_uint8(images))
            pairs = [
                (style_transfer.gram(a), style_transfer.gram(b))
                for a, b in zip(styles, painting, strict=True)
            ]
            style = sum(style_transfer.relative(*pair).mean().item() for pair in pairs)
            return style, style_transfer.relative(content, photos[1]).mean().item()

        before, light, heavy = map(distances, (models.render(z[:1]), found[1.0], found[100.0]))
    assert heavy[0] < light[0] < before[0] and before[1] < light[1] < heavy[1]


def test_gram_matrices_forget_where_things_are():
    maps = torch.randn(2, 4, 3, 3, generator=torch.Generator().manual_seed(0))
    shuffled = maps.flatten(2)[..., torch.randperm(9)].view_as(maps)
    torch.testing.assert_close(style_transfer.gram(maps), style_transfer.gram(shuffled))
    assert style_transfer.relative(maps, maps).tolist() == [0, 0]
    torch.testing.assert_close(style_transfer.relative(2 * maps, maps), torch.ones(2))


def test_vgg_maps_are_those_of_the_paper():
    """Behind the ReLUs of conv1_1, 2_1, 3_1, 4_1, 5_1, and of conv4_2."""
    from torchvision.models import vgg19

    with torch.device("meta"):
        layers = list(vgg19().features)
    names, block, number = {}, 1, 0
    for i, layer in enumerate(layers):
        if isinstance(layer, nn.MaxPool2d):
            block, number = block + 1, 0
        number += isinstance(layer, nn.Conv2d)
        if isinstance(layer, nn.ReLU):
            names[i] = f"conv{block}_{number}"
    assert [names[i] for i in style_transfer.VGG_STYLE] == [f"conv{k}_1" for k in range(1, 6)]
    assert names[style_transfer.VGG_CONTENT] == "conv4_2"


def test_vgg_serves_where_its_weights_are(models, monkeypatch, tmp_path):
    small = nn.Sequential(*[nn.Conv2d(3, 3, 1) if i == 0 else nn.ReLU() for i in range(37)])
    monkeypatch.setattr(style_transfer, "vgg19", lambda: small)
    monkeypatch.setattr(style_transfer, "vgg19_file", lambda: tmp_path / "vgg19.pth")
    assert "face network" in style_transfer.feature_maps("auto", models)[0]
    (tmp_path / "vgg19.pth").touch()
    name, maps = style_transfer.feature_maps("auto", models)
    styles, content = maps(torch.zeros(1, 3, 8, 8))
    assert name == "VGG-19" and len(styles) == 5 and content.shape == (1, 3, 8, 8)


# ---- offered like any other


def test_the_command_line_offers_them_and_the_page_does_not(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("essence.cli.extract.open_studio", lambda arguments: fakes.studio())
    for name, value in (("a", 90), ("t", 200)):
        Image.new("RGB", (32, 32), (value, 80, 60)).save(f"{name}.png")
    words = "extract --target t.png --sources a.png --aligned --refine 0 --steps 2 --json"
    assert cli.main([*words.split(), "--method", "blend", "--out", "o.png"]) == 0
    assert json.loads(capsys.readouterr().out)["loss_best"] is not None
    with Image.open("o.png") as made:
        assert min(made.size) >= 32
    assert cli.main([*words.split(), "--preset", "mixing", "--out", "o.safetensors"]) == 2
    assert not set(BASELINES) & set(presets.presets())
    assert set(BASELINES) >= {"blend", "mixing", "clip-blend", "gatys"}
