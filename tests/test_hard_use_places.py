"""Homes that are missing, caches that cannot be written or hold half a file, and streams that are
closed or take no Unicode.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import platformdirs
import pytest
import torch
from PIL import Image

from essence.errors import UserError
from essence.ops import build
from essence.runtime import folders, hardware

from .test_processor import asked_anew, needs_compiler  # noqa: F401 - a fixture

ROOT = Path(__file__).parents[1]
posix_only = pytest.mark.skipif(os.name == "nt", reason="POSIX's users and folders")


# -- the cache


@pytest.fixture
def no_temporary_folder_yet(monkeypatch, tmp_path):
    monkeypatch.setattr(folders.tempfile, "tempdir", str(tmp_path))
    folders.temporary_folder.cache_clear()
    yield tmp_path
    folders.temporary_folder.cache_clear()


def unknown_home(*_, **__):
    raise RuntimeError("could not determine the home directory")


@posix_only
@pytest.mark.parametrize("answer", [unknown_home, lambda *_, **__: Path("~/.cache/essence")])
def test_without_a_home_the_cache_is_a_private_temporary_folder(
    monkeypatch, no_temporary_folder_yet, answer
):
    monkeypatch.delenv("ESSENCE_CACHE", raising=False)
    monkeypatch.setattr(platformdirs, "user_cache_path", answer)
    folder = folders.cache_folder()
    assert folder.is_absolute() and folder.parent == no_temporary_folder_yet
    assert folder.stat().st_mode & 0o777 == 0o700 and folders.cache_folder() == folder


@posix_only
def test_nothing_is_taken_from_a_folder_that_others_may_write(no_temporary_folder_yet):
    theirs = no_temporary_folder_yet / f"essence-cache-{os.getuid()}"
    theirs.mkdir()
    theirs.chmod(0o777)
    assert folders.temporary_folder() != theirs


@pytest.mark.parametrize("place", ["a file", "a read-only folder"])
def test_a_cache_that_cannot_be_written_is_replaced(
    monkeypatch, tmp_path, no_temporary_folder_yet, place
):
    cache = tmp_path / "cache"
    if place == "a file":
        cache.write_text("not a folder")
    else:
        cache.mkdir()
        monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != cache)
    monkeypatch.setenv("ESSENCE_CACHE", str(cache))
    assert folders.cache_folder() == cache  # what is there already is read
    assert folders.writable_cache_folder() == folders.temporary_folder()


# -- the compiled library


@needs_compiler
@pytest.mark.parametrize("damage", ["truncated", "empty", "of another version", "changed"])
def test_a_damaged_library_is_compiled_again(asked_anew, tmp_path, damage):  # noqa: F811
    asked_anew.setenv("ESSENCE_CACHE", str(tmp_path))
    build.cpu_library()
    (made,) = (tmp_path / "ops").iterdir()
    good = made.read_bytes()
    made.unlink()  # not in place: the library that is loaded is this file
    half = len(good) // 2
    made.write_bytes(
        {
            "truncated": good[:half],
            "empty": b"",
            "of another version": good.rpartition(build.SEAL)[0],
            "changed": good[:half] + bytes([good[half] ^ 1]) + good[half + 1 :],
        }[damage]
    )
    build.cpu_library.cache_clear()
    assert build.cpu_library()
    assert build.is_sealed(made) and list((tmp_path / "ops").iterdir()) == [made]


@needs_compiler
def test_a_library_in_a_cache_that_is_only_read_is_taken(asked_anew, tmp_path):  # noqa: F811
    asked_anew.setenv("ESSENCE_CACHE", str(tmp_path))
    build.cpu_library()
    build.cpu_library.cache_clear()
    asked_anew.setattr(build.folders, "is_writable", lambda path: False)
    asked_anew.setattr(build, "_compile_for_cpu", lambda *_: pytest.fail("compiled again"))
    assert build.cpu_library()


def test_a_killed_build_for_a_gpu_is_not_waited_for_nor_taken_for_finished(monkeypatch, tmp_path):
    def load(name, sources, build_directory, **_):
        """As torch's and ninja's: waits for a lock, and leaves what is there."""
        assert not (Path(build_directory) / "lock").exists(), "it would wait for ever"
        library = Path(build_directory) / f"{name}.so"
        if not library.exists():
            builds.append(library)
            library.write_bytes(b"a whole library")

    builds: list[Path] = []
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path))
    monkeypatch.setattr(build, "cuda_toolkit", lambda: tmp_path)
    monkeypatch.setattr("torch.utils.cpp_extension.load", load)
    library = Path(build.compile_cuda(["sm_90"]))
    assert build.compile_cuda(["sm_90"]) == str(library) and len(builds) == 1
    library.write_bytes(library.read_bytes()[:5])
    (library.parent / "lock").touch()
    build.compile_cuda(["sm_90"])
    assert len(builds) == 2 and build.is_sealed(library)


# -- devices


@pytest.mark.parametrize("name", ["nonsense", "cuda:x", "cpu:", "", "meta", "xpu:0", "CPU"])
def test_an_unknown_device_names_the_known_ones(name):
    with pytest.raises(UserError, match=f"'{name}'.*cpu, cuda, mps"):
        hardware.device(name)


def test_a_device_that_is_not_there(monkeypatch):
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(UserError, match="no MPS"):
        hardware.device("mps")
    with pytest.raises(UserError, match="'cuda:2'.*cuda:1"):
        hardware.device("cuda:2")
    assert hardware.device("cuda:1") == "cuda:1"
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert hardware.device("mps") == "mps"


# -- streams


def align(folder: Path, *words: str, **options) -> subprocess.CompletedProcess:
    """Cut out a picture with a name that few encodings have, as a process of its own."""
    name = "\N{GRINNING FACE}.png"
    Image.effect_mandelbrot((64, 64), (-2, -1.5, 1, 1.5), 20).save(folder / name)
    surroundings = {**os.environ, "PYTHONPATH": str(ROOT), **options.pop("env", {})}
    program = [sys.executable, "-m", "essence", "align", "--aligned", "--image", name]
    return subprocess.run(
        [*program, *words],
        cwd=folder,
        env=surroundings,
        **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | options,
    )


def test_a_name_that_the_output_cannot_spell(tmp_path):
    done = align(tmp_path, "--out", "\N{CAT FACE}.png", env={"PYTHONIOENCODING": "cp1252"})
    assert done.returncode == 0 and b"\\U0001f431.png" in done.stdout and done.stderr == b""
    assert (tmp_path / "\N{CAT FACE}.png").exists()


@posix_only
def test_closed_streams_are_nowhere_and_in_no_file(tmp_path):
    def close() -> None:
        for number in (0, 1, 2):
            os.close(number)

    streams = {"stdin": None, "stdout": None, "stderr": None}
    done = align(tmp_path, "--out", "o.png", preexec_fn=close, **streams)
    assert done.returncode == 0
    with Image.open(tmp_path / "o.png") as picture:
        picture.load()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_an_output_that_is_full_is_one_line(tmp_path):
    with open("/dev/full", "w") as full:
        done = align(tmp_path, "--out", "o.png", stdout=full)
    assert done.returncode == 2 and done.stderr.splitlines() == [
        b"essence: the output: No space left on device"
    ]


@posix_only
def test_a_picture_to_the_output_is_alone_there(tmp_path):
    done = align(tmp_path, "--out", "/dev/stdout")
    assert done.returncode == 0 and b"/dev/stdout" in done.stderr
    assert done.stdout.startswith(b"\x89PNG") and done.stdout.endswith(b"IEND\xaeB`\x82")
