"""Latents and directions as other people's programs write them: `.npy`, `.npz`, `.pt`, one, many
or named; repeated where there is one row for every layer, refused where they make no sense.
"""

import dataclasses
import logging
from pathlib import Path

import numpy as np
import pytest
import torch

from essence import BadFile, Essence, EssenceMismatch, UserError
from essence.cli import main as cli
from essence.library.latent_files import LARGEST, read_latents, read_one, split_choice
from essence.methods import PRESETS
from essence.models import latents
from essence.studio import Studio, last

from . import fakes

W = torch.linspace(-2, 2, 64).view(8, 8)


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def studio():
    return fakes.studio()


def projected(**tables: torch.Tensor) -> dict:
    """As rosinality's projector.py writes it: one table for each picture."""
    return {
        f"{name}.png": {
            "img": torch.zeros(3, 8, 8),
            "latent": latent,
            "noise": [torch.zeros(1, 1, 4, 4)],
        }
        for name, latent in tables.items()
    }


ONE = {
    "a.npy": lambda path: np.save(path, W.numpy()),
    "batch.npy": lambda path: np.save(path, W[None].numpy()),
    "half.npy": lambda path: np.save(path, W.half().numpy()),
    "double.npy": lambda path: np.save(path, W.double().numpy()),
    "columns.npy": lambda path: np.save(path, np.asfortranarray(W.numpy())),
    "projected_w.npz": lambda path: np.savez(path, w=W[None].numpy()),
    "squeezed.npz": lambda path: np.savez_compressed(path, w=W.numpy(), loss=np.float32(1)),
    "unnamed.npz": lambda path: np.savez(path, W.numpy()),
    "a.pt": lambda path: torch.save(W, path),
    "half.pt": lambda path: torch.save(W[None].half(), path),
    "double.pt": lambda path: torch.save(W.double(), path),
    "parameter.pt": lambda path: torch.save(torch.nn.Parameter(W), path),
    "array.pt": lambda path: torch.save(W.numpy(), path),
    "table.pt": lambda path: torch.save({"direction": W}, path),
    "list.pt": lambda path: torch.save([W], path),
    "latents.pt": lambda path: torch.save({"latents": W[None], "names": ["a"]}, path),
    "projected.pt": lambda path: torch.save(projected(face=W), path),
    "npz-renamed.npy": lambda path: Path(path).write_bytes(npz_bytes()),
    "torch-renamed.npy": lambda path: torch.save(W, path),
}


def npz_bytes() -> bytes:
    np.savez("temporary.npz", w=W.numpy())
    return Path("temporary.npz").read_bytes()


@pytest.mark.parametrize("name", ONE)
def test_one_picture_or_direction_in_any_file(name):
    ONE[name](name)
    w, title = read_one(name)
    torch.testing.assert_close(w, W, atol=2e-3, rtol=0)
    assert w.dtype == torch.float32 and title == Path(name).stem
    essence = Essence.load(name)
    assert torch.equal(essence.delta, w) and essence.name == title


@pytest.mark.parametrize("shape", [(8,), (1, 8), (1, 1, 8)])
@pytest.mark.parametrize("suffix", ["npy", "pt"])
def test_one_row_serves_every_layer_and_that_is_said_once(studio, caplog, shape, suffix):
    row, path = torch.linspace(-1, 1, 8).view(shape), f"boundary.{suffix}"
    np.save(path, row.numpy()) if suffix == "npy" else torch.save(row, path)
    essence = studio.load_essence(path)
    assert torch.equal(essence.delta, row.view(1, 8).expand(8, 8))
    assert torch.equal(Essence.load(path).apply(W, 0.5), W + 0.5 * row.view(1, 8))
    source = studio.from_latents(*read_one(path))
    assert torch.equal(source.w, essence.delta)
    studio.blend([source], [essence], [1.0])
    said = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert len(said) == 2 and all("all 8 layers" in record.message for record in said)


def test_one_row_of_another_width_is_refused(studio):
    np.save("wide.npy", np.zeros((1, 16), np.float32))
    with pytest.raises(EssenceMismatch, match=r"\[8, 16\].*\[8, 8\]"):
        studio.load_essence("wide.npy")
    with pytest.raises(EssenceMismatch):
        Essence.load("wide.npy").apply(W)


def test_one_row_can_be_continued(studio):
    source = studio.from_latents(W)
    target = studio.embed_target(source.inversion)
    for preset in ("essence", "released"):
        options = dataclasses.replace(PRESETS[preset], steps=1)
        steps = studio.extract(target, [source], options, Essence(torch.ones(1, 8)))
        assert last(steps).result.delta.shape == (8, 8)


def test_one_row_mixes_with_an_essence_in_either_order():
    row, whole = Essence(torch.ones(1, 8)), Essence(W)
    for pair in ([row, whole], [whole, row]):
        assert torch.equal(Essence.mixture(pair, [1, 1]).delta, W + 1)


# ---- several


def test_named_latents_are_asked_for_and_picked():
    table = {"smile": W, "age": -W, "gaze": W[:1]}
    torch.save(table, "directions.pt")
    np.savez("directions.npz", **{name: w.numpy() for name, w in table.items()})
    for file in ("directions.pt", "directions.npz"):
        with pytest.raises(UserError, match=f"smile, age, gaze.*{file}#smile"):
            Essence.load(file)
        assert torch.equal(Essence.load(f"{file}#age").delta, -W)
        assert Essence.load(f"{file}#age").name == "age"
        with pytest.raises(UserError, match="no 'anger'.*smile, age, gaze"):
            Essence.load(f"{file}#anger")
        assert list(read_latents(file)) == list(table)


def test_rosinalitys_projector_names_its_pictures():
    torch.save(projected(anna=W, ben=-W), "projected.pt")
    with pytest.raises(UserError, match=r"anna\.png, ben\.png"):
        read_one("projected.pt")
    for choice in ("ben.png", "ben", "1"):
        assert torch.equal(read_one(f"projected.pt#{choice}")[0], -W)
    torch.save(projected(**{"photos/anna": W[0]}), "w.pt")  # in W, and in a folder
    assert torch.equal(read_one("w.pt")[0], W[:1])
    assert torch.equal(read_one("w.pt#photos/anna.png")[0], W[:1])


def test_numbered_latents_are_picked_by_number():
    torch.save(torch.stack([W, -W]), "many.pt")
    np.save("many.npy", torch.stack([W, -W]).numpy())
    torch.save([W, -W], "list.pt")
    for file in ("many.pt", "many.npy", "list.pt"):
        stem = Path(file).stem
        assert torch.equal(read_one(f"{file}#1")[0], -W) and read_one(f"{file}#1")[1] == f"{stem}-1"
        assert list(read_latents(file)) == [f"{stem}-0", f"{stem}-1"]
        for wrong in (file, f"{file}#2", f"{file}#-1", f"{file}#²"):
            with pytest.raises(UserError, match=rf"2 pictures.*{file}#0 \.\.\. {file}#1"):
                read_one(wrong)


def test_a_long_table_is_not_listed_whole():
    torch.save({f"name {i}": W for i in range(1000)}, "long.pt")
    with pytest.raises(UserError, match="1000.*name 0, .* and 988 more"):
        read_one("long.pt")


def test_a_number_sign_in_a_files_own_name():
    Path("a#b").mkdir()
    torch.save({"x": W, "y#z": -W}, "a#b/c#1.pt")
    assert split_choice("a#b/c#1.pt") == (Path("a#b/c#1.pt"), "")
    assert torch.equal(read_one("a#b/c#1.pt#y#z")[0], -W)
    np.save("3.npy", W.numpy())
    assert read_one("3.npy")[1] == "3"


# ---- refused, before any work

NONSENSE = {
    "nan": (lambda: torch.where(W > 1, torch.nan, W), "not finite"),
    "infinite": (lambda: torch.where(W > 1, torch.inf, W), "not finite"),
    "huge": (lambda: W * 1e30, "2e\\+30"),
    "large": (lambda: W * LARGEST, "up to 2e\\+04"),
    "too large for 32 bits": (lambda: W.double() * 1e300, "not finite"),
    "empty": (lambda: torch.zeros(0, 8, 8), r"\[0, 8, 8\]"),
    "no width": (lambda: torch.zeros(8, 0), r"\[8, 0\]"),
    "a number": (lambda: torch.tensor(1.0), "no latents"),
    "whole numbers": (lambda: torch.ones(1, 1, 8, 8).int(), "no latents"),
    "pictures": (lambda: torch.zeros(2, 3, 8, 8), "no latents"),
}


@pytest.mark.parametrize("suffix", ["npy", "npz", "pt"])
@pytest.mark.parametrize("kind", NONSENSE)
def test_nonsense_is_refused(kind, suffix):
    make, says = NONSENSE[kind]
    path, w = f"bad.{suffix}", make()
    {
        "npy": lambda: np.save(path, w.numpy()),
        "npz": lambda: np.savez(path, w=w.numpy()),
        "pt": lambda: torch.save(w, path),
    }[suffix]()
    for read in (read_latents, Essence.load):
        with pytest.raises(BadFile, match=rf"bad\.{suffix}.*{says}"):
            read(path)


def test_an_essence_of_ours_with_absurd_numbers_is_refused():
    Essence(W * 1e20).save("e.safetensors")
    with pytest.raises(BadFile, match="e.safetensors"):
        Essence.load("e.safetensors")


def test_nonsense_is_refused_before_the_models_are_loaded(monkeypatch, capsys):
    monkeypatch.setattr(Studio, "models", property(lambda self: pytest.fail("models were loaded")))
    np.save("bad.npy", np.full((8, 8), np.nan, np.float32))
    words = ["grid", "--essences", "bad.npy", "--sources", "bad.npy", "--out", "o.png"]
    assert cli.main(words) == 2
    assert "bad.npy" in capsys.readouterr().err


def test_latents_of_python_are_checked_too(studio):
    for w, error in ((W * torch.nan, BadFile), (W * 1e9, BadFile), (W[:0], EssenceMismatch)):
        with pytest.raises(error):
            studio.from_latents(w)


def test_networks_and_objects_are_no_latents():
    torch.save({"g_ema": fakes.model_set().generator.state_dict()}, "checkpoint.pt")
    torch.save(fakes.model_set().generator.state_dict(), "bare.pt")
    np.save("objects.npy", {"face.png": W.numpy()}, allow_pickle=True)
    np.savez("words.npz", names=np.array(["a", "b"]))
    Path("pickle.npy").write_bytes(b"\x80\x04cos\nsystem\n.")
    for name in ("checkpoint.pt", "bare.pt", "objects.npy", "words.npz", "pickle.npy"):
        with pytest.raises(BadFile, match=name):
            read_latents(name)


def test_an_archive_that_unpacks_to_gigabytes_is_refused(monkeypatch):
    monkeypatch.setattr("essence.library.safe_files.LARGEST_ARCHIVE", 1 << 20)
    np.savez_compressed("bomb.npz", w=np.zeros((1 << 19,), np.float32))
    with pytest.raises(BadFile, match="unpacked"):
        read_latents("bomb.npz")


# ---- on the command line


def test_the_command_line_takes_them_all(tmp_path, monkeypatch, capsys, caplog):
    monkeypatch.setattr(latents, "SAMPLES", 5_000)
    model = str(fakes.files(tmp_path / "set"))
    np.savez("projected_w.npz", w=W[None].numpy())
    torch.save(projected(anna=W, ben=-W), "people.pt")
    np.save("boundary.npy", np.full((1, 8), 0.1, np.float32))
    torch.save({"smile": 0.1 * W, "age": -0.1 * W}, "directions.pt")
    common = ["--model", model, "--out", "o.png"]

    def apply(source: str, essence: str) -> int:
        return cli.main(["apply", *common, "--source", source, "--essence", essence])

    assert apply("projected_w.npz", "boundary.npy") == 0
    assert "all 8 layers" in caplog.text
    assert apply("people.pt#ben", "directions.pt#smile") == 0
    assert apply("people.pt", "boundary.npy") == 2
    assert "anna.png, ben.png" in capsys.readouterr().err
    assert apply("projected_w.npz", "directions.pt") == 2
    assert "smile, age" in capsys.readouterr().err
    words = ["grid", *common, "--essences", "boundary.npy", "--json", "--sources", "people.pt"]
    assert cli.main([*words, "projected_w.npz"]) == 0
    assert '"columns": 3' in capsys.readouterr().out
