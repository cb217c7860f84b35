"""The wheel: what is in it, and that it works from another folder than the repository's."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import sysconfig
import time
import urllib.error
import urllib.request
import venv
import zipfile
from pathlib import Path

import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def test_every_package_is_listed():
    """All but what prepares and labels training pictures."""

    def packages(folder: str, name: str) -> set[str]:
        files = (ROOT / folder).rglob("*.py")
        return {".".join((name, *file.parent.relative_to(ROOT / folder).parts)) for file in files}

    wanted = packages("essence", "essence") | packages("demo", "essence.demo")
    wanted = {name for name in wanted if not name.startswith("essence.train.data")}
    listed = PROJECT["tool"]["setuptools"]["packages"]
    folders = ("essence.weights", "essence.assets", "essence.demo.templates")
    assert {name for name in listed if not name.startswith(folders)} == wanted


def test_requirements_are_the_dependencies_and_those_of_the_tests():
    def normalised(requirement: str) -> str:
        return re.sub(r"\s+", "", requirement).replace("'", '"')

    lines = (ROOT / "requirements.txt").read_text().splitlines()
    listed = {normalised(line) for line in lines if line.strip() and not line.startswith("#")}
    wanted = (
        PROJECT["project"]["dependencies"] + PROJECT["project"]["optional-dependencies"]["test"]
    )
    assert listed == {normalised(requirement) for requirement in wanted}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """Built from a copy, since building leaves folders behind; without a network."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    caches = shutil.ignore_patterns("__pycache__")
    for name in ("essence", "demo", "assets", "weights/mini"):
        shutil.copytree(ROOT / name, source / name, ignore=caches)
    weights = ("weights/manifest.toml", "weights/MODEL_CARD.md")
    for name in ("pyproject.toml", "README.md", "LICENSE", *weights):
        shutil.copy(ROOT / name, source / name)
    pip = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation"]
    subprocess.run([*pip, "-w", folder, source], check=True)
    return next(folder.glob("*.whl"))


@pytest.fixture(scope="module")
def program(wheel, tmp_path_factory) -> Path:
    """The console script of a fresh environment, which borrows this one's other packages."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder)
    scripts = folder / ("Scripts" if os.name == "nt" else "bin")
    pip = [sys.executable, "-m", "pip", "--python", scripts / "python", "install", "-q"]
    subprocess.run([*pip, "--no-deps", "--no-index", wheel], check=True)
    site = Path(sysconfig.get_path("purelib", vars={"base": str(folder)}))
    (site / "borrowed.pth").write_text(sysconfig.get_path("purelib"))
    return scripts / "essence"


def run(program: Path, folder: Path, *words: str) -> dict:
    done = subprocess.run(
        [program, *words, "--json"], cwd=folder, env=surroundings(), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def surroundings() -> dict[str, str]:
    """This process's, without a way to the repository."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}


@pytest.mark.slow
def test_the_wheel_holds_what_is_used_at_run_time(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    for needed in ("cli/main.py", "demo/__init__.py", "ops/kernels.cu", "assets/page.js"):
        assert f"essence/{needed}" in names
    for folder in ("weights/mini", "assets/sources", "assets/targets", "assets/essences"):
        files = {path.name for path in (ROOT / folder).iterdir()}
        assert {f"essence/{folder}/{file}" for file in files} <= set(names)
    for file in (ROOT / "essence").rglob("*"):
        if file.suffix in (".cpp", ".cu", ".json"):
            assert str(file.relative_to(ROOT)) in names
    for template in (ROOT / "demo").rglob("*.html"):
        assert f"essence/{template.relative_to(ROOT)}" in names
    unwanted = ("train/data/", "tests/", "benchmarks/", "weights/ffhq", "weights/church", ".csv")
    assert not [name for name in names if any(part in name for part in unwanted)]
    assert {name.split("/")[0].split("-")[0] for name in names} == {"essence", "essence_transfer"}


@pytest.mark.slow
def test_doctor_from_another_folder(program, tmp_path):
    found = run(program, tmp_path, "doctor")
    assert found["mini.generator"].startswith("present")


@pytest.mark.slow
def test_extract_from_another_folder(program, tmp_path):
    shutil.copy(ROOT / "assets/targets/grin.jpg", tmp_path)
    words = "extract --model mini --target grin.jpg --refine 2 --steps 10 --out e.safetensors"
    found = run(program, tmp_path, *words.split())
    assert found["steps"] == 10 and found["sources"] == 4
    assert found["cosine_after"] > found["cosine_before"]
    assert (tmp_path / "e.safetensors").is_file()


@pytest.mark.slow
def test_training_wants_a_checkout(program, tmp_path):
    words = [program, "evaluate", "models", "--data", "."]
    done = subprocess.run(words, cwd=tmp_path, env=surroundings(), capture_output=True, text=True)
    assert done.returncode == 2 and "checkout" in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.slow
def test_the_page_from_another_folder(program, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    words = [program, "demo", "--model", "mini", "--host", "127.0.0.1", "--port", str(port)]
    log = tmp_path / "log"
    with open(log, "w") as output:
        page = subprocess.Popen(
            words, cwd=tmp_path, env=surroundings(), stdout=output, stderr=subprocess.STDOUT
        )
    try:
        text, deadline = "", time.monotonic() + 600
        while not text and page.poll() is None and time.monotonic() < deadline:
            try:
                text = urllib.request.urlopen(f"http://127.0.0.1:{port}/").read().decode()
            except urllib.error.URLError:
                time.sleep(1)
        assert "Essence" in text and "gradio" in text, log.read_text()
        # The script is in there, as JSON: a line that looks the same so.
        script = (ROOT / "assets/page.js").read_text(encoding="utf-8").splitlines()
        unchanged = (line.strip() for line in script if not set(line) & set("\"'<>&\\"))
        assert max(unchanged, key=len) in text
    finally:
        page.terminate()
        page.wait()
