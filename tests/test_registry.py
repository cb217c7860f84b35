"""Model sets by name and path, the latents' axes, and a run on pictures that are not faces, from
files in the public formats.
"""

import dataclasses
import json
import math

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image

from essence import Essence, OptimizeOptions, RefineOptions, Studio
from essence.cli import main as cli
from essence.errors import BadFile, EssenceMismatch, UserError
from essence.library import clip_files, loading, manifest
from essence.library.safe_files import write_safetensors
from essence.models import latents
from essence.models.e4e import MeanInverter
from essence.runtime import folders
from essence.studio import last

from . import fakes

PICTURE = Image.effect_mandelbrot((96, 64), (-2, -1.5, 1, 1.5), 40).convert("RGB")


def e4e_file(path, generator=True):
    """A small e4e checkpoint in the public format."""
    models = fakes.model_set()
    state = {f"encoder.{key}": value for key, value in models.inverter.encoder.state_dict().items()}
    if generator:
        state |= {f"decoder.{key}": value for key, value in models.generator.state_dict().items()}
    torch.save(
        {
            "state_dict": state,
            "latent_avg": torch.full((8, 8), 0.25),
            "opts": {"start_from_latent_avg": True},
        },
        path,
    )


def generator_file(path):
    torch.save(
        {"g_ema": fakes.model_set().generator.state_dict(), "latent_avg": torch.full((8,), 0.25)},
        path,
    )


@pytest.fixture
def church(tmp_path, monkeypatch):
    """A folder with a model set of squares, generator and inverter in two public files."""
    monkeypatch.setattr(latents, "SAMPLES", 20_000)
    monkeypatch.setenv("ESSENCE_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "chapel"
    folder.mkdir()
    generator_file(folder / "stylegan2-church.pt")
    e4e_file(folder / "e4e_church_encode.pt")
    clip = fakes.model_set().clip
    clip_files.save_clip(
        fakes.CLIP, clip.model.state_dict(), folder / "clip.safetensors", half=False
    )
    (folder / "model.toml").write_text(
        'aligned = "square"\n'
        'generator = {file = "stylegan2-church.pt"}\n'
        'inverter = {file = "e4e_church_encode.pt"}\n'
        'clip = {file = "clip.safetensors"}\n'
    )
    return folder


def test_who_edits_pictures_alone_loads_no_image_text_encoder(church, monkeypatch):
    def refuse(*_):
        raise AssertionError("It was not needed.")

    monkeypatch.setattr("essence.models.clip.import_open_clip", refuse)
    monkeypatch.setattr(clip_files, "load_clip", refuse)
    models = loading.load_model_set(str(church), pictures_alone=True)
    assert models.clip is None and not models.extras
    w = models.generator.repeat(models.latents.mean[None])
    assert models.render(w).shape[-1] == 3
    with pytest.raises(UserError, match="has no clip"):
        models.component("clip")


def test_a_folder_is_a_model_set(church):
    told = []
    models = loading.load_model_set(
        str(church), half=False, progress=lambda *words: told.append(words)
    )
    assert (
        models.name == "chapel"
        and models.id == f"chapel-{loading.fingerprint(fakes.model_set().generator)}"
    )
    assert not models.has_faces and models.latent_shape == (8, 8)
    torch.testing.assert_close(models.inverter.latent_avg, torch.full((8, 8), 0.25))
    assert told[-1] == ("measuring the latents of chapel, once", 20_000, 20_000)


def test_the_models_know_what_the_manifest_says_of_deltas(church, monkeypatch):
    entry = manifest.find_model_set(str(church))
    assert loading.load_model_set(str(church)).deltas == entry.deltas == 1
    monkeypatch.setattr(
        manifest, "find_model_set", lambda name: dataclasses.replace(entry, deltas=0.25)
    )
    assert loading.load_model_set(str(church)).deltas == 0.25
    assert manifest.model_sets()["mini"].deltas == 0


def test_axes_are_measured_once_and_are_those_of_w(church):
    first = loading.load_model_set(str(church), half=False)
    told = []
    again = loading.load_model_set(
        str(church), half=False, progress=lambda *words: told.append(words)
    )
    assert not told and torch.equal(again.latents.axes, first.latents.axes)
    assert [path.name for path in church.glob("latents-*")] == [
        f"latents-{loading.fingerprint(first.generator)}.safetensors"
    ]
    with torch.no_grad():
        w = first.generator.mapping(
            torch.randn(20_000, 8, generator=torch.Generator().manual_seed(5))
        )
    torch.testing.assert_close(first.latents.mean, w.mean(0), atol=0.03, rtol=0)
    covariance = first.latents.axes.T @ first.latents.axes
    assert (covariance - w.T.cov()).norm() < 0.05 * covariance.norm()


def test_statistics_far_from_zero_keep_their_digits():
    mean, covariance = latents.mean_and_covariance(lambda z: 1000 + z, 4, samples=50_000)
    torch.testing.assert_close(mean, torch.full((4,), 1000.0).double(), atol=0.03, rtol=0)
    torch.testing.assert_close(covariance, torch.eye(4).double(), atol=0.03, rtol=0)


@pytest.mark.parametrize("place", ["cache", "temporary"])
def test_axes_lie_where_they_can_where_the_folder_is_read_only(
    church, tmp_path, monkeypatch, place
):
    writable = tmp_path / place
    monkeypatch.setattr(folders, "is_writable", lambda path: path.is_relative_to(writable))
    monkeypatch.setattr(folders, "temporary_folder", lambda: tmp_path / "temporary")
    loading.load_model_set(str(church), half=False)
    assert not list(church.glob("latents-*"))
    assert len(list(writable.glob("latents-*.safetensors"))) == 1


def test_the_cache_folder_is_the_systems_or_the_named_one(tmp_path, monkeypatch):
    monkeypatch.delenv("ESSENCE_CACHE", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert folders.cache_folder() == tmp_path / ".cache" / "essence"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert folders.cache_folder() == tmp_path / "xdg" / "essence"
    monkeypatch.setenv("ESSENCE_CACHE", str(tmp_path / "own"))
    assert folders.cache_folder() == tmp_path / "own"


@pytest.mark.parametrize("kind", ["e4e.pt", "g.pt", "g.pkl", "folder"])
def test_one_checkpoint_is_a_model_too(tmp_path, monkeypatch, caplog, kind):
    from . import nvidia_pickle

    monkeypatch.setattr(latents, "SAMPLES", 5_000)
    path = tmp_path / kind
    if kind == "folder":
        path.mkdir()
        e4e_file(path / "anything.pt")
    elif kind == "g.pkl":
        nvidia_pickle.write(fakes.model_set().generator, path)
    else:
        (e4e_file if kind == "e4e.pt" else generator_file)(path)
    models = loading.load_model_set(str(path), half=False)
    assert models.has_faces and models.id.endswith(loading.fingerprint(fakes.model_set().generator))
    assert isinstance(models.inverter, MeanInverter) == kind.startswith("g.")
    assert ("no inverter" in caplog.text) == kind.startswith(
        "g."
    ) and "image-text encoder" in caplog.text
    assert models.invert(torch.zeros(2, 3, 32, 32)).shape == (2, 8, 8)


def test_a_public_image_text_file_needs_its_architecture(tmp_path, monkeypatch):
    """open_clip's own files carry no description: the manifest's name gives it."""
    clip, path = fakes.model_set().clip, tmp_path / "open_clip_model.safetensors"
    write_safetensors(path, clip.model.state_dict(), {})
    monkeypatch.setattr(open_clip, "get_model_config", {"tiny": fakes.CLIP}.get)
    again, pictures = clip_files.load_clip(path, "tiny/made-up"), torch.rand(2, 3, 40, 40)
    with torch.no_grad():
        torch.testing.assert_close(again.encode(pictures), clip.encode(pictures))
    with pytest.raises(UserError, match="knows no model huge"):
        clip_files.load_clip(path, "huge/made-up")
    with pytest.raises(BadFile, match="no open_clip config"):
        clip_files.load_clip(path)


def test_the_public_image_text_architecture_is_known():
    config = clip_files._public_config(manifest.model_sets()["ffhq"].components["clip"].open_clip)
    assert (
        config["quick_gelu"]
        and config["vision_cfg"]["patch_size"] == 32
        and config["embed_dim"] == 512
    )


def test_what_cannot_be_a_model_is_said(tmp_path, church):
    with pytest.raises(UserError, match="no model set 'nonsense'.*mini, ffhq, church"):
        loading.load_model_set("nonsense")
    with pytest.raises(UserError, match="holds 0 checkpoints"):
        (tmp_path / "empty").mkdir()
        loading.load_model_set(str(tmp_path / "empty"))
    state = torch.load(church / "e4e_church_encode.pt")
    state["latent_avg"] = torch.zeros(10, 8)
    torch.save(state, church / "e4e_church_encode.pt")
    with pytest.raises(BadFile, match=r"e4e_church_encode\.pt has the shape \[10, 8\]"):
        loading.load_model_set(str(church))
    (church / "model.toml").write_text('aligned = "round"\n')
    with pytest.raises(BadFile, match="face, square"):
        loading.load_model_set(str(church))


def test_a_public_set_that_is_not_here_says_how_to_fetch_it():
    with pytest.raises(UserError, match="python -m essence fetch church"):
        loading.load_model_set("church")


def test_a_space_fetches_where_the_manifest_says_so(tmp_path, monkeypatch):
    """Only there: elsewhere nothing is downloaded unasked."""
    asked = []
    monkeypatch.setattr(folders, "WEIGHTS", tmp_path)
    monkeypatch.setattr(
        loading.download, "download_files", lambda entry, progress: asked.append(entry.name)
    )
    for said in ("true", "false"):
        (tmp_path / "manifest.toml").write_text(
            f'[far]\nfetch_on_space = {said}\n[far.generator]\nfile = "far.pt"\n'
        )
        for space in ("", "someone/essence"):
            monkeypatch.setenv("SPACE_ID", space)
            with pytest.raises(UserError, match="fetch far"):
                loading.load_model_set("far")
    assert asked == ["far"]


def test_the_manifest_is_complete():
    sets = manifest.model_sets()
    assert (
        sets["church"].aligned == "square"
        and sets["mini"].aligned == sets["ffhq"].aligned == "face"
    )
    for name in ("ffhq", "church"):
        for part in sets[name].components.values():
            assert part.sources and part.licence and part.means
            assert not part.sha256 or len(part.sha256) == 64
            assert all(mirror.address.startswith("https://") for mirror in part.sources)


@pytest.mark.parametrize(
    "gpu, there, expected", [(True, True, "ffhq"), (True, False, "mini"), (False, True, "mini")]
)
def test_the_default_is_ffhq_with_a_gpu_and_its_files(tmp_path, monkeypatch, gpu, there, expected):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    monkeypatch.setenv("ESSENCE_CACHE", str(tmp_path))
    if there:
        for part in manifest.model_sets()["ffhq"].components.values():
            (tmp_path / part.file).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / part.file).touch()
    assert loading.default_model() == expected


def test_churches_run_end_to_end_on_the_command_line(church, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    PICTURE.save("a.png")
    PICTURE.rotate(90, expand=True).save("b.png")
    Image.linear_gradient("L").convert("RGB").save("t.png")
    assert (
        cli.main(
            [
                "invert",
                "--model",
                "chapel",
                "--image",
                "a.png",
                "--refine",
                "3",
                "--out",
                "i.png",
                "--latents",
                "w.npy",
            ]
        )
        == 0
    )
    words = [
        "extract",
        "--model",
        "chapel",
        "--target",
        "t.png",
        "--sources",
        "a.png",
        "b.png",
        "w.npy",
        "--refine",
        "3",
        "--steps",
        "6",
    ]
    assert cli.main([*words, "--out", "e.safetensors", "--json"]) == 0
    out, err = capsys.readouterr()
    found = json.loads(out.splitlines()[-1])
    assert (
        found["sources"] == 3
        and found["model"].startswith("chapel-")
        and "No face" not in err
        and "NaN" not in out
    )
    words = [
        "apply",
        "--model",
        "chapel",
        "--source",
        "b.png",
        "--refine",
        "0",
        "--essence",
        "e.safetensors",
        "--look",
        "model",
    ]
    assert cli.main([*words, "--out", "o.png"]) == 0
    assert (
        cli.main(["grid", "--model", "chapel", "--essences", "e.safetensors", "--out", "grid.png"])
        == 0
    )
    assert Image.open("o.png").size == (32, 32) and Image.open("grid.png").width > 4 * 32


def test_churches_run_through_the_studio(church):
    studio = Studio(str(church), "cpu")
    target = studio.target(PICTURE)
    assert target.face_found and target.picture.size == (256, 256)
    assert np.array_equal(
        np.asarray(studio.crop(PICTURE)), np.asarray(studio.crop(PICTURE, aligned=True))
    )
    assert len(studio.locate(PICTURE).squares) == 1
    before = last(
        fakes.invert(studio, studio.crop(PICTURE), options=RefineOptions(steps=0))
    ).losses["total"]
    steps = list(fakes.invert(studio, studio.crop(PICTURE), options=RefineOptions(steps=20)))
    assert "descriptor" not in steps[-1].losses and steps[0].losses["total"] == before
    source = steps[-1].result
    assert pixel_error(source) < 0.9 * pixel_error(steps[0].result)
    essence = last(studio.extract(target, [source], OptimizeOptions(steps=4))).result
    blend = studio.blend([source], [essence], [1.0])[0]
    assert blend.shape == (1, 32, 32, 3) and all(
        map(math.isnan, studio.identity_distances(blend, blend))
    )
    assert len(studio.similarity(target, blend)) == 1


def pixel_error(source):
    crop = source.crop.resize(source.inversion.size, Image.Resampling.BOX)
    return np.abs(np.asarray(crop, float) - np.asarray(source.inversion, float)).mean()


def test_an_essence_belongs_to_the_weights_whatever_they_are_called(church, tmp_path):
    models = loading.load_model_set(str(church), half=False)
    Essence(torch.zeros(8, 8), model=models.id).check(
        (8, 8), "elsewhere-" + loading.fingerprint(models.generator)
    )
    with pytest.raises(EssenceMismatch):
        Essence(torch.zeros(8, 8), model=models.id).check((8, 8), "chapel-00000000")


def test_public_latents_of_many_pictures(church, tmp_path, monkeypatch, capsys):
    """[68, L, D] in one .pt: all of them as sources, or one by number."""
    monkeypatch.chdir(tmp_path)
    torch.save(torch.randn(68, 8, 8), "faces.pt")
    np.save("direction.npy", np.full((1, 8, 8), 0.1, np.float32))
    common = ["--model", "chapel", "--essence", "direction.npy", "--out", "o.png"]
    assert cli.main(["apply", *common, "--source", "faces.pt#67"]) == 0
    assert (
        cli.main(
            [
                "grid",
                "--model",
                "chapel",
                "--sources",
                "faces.pt",
                "--essences",
                "direction.npy",
                "--out",
                "g.png",
                "--json",
            ]
        )
        == 0
    )
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["columns"] == 68
    np.save("a#1.npy", np.zeros((8, 8), np.float32))  # a file's own name comes first
    assert cli.main(["apply", *common, "--source", "a#1.npy"]) == 0
    for source in ("faces.pt", "faces.pt#68"):
        assert cli.main(["apply", *common, "--source", source]) == 2
        assert "68 pictures" in capsys.readouterr().err
    with pytest.raises(BadFile, match=r"\[68, 8, 8\]"):
        Essence.load("faces.pt")
