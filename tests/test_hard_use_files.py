"""Many files at once, some of them unusable, and every kind of place that results may go to."""

from __future__ import annotations

import errno
import io
import json
import os
import shutil
import stat
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from essence import Essence, RefineOptions, UserError
from essence.cli import outputs
from essence.cli.files import expand, picture_suffixes
from essence.runtime import files
from essence.runtime.files import write_bytes

from . import fakes
from .test_cli import PICTURE, run  # noqa: F401 - a fixture

posix_only = pytest.mark.skipif(os.name == "nt", reason="POSIX's links, devices and pipes")
QUICK = "--aligned --refine 0 --steps 1 --json"


# -- several at once


@pytest.fixture
def folder(tmp_path, face_image):
    """A face, a picture without one, no picture, and what folders hold beside pictures."""
    folder = tmp_path / "people"
    folder.mkdir()
    face_image.save(folder / "face-10.png")
    face_image.save(folder / "face-2.jpg")
    Image.new("RGB", (64, 64), "grey").save(folder / "wall.png")
    (folder / "torn.png").write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    (folder / "notes.txt").write_text("no picture")
    (folder / ".hidden.png").write_text("no picture")
    (folder / "inner.png").mkdir()
    return folder


def test_a_picture_without_a_face_does_not_lose_the_others(run, folder):  # noqa: F811
    line = f"extract --target t.png --sources {folder} --refine 0 --steps 1 --json"
    code, out, err = run(f"{line} --out e.safetensors")
    found = json.loads(out)
    assert code == 3 and found["sources"] == 2
    assert found["left_out"] == [str(folder / "torn.png"), str(folder / "wall.png")]
    assert all(f"{folder / name} is left out" in err for name in ("torn.png", "wall.png"))
    assert Essence.load("e.safetensors").name == "t"


def test_the_others_keep_their_order_and_latents_their_place(run, folder):  # noqa: F811
    np.save("w.npy", np.zeros((8, 8), np.float32))
    np.save("wrong.npy", np.zeros((18, 512), np.float32))
    run(f"extract --target t.png --sources a.png {QUICK} --out e.safetensors")
    sources = f"--sources w.npy wrong.npy {folder}/wall.png a.png"
    code, out, err = run(f"grid {sources} --essences e.safetensors --refine 0 --json --out g.png")
    assert code == 3 and json.loads(out)["columns"] == 1  # w.npy; a.png has no face either
    assert "wrong.npy is left out" in err and "[8, 8]" in err


def test_none_that_can_be_used_is_a_mistake(run, folder):  # noqa: F811
    sources = f"{folder}/wall.png {folder}/torn.png"
    code, out, err = run(f"extract --target t.png --sources {sources} --out e.safetensors")
    assert code == 2 and out == "" and "None of the 2 sources" in err.splitlines()[-1]
    assert not Path("e.safetensors").exists()


def test_each_target_has_a_file_of_its_own(run, folder):  # noqa: F811
    line = f"extract --target {folder} --sources a.png {QUICK}"
    code, out, err = run(f"{line} --out e.safetensors")
    found = json.loads(out)
    assert code == 3 and found["left_out"] == [str(folder / "torn.png")] and "torn.png" in err
    assert found["out"] == [f"e-{name}.safetensors" for name in ("face-2", "face-10", "wall")]
    assert [Essence.load(path).name for path in found["out"]] == ["face-2", "face-10", "wall"]
    assert len(found["cosine_after"]) == len(found["seconds"]) == 3
    Path("essences").mkdir()
    assert json.loads(run(f"{line} --out essences")[1])["out"][0] == "essences/face-2.safetensors"


def test_targets_of_the_same_name_do_not_replace_each_other():
    paths = outputs.output_for_each(Path("e.safetensors"), ["a", "b", "a", "a"])
    names = ["e-a", "e-b", "e-a~2", "e-a~3"]
    assert [path.name for path in paths] == [f"{name}.safetensors" for name in names]


def test_one_name_is_for_one_target(run):  # noqa: F811
    line = f"extract --target a.png t.png --sources a.png {QUICK} --name x --out e.safetensors"
    assert run(line)[0] == 2


def test_folders_and_patterns_stand_for_files(folder):
    names = {path.name for path in expand([folder], picture_suffixes())}
    assert names == {"face-2.jpg", "face-10.png", "wall.png", "torn.png"}
    found = expand([folder / "face-*", folder / "wall.png"], picture_suffixes())
    assert [path.name for path in found] == ["face-2.jpg", "face-10.png", "wall.png"]
    odd = folder / "face[1].png"  # a file, not a pattern
    shutil.copy(folder / "wall.png", odd)
    assert expand([odd], picture_suffixes()) == [odd]
    for nothing in (folder / "z*.png", folder / "inner.png"):
        with pytest.raises(UserError, match=r"no file"):
            expand([nothing], picture_suffixes())


@pytest.mark.parametrize("kind", [iter, tuple, set, lambda them: dict.fromkeys(them).keys()])
def test_a_studio_takes_any_iterable_of_pictures(kind, tmp_path):
    PICTURE.save(tmp_path / "one.png")
    PICTURE.rotate(90).save(tmp_path / "two.png")
    paths = [tmp_path / "one.png", str(tmp_path / "two.png")]
    sources = fakes.studio().sources(kind(paths), aligned=True, refine=RefineOptions(steps=0))
    assert {source.name for source in sources} == {"one", "two"}


def test_a_studio_takes_one_picture(tmp_path):
    PICTURE.save(tmp_path / "one.png")
    studio, options = fakes.studio(), RefineOptions(steps=0)
    for one in (tmp_path / "one.png", str(tmp_path / "one.png"), PICTURE):
        assert len(studio.sources(one, aligned=True, refine=options)) == 1
    assert studio.sources(iter([]), aligned=True) == []


# -- outputs, before the work

UNWRITABLE = [
    ("align --image a.png --aligned --out .", "folder"),
    ("align --image a.png --aligned --out o.bmp", ".png, .jpg"),
    ("invert --image a.png --aligned --out a.png/o.png", "a.png/o.png"),
    ("invert --image a.png --aligned --out o.png --latents w.txt", "--latents"),
    ("invert --image a.png --aligned --out o.png --latents .", "--latents"),
    ("apply --source a.png --aligned --essence w.npy --out .", "folder"),
    ("grid --sources a.png --aligned --essences w.npy --out sheet", "sheet"),
    ("extract --target t.png --sources a.png --aligned --out .", "folder"),
    ("extract --target t.png --sources a.png --aligned --out e.pt", ".safetensors"),
    ("extract --target t.png --sources a.png --aligned --out e.png", ".safetensors"),
    ("extract --target t.png --sources a.png --aligned --out e", ".safetensors"),
    ("convert nope.pt .", "OUT"),
]


@pytest.mark.parametrize("line, says", UNWRITABLE)
def test_an_output_that_cannot_be_written_is_told_before_the_work(
    run,  # noqa: F811
    monkeypatch,
    line,
    says,
):
    monkeypatch.setattr("essence.cli.inputs.Studio", lambda *_: pytest.fail("work has begun"))
    code, out, err = run(line)
    assert code == 2 and out == "" and says in err and len(err.splitlines()) == 1


def test_a_folder_that_lets_nobody_write_is_told_before_the_work(run, monkeypatch):  # noqa: F811
    def refuse(**_):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(outputs.tempfile, "TemporaryFile", refuse)
    code, _, err = run("align --image a.png --aligned --out new/o.png")
    assert code == 2 and "--out new/o.png" in err and "Read-only" in err
    assert not Path("new").exists()


# -- outputs, after the work


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
def test_a_failing_save_keeps_what_was_learned(run, monkeypatch, tmp_path, error):  # noqa: F811
    monkeypatch.setenv("ESSENCE_CACHE", str(tmp_path / "cache"))
    replace = os.replace

    def fail(here, there):
        if Path(there).name == "e.safetensors":
            raise OSError(error, os.strerror(error))
        replace(here, there)

    monkeypatch.setattr(os, "replace", fail)
    code, _, err = run(f"extract --target t.png --sources a.png {QUICK} --out e.safetensors")
    (kept,) = (tmp_path / "cache" / "kept").iterdir()
    assert code == 2 and str(kept) in err and "e.safetensors" in err
    assert Essence.load(kept).name == "t" and not list(tmp_path.glob("*.part"))


def test_where_the_cache_is_full_too_it_goes_elsewhere(monkeypatch, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    monkeypatch.setattr(outputs.folders, "writable_cache_folder", lambda: tmp_path / "full")
    monkeypatch.setattr(outputs.folders, "temporary_folder", lambda: elsewhere)
    (tmp_path / "full").write_text("no folder")
    with pytest.raises(UserError, match="elsewhere"):
        outputs.save_or_keep(Essence(np.zeros((2, 3), np.float32)), tmp_path / "full" / "e")
    assert len(list((elsewhere / "kept").iterdir())) == 1


# -- what a file replaces


@posix_only
@pytest.mark.parametrize("there", [True, False])
def test_a_link_stays_and_its_target_is_written(tmp_path, there):
    (tmp_path / "disk").mkdir()
    target, link = tmp_path / "disk" / "real", tmp_path / "link"
    link.symlink_to(target)
    if there:
        target.write_bytes(b"old")
        target.chmod(0o600)
    write_bytes(link, b"new")
    assert link.is_symlink() and target.read_bytes() == b"new"
    assert stat.S_IMODE(target.stat().st_mode) == (0o600 if there else 0o666 & ~mask())
    assert len(list(tmp_path.rglob("*"))) == 3


def mask() -> int:
    found = os.umask(0)
    os.umask(found)
    return found


@posix_only
def test_a_device_is_written_into():
    before = os.stat(os.devnull)
    write_bytes(os.devnull, b"nothing")
    after = os.stat(os.devnull)
    assert stat.S_ISCHR(after.st_mode) and before.st_ino == after.st_ino


@posix_only
@pytest.mark.parametrize("name", ["pipe", "pipe.png", "pipe.jpg"])
def test_a_picture_goes_into_a_pipe(run, name):  # noqa: F811
    os.mkfifo(name)
    got = []
    reader = threading.Thread(target=lambda: got.append(Path(name).read_bytes()), daemon=True)
    reader.start()
    assert run(f"align --image a.png --aligned --size 32 --out {name}")[0] == 0
    reader.join(10)
    with Image.open(io.BytesIO(got[0])) as picture:
        assert picture.format == ("JPEG" if name.endswith("jpg") else "PNG")
    assert stat.S_ISFIFO(os.stat(name).st_mode)


@posix_only
def test_a_file_that_cannot_be_replaced_is_written_in_place(monkeypatch, tmp_path):
    """As one that is mounted into a container by itself."""
    mounted = tmp_path / "mounted"
    mounted.write_bytes(b"something longer")

    def busy(here, there):
        raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))

    monkeypatch.setattr(os, "replace", busy)
    write_bytes(mounted, b"new")
    assert mounted.read_bytes() == b"new" and list(tmp_path.iterdir()) == [mounted]


def test_unfinished_files_of_a_killed_writer_are_swept(monkeypatch, tmp_path):
    def killed(here, there):
        raise SystemExit

    monkeypatch.setattr(Path, "unlink", lambda *_, **__: None)
    monkeypatch.setattr(os, "replace", killed)
    with pytest.raises(SystemExit):
        write_bytes(tmp_path / "e.safetensors", b"half")
    monkeypatch.undo()
    (stray,) = tmp_path.iterdir()
    theirs = [tmp_path / "film.part", tmp_path / "e.safetensors.part"]
    for path in theirs:
        path.write_bytes(b"somebody else's")
    old = time.time() - 2 * files.STRAY_AFTER
    write_bytes(tmp_path / "f.safetensors", b"new")
    assert stray.exists(), "somebody may be writing it"
    for path in (stray, *theirs):
        os.utime(path, (old, old))
    write_bytes(tmp_path / "f.safetensors", b"new")
    assert not stray.exists() and all(path.exists() for path in theirs)


def test_the_longest_name_can_be_written(tmp_path):
    path = tmp_path / ("\N{GRINNING FACE}" * 60 + ".png")
    write_bytes(path, b"new")
    assert path.read_bytes() == b"new"
