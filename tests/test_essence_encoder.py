"""The essence encoder: its file, the method that asks it, and its recipe."""

import copy
import dataclasses
import json

import pytest
import torch
from PIL import Image, ImageDraw

from essence import PRESETS, BadFile, Studio, UserError
from essence.cli import main as cli
from essence.library import checkpoints, clip_files, loading
from essence.library.checkpoints import load_essence_encoder, save_essence_encoder
from essence.methods.encode import EncodeOptions, encode_target
from essence.methods.optimize import optimize
from essence.methods.words import text_target
from essence.models.e4e import Encoder4Editing
from essence.pictures.tensors import to_tensor
from essence.studio import last
from essence.train import essence as recipe
from essence.train import essence_data
from essence.train.common import parse_options
from essence.train.essence_data import Batch, EssenceOptions
from essence.train.essence_loss import TERMS, EssenceLoss

from . import fakes
from .test_full_size import gentle
from .test_golden import full_size


@pytest.fixture
def models():
    return dataclasses.replace(fakes.model_set())


@pytest.fixture
def target(models):
    picture = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(4)) * 2 - 1
    return fakes.target(models, picture)


# ---- the file


def test_it_needs_no_mean_latent_and_reads_the_public_format(models, tmp_path):
    """As e4e checkpoints are: encoder.* in a state_dict, the mean latent beside it or not."""
    one = models.extras["essence"]
    # As encoders are when they are read; otherwise sums are rounded in another order.
    innermost = copy.deepcopy(one).to(memory_format=torch.channels_last)
    state = {f"encoder.{name}": value for name, value in one.encoder.state_dict().items()}
    for more in ({}, {"latent_avg": torch.full((8, 8), 3.0)}):
        torch.save({"state_dict": state, "opts": {}} | more, tmp_path / "public.pt")
        again = load_essence_encoder(tmp_path / "public.pt")
        x = torch.zeros(1, 3, 32, 32)
        assert torch.equal(again(x), innermost(x))
        assert (again.generator, again.clip) == ("", "")


def test_our_inverters_are_refused(models, tmp_path):
    checkpoints.save_inverter(models.inverter, tmp_path / "i.safetensors")
    with pytest.raises(BadFile, match="of kind 'inverter'.*train essence"):
        load_essence_encoder(tmp_path / "i.safetensors")
    checkpoints.save_latents(torch.zeros(8), torch.eye(8), tmp_path / "l.safetensors", 1)
    with pytest.raises(BadFile, match="of kind 'latents'"):
        load_essence_encoder(tmp_path / "l.safetensors")


@pytest.mark.parametrize(
    "kind, called", [("generator", "generator"), ("clip", "image-text encoder")]
)
def test_one_of_other_models_is_refused(tmp_path, kind, called):
    folder = fakes.files(tmp_path / "set")
    other = load_essence_encoder(folder / "essence.safetensors")
    setattr(other, kind, "00000000")
    save_essence_encoder(other, folder / "essence.safetensors", half=False)
    with pytest.raises(BadFile, match=f"another {called} .00000000.*train essence"):
        loading.load_model_set(str(folder), half=False)
    config = dataclasses.replace(fakes.ENCODER, layers=6)
    other.encoder = Encoder4Editing(config)
    save_essence_encoder(other, folder / "essence.safetensors", half=False)
    with pytest.raises(BadFile, match=r"gives essences \[6, 8\].*takes \[8, 8\]"):
        loading.load_model_set(str(folder), half=False)


# ---- the method


def test_an_essence_is_the_code_of_the_targets_picture(models, target):
    (step,) = encode_target(models, target, options=EncodeOptions(factor=2.0))
    wanted = 2 * models.extras["essence"](to_tensor(target.picture))[0]
    torch.testing.assert_close(step.result.delta, wanted)
    assert (step.index, step.total, step.result.method) == (1, 1, "encode")
    assert step.result.reach == 3.5 and step.result.thumbnail is target.picture


def test_it_is_the_optimisers_start_too(models, target):
    sources = fakes.sources(models, torch.randn(2, 8, 8))
    still = dataclasses.replace(
        PRESETS["essence"],
        steps=1,
        start="encoder",
        axes_learning_rate=0.0,
        layer_learning_rate=0.0,
        loss_resolution=0,
    )
    first = next(optimize(models, target, sources, still)).result
    torch.testing.assert_close(
        first.delta, models.extras["essence"](to_tensor(target.picture))[0], atol=1e-5, rtol=1e-4
    )


def test_words_and_models_without_one_are_told_what_to_do(models, target):
    with pytest.raises(UserError, match="is words.*--method map"):
        next(encode_target(models, text_target(models, "an old man")))
    bare = dataclasses.replace(models, extras={})
    with pytest.raises(UserError, match="no essence encoder.*train essence"):
        next(encode_target(bare, target))


def test_from_the_command_line(tmp_path, monkeypatch, capsys):
    fakes.write_manifest(tmp_path / "weights", monkeypatch, {"small": "square"})
    Image.effect_mandelbrot((64, 64), (-2, -1.5, 1, 1.5), 40).save(tmp_path / "t.png")
    words = ["extract", "--target", str(tmp_path / "t.png"), "--method", "encode", "--json"]
    latents = tmp_path / "w.pt"
    torch.save(torch.zeros(8, 8), latents)
    words += ["--sources", str(latents), "--out", str(tmp_path / "e.safetensors")]
    assert cli.main(words) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert found["steps"] == 1
    essence = Studio("small", "cpu").load_essence(tmp_path / "e.safetensors")
    assert essence.method == "encode"
    (tmp_path / "weights" / "small" / "essence.safetensors").unlink()
    for more in ([], ["--method", "optimize", "--start", "encoder"]):
        assert cli.main([*words, *more]) == 2
        assert "no essence encoder" in capsys.readouterr().err


def test_a_studio_learns_with_it(target):
    studio = fakes.studio()
    assert last(studio.extract(target, [], PRESETS["encode"])).result.method == "encode"


# ---- the recipe


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model set's files and 48 drawn faces."""
    root = fakes.files(tmp_path_factory.mktemp("essence") / "set")
    (root / "faces").mkdir()
    for i in range(48):
        image = Image.new("RGB", (40, 40), (40 + 4 * i, 90, 200 - 3 * i))
        ImageDraw.Draw(image).ellipse((8, 4 + i % 4, 32, 36), fill=(220, 200 - 4 * i, 150))
        image.save(root / "faces" / f"{'congress' if i < 8 else 'made'}_{i:02d}.png")
    return root


def options(folder, out, **changes):
    files = {name: str(folder / f"{name}.safetensors") for name in ("generator", "latents", "clip")}
    small = {"widths": (4, 6, 8, 10), "depths": (1, 1, 1, 1), "input_size": 32, "head_width": 8}
    settings = {"batch": 4, "sources": 2, "pool": 3, "bank": 8, "drawn": 0.0, "validated": 2}
    settings |= {"steps": 4, "minutes": 1e6, "warmup": 2, "device": "cpu", "lambda_identity": 0.0}
    chosen = files | small | settings | changes
    return EssenceOptions(str(folder / "faces"), str(out), **chosen)


def finished(folder, out, **changes):
    return recipe.train(options(folder, out, **changes))


@pytest.mark.slow
def test_it_learns_on_people_and_pictures_that_it_has_not_seen(folder, tmp_path):
    changes = {"start": str(folder / "inverter.safetensors"), "batch": 8, "rate": 2e-2}
    before = finished(folder, tmp_path / "before", steps=1, rate=0.0, penalty=0.0, batch=8)
    after = finished(folder, tmp_path / "after", steps=30, penalty=0.0, **changes)
    assert after.lowest < before.lowest - 0.02
    rows = (tmp_path / "after" / "log.csv").read_text().splitlines()
    assert rows[0].split(",") == list(recipe.COLUMNS) and len(rows) == 3


@pytest.mark.parametrize("space", ["axes", pytest.param("w+", marks=pytest.mark.slow)])
def test_a_resumed_run_ends_as_an_uninterrupted_one(folder, tmp_path, space):
    whole = finished(folder, tmp_path / "whole", space=space)
    begun = recipe.Trainer(options(folder, tmp_path / "parts", space=space))
    data = recipe.load_dataset(begun.options, begun.models, begun.out)
    for step in range(2):
        begun.train_step(data.draw(begun.options, step))
    begun.save()
    resumed = finished(folder, tmp_path / "parts", space=space)
    assert resumed.step == whole.step == 4
    for name, value in whole.encoder.state_dict().items():
        torch.testing.assert_close(resumed.encoder.state_dict()[name], value)


def test_what_speaks_along_the_axes_is_saved_as_what_it_says(folder, tmp_path):
    """Also as the start of another run."""
    trainer = finished(folder, tmp_path / "a", start=str(folder / "inverter.safetensors"))
    x = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    network = trainer.average.eval()
    network.load_state_dict(trainer.best)
    with torch.no_grad():
        wanted = trainer.loss.essence(network(x))
    torch.testing.assert_close(trainer.essence_encoder()(x), wanted, atol=1e-4, rtol=1e-4)
    save_essence_encoder(trainer.essence_encoder(), tmp_path / "e.safetensors", half=False)
    again = recipe.Trainer(options(folder, tmp_path / "b", start=str(tmp_path / "e.safetensors")))
    torch.testing.assert_close(again.essence_encoder()(x), wanted, atol=1e-3, rtol=1e-3)


def test_without_a_start_every_essence_is_zero(folder, tmp_path):
    trainer = recipe.Trainer(options(folder, tmp_path))
    assert torch.equal(trainer.essence_encoder()(torch.ones(2, 3, 32, 32)), torch.zeros(2, 8, 8))


def test_a_face_pays_for_what_it_goes_beyond_its_distance(folder, tmp_path):
    choice = options(folder, tmp_path, lambda_identity=1.0, distance=0.0)
    trainer = recipe.Trainer(choice)
    rng = torch.Generator().manual_seed(0)
    picture = torch.rand(2, 3, 32, 32, generator=rng)
    batch = Batch(
        picture, picture, torch.randn(3, 8, generator=rng), torch.tensor([[0, 1], [2, 0]])
    )
    raw = torch.randn(2, 8, len(trainer.basis), generator=rng)
    terms = {}
    for distance in (0.0, 10.0):
        loss = EssenceLoss(dataclasses.replace(choice, distance=distance), trainer.models)
        terms[distance] = dict(zip(TERMS, loss(raw, batch).tolist(), strict=True))
    near, far = terms[10.0], terms[0.0]
    assert near["identity"] == 0 < far["identity"] and near["distance"] == far["distance"] > 0
    assert far["total"] == pytest.approx(near["total"] + far["identity"], abs=1e-5)


def test_the_released_settings(folder, tmp_path):
    words = [f"--data={folder}/faces", f"--out={tmp_path}", "--preset=released", "--steps=2"]
    chosen = parse_options(EssenceOptions, words, "", recipe.PRESETS)
    assert (chosen.batch, chosen.sources, chosen.space, chosen.steps) == (1, 5, "w+", 2)
    own = parse_options(EssenceOptions, words[:1], "", recipe.PRESETS)
    assert own == EssenceOptions(f"{folder}/faces")
    trainer = finished(folder, tmp_path, **recipe.PRESETS["released"] | {"steps": 2})
    # Batches of one have no statistics worth following.
    fresh = recipe.Trainer(
        options(folder, tmp_path / "fresh", **recipe.PRESETS["released"] | {"steps": 2})
    )
    for name, value in trainer.encoder.named_buffers():
        assert torch.equal(value, fresh.encoder.state_dict()[name])


def test_mistakes_of_the_recipe_are_told(folder, tmp_path):
    for changes in ({"space": "z"}, {"sources": 4}, {"generated": 0.9, "drawn": 0.2}):
        with pytest.raises(UserError, match="--(space|sources|generated)"):
            options(folder, tmp_path, **changes)
    with pytest.raises(UserError, match="other widths.*--head-width"):
        recipe.Trainer(
            options(
                folder, tmp_path, start=str(folder / "inverter.safetensors"), widths=(4, 6, 8, 12)
            )
        )
    finished(folder, tmp_path / "run")
    with pytest.raises(UserError, match="another architecture"):
        recipe.Trainer(options(folder, tmp_path / "run", head_width=6))


def test_drawn_targets_are_pictures_done_again(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(essence_data, "DRAWN_FROM", 48)
    trainer = recipe.Trainer(options(folder, tmp_path, drawn=0.5, drawings=2))
    data = recipe.load_dataset(trainer.options, trainer.models, trainer.out)
    # Five are held out by the rule of all recipes, two are kept for validation.
    assert len(data.pictures) == 48 - 5 - 2 + 8 + 2
    assert data.weights.sum().item() == pytest.approx(1)
    assert data.weights[-2:].sum().item() == pytest.approx(0.5)


@pytest.mark.slow
def test_a_step_at_full_size(folder, tmp_path):
    """FFHQ at 1024 pixels, the e4e network and ViT-B/32, with random weights."""
    from open_clip.model import CLIP

    torch.manual_seed(0)
    full_size("stylegan2_ffhq_1024", tmp_path / "g.pt", gentle, latent_avg=torch.zeros(512))
    full_size("e4e_encoder_1024", tmp_path / "e.pt", gentle, latent_avg=torch.zeros(18, 512))
    vision = {"image_size": 224, "layers": 12, "width": 768, "patch_size": 32}
    text = {"context_length": 16, "vocab_size": 49408, "width": 8, "heads": 1, "layers": 1}
    config = {"embed_dim": 512, "vision_cfg": vision, "text_cfg": text}
    clip_files.save_clip(config, CLIP(**config).state_dict(), tmp_path / "clip.safetensors")
    checkpoints.save_latents(torch.zeros(512), torch.eye(512), tmp_path / "l.safetensors", 1)
    names = {"generator": "g.pt", "clip": "clip.safetensors", "latents": "l.safetensors"}
    chosen = EssenceOptions(
        str(folder / "faces"),
        str(tmp_path / "run"),
        **{kind: str(tmp_path / name) for kind, name in names.items()},
        start=str(tmp_path / "e.pt"),
        input_size=256,
        widths=(64, 128, 256, 512),
        depths=(3, 4, 14, 3),
        head_width=512,
        batch=1,
        sources=2,
        pool=2,
        generated=0.0,
        drawn=0.0,
        device="cpu",
    )
    trainer = recipe.Trainer(chosen)
    assert trainer.loss.resolution == 256
    data = recipe.load_dataset(chosen, trainer.models, trainer.out)
    before = trainer.encoder.styles[0].linear.bias.clone()
    assert trainer.train_step(data.draw(chosen, 0)).isfinite().all()
    assert not torch.equal(before, trainer.encoder.styles[0].linear.bias)
    with torch.no_grad():
        assert trainer.essence_encoder()(torch.zeros(1, 3, 256, 256)).shape == (1, 18, 512)
