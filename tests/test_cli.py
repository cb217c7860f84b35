import json
import subprocess
import sys
import types

import numpy as np
import pytest
import torch
from PIL import Image

from essence import Essence
from essence.cli import commands
from essence.errors import UserError

from . import fakes

PICTURE = Image.effect_mandelbrot((64, 64), (-2, -1.5, 1, 1.5), 40).convert("RGB")


@pytest.fixture
def run(monkeypatch, capsys, tmp_path):
    """Run a command on the fake models; (exit code, stdout, stderr)."""
    monkeypatch.setattr(commands, "Studio", lambda model, device, progress: fakes.studio())
    monkeypatch.chdir(tmp_path)
    PICTURE.save("t.png")
    PICTURE.rotate(90).save("a.png")

    def call(line):
        try:
            code = commands.main(line.split())
        except SystemExit as stop:
            code = stop.code
        return code, *capsys.readouterr()

    return call


def test_extract_apply_grid(run, tmp_path):
    code, out, _ = run(
        "extract --target t.png --sources a.png t.png --aligned --refine 2 --steps 5 --out e.safetensors --json"
    )
    found = json.loads(out)
    assert code == 0 and found["steps"] == 5 and found["sources"] == 2 and found["device"] == "cpu"
    assert {"loss_first", "loss_best", "cosine_before", "cosine_after", "seconds"} <= set(found)
    assert Essence.load("e.safetensors").name == "t"
    assert (
        run(
            "apply --source a.png --aligned --refine 0 --essence e.safetensors --strength 0.8 --out out.png"
        )[0]
        == 0
    )
    assert Image.open("out.png").size == (32, 32)
    code, *_ = run(
        "grid --sources a.png t.png --aligned --refine 0 --essences e.safetensors e.safetensors --strength 1 0.5 --out grid.png"
    )
    assert code == 0 and Image.open("grid.png").width > 3 * 32


def test_extract_continues(run):
    line = "extract --target t.png --sources a.png --aligned --refine 0 --steps 3"
    run(f"{line} --out e.safetensors")
    code, _, err = run(f"{line} --continue e.safetensors --out f.safetensors")
    assert code == 0, err
    assert Essence.load("f.safetensors").provenance["continues"] == "t"


def test_latents_out_and_in(run):
    assert run("invert --image a.png --aligned --refine 1 --out i.png --latents w.npy")[0] == 0
    assert np.load("w.npy").shape == (8, 8)
    code, out, _ = run(
        "extract --target t.png --sources w.npy --aligned --steps 1 --out e.safetensors --json"
    )
    assert code == 0 and json.loads(out)["sources"] == 1


def test_doctor_names_versions_and_models(run):
    code, out, _ = run("doctor --json")
    found = json.loads(out)
    assert code == 0 and found["torch"] == torch.__version__.split("+")[0]
    assert "MB" in found["mini.generator"] and found["default model"] == "mini"


MISTAKES = [
    ("align --image nope.png --out o.png", "nope.png"),
    ("align --image a.png --out o.png", "No face"),
    ("align --image a.png --aligned --out o.tiff", "o.tiff"),
    ("align --image empty.png --out o.png", "empty.png"),
    ("extract --target t.png --steps 0 --out e.safetensors", "at least 1"),
    (
        "extract --target t.png --sources a.png --aligned --lambda-consistency -1 --out e.safetensors",
        "lambda_consistency",
    ),
    ("extract --target t.png --preset wild --out e.safetensors", "wild"),
    ("apply --source a.png --aligned --essence big.npy --out o.png", "[18, 512]"),
    ("apply --source a.png --aligned --essence empty.png --out o.png", "empty.png"),
    (
        "grid --sources a.png --aligned --essences small.npy small.npy --strength 1 2 3 --out o.png",
        "--strength",
    ),
    ("apply --source big.npy --essence small.npy --out o.png", "[8, 8]"),
    ("extract --target t.png --sources a.png --aligned --device cuda --out e.safetensors", "CUDA"),
    ("nonsense", "nonsense"),
    ("train", "generator, teeth, inverter, clip"),
    ("evaluate people", "models, essences"),
    ("fetch nonsense", "mini, ffhq, church"),
    ("fetch ffhq --from nope.pt", "nope.pt"),
    ("convert a.png o.safetensors", "a.png"),
    ("convert a.png o.pt", ".safetensors"),
    ("doctor --model nonsense", "nonsense"),
    ("apply --source many.npy --essence small.npy --out o.png", "many.npy#0"),
]


@pytest.mark.parametrize("line, says", MISTAKES)
def test_a_mistake_is_one_line_and_exit_code_2(run, line, says):
    np.save("big.npy", np.zeros((18, 512), np.float32))
    np.save("small.npy", np.zeros((8, 8), np.float32))
    np.save("many.npy", np.zeros((3, 8, 8), np.float32))
    open("empty.png", "w").close()
    code, out, err = run(line)
    if "cuda" in line and torch.cuda.is_available():
        return
    lines = [text for text in err.splitlines() if text.startswith("essence:")]
    assert code == 2 and out == "" and says in err and len(lines) == 1 and "Traceback" not in err


@pytest.mark.parametrize(
    "line, module",
    [
        ("train generator", "train.generator"),
        ("train teeth", "train.teeth"),
        ("train inverter", "train.inverter"),
        ("train clip", "train.clip"),
        ("evaluate models", "train.report"),
        ("evaluate essences", "train.evaluate"),
    ],
)
def test_recipes_get_their_words_untouched(run, monkeypatch, line, module):
    got = []
    recipe = types.ModuleType(f"essence.{module}")
    recipe.main = got.append
    monkeypatch.setitem(sys.modules, recipe.__name__, recipe)
    assert run(f"{line} --data x --steps -3 --help")[0] == 0
    assert got == [["--data", "x", "--steps", "-3", "--help"]]


def test_a_recipes_mistake_is_one_line_too(run, monkeypatch):
    def main(words):
        raise UserError(f"There is no folder {words[1]}.")

    recipe = types.ModuleType("essence.train.clip")
    recipe.main = main
    monkeypatch.setitem(sys.modules, "essence.train.clip", recipe)
    assert run("train clip --data x") == (2, "", "essence: There is no folder x.\n")


def test_recipes_are_listed(run):
    code, out, _ = run("train --help")
    assert code == 0 and "generator|teeth|inverter|clip" in out
    assert "evaluate" in run("--help")[1]


def test_a_recipes_own_help_is_shown(run):
    code, out, _ = run("train clip --help")
    assert code == 0 and "--steps" in out


def test_module_runs_as_a_program():
    done = subprocess.run(
        [sys.executable, "-m", "essence", "--help"], capture_output=True, text=True
    )
    assert done.returncode == 0 and "extract" in done.stdout


def test_who_reads_no_further_hears_no_complaint():
    """As `python -m essence doctor | head -1`."""
    work = subprocess.Popen(
        [sys.executable, "-m", "essence", "doctor"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    work.stdout.close()
    assert work.stderr.read() == "" and work.wait() == 141
    work.stderr.close()
