import dataclasses
import json
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from essence import METHODS, PRESETS, Essence, Pictures, Step
from essence.cli import inputs
from essence.cli.main import main
from essence.errors import UserError
from essence.methods.base import Method

from . import fakes

PICTURE = Image.effect_mandelbrot((64, 64), (-2, -1.5, 1, 1.5), 40).convert("RGB")


@pytest.fixture
def run(monkeypatch, capsys, tmp_path):
    """Run a command on the fake models; (exit code, stdout, stderr)."""
    monkeypatch.setattr(inputs, "Studio", lambda *_, **__: fakes.studio())
    monkeypatch.chdir(tmp_path)
    PICTURE.save("t.png")
    PICTURE.rotate(90).save("a.png")

    def call(line):
        try:
            code = main(line.split())
        except SystemExit as stop:
            code = stop.code
        return code, *capsys.readouterr()

    return call


def test_extract_apply_grid(run, tmp_path):
    code, out, _ = run(
        "extract --target t.png --sources a.png t.png --aligned --refine 2 --steps 5 "
        "--out e.safetensors --json"
    )
    found = json.loads(out)
    assert code == 0 and found["steps"] == 5 and found["sources"] == 2 and found["device"] == "cpu"
    assert {"loss_first", "loss_best", "cosine_before", "cosine_after", "seconds"} <= set(found)
    assert Essence.load("e.safetensors").name == "t"
    code, *_ = run(
        "apply --source a.png --aligned --refine 0 --essence e.safetensors --strength 0.8 "
        "--look model --out out.png"
    )
    assert code == 0
    assert Image.open("out.png").size == (32, 32)
    code, *_ = run(
        "grid --sources a.png t.png --aligned --refine 0 --essences e.safetensors e.safetensors "
        "--strength 1 0.5 --out grid.png"
    )
    assert code == 0 and Image.open("grid.png").width > 3 * 32


def test_extract_continues(run):
    line = "extract --target t.png --sources a.png --aligned --refine 0 --steps 3"
    run(f"{line} --out e.safetensors")
    code, _, err = run(f"{line} --continue e.safetensors --out f.safetensors")
    assert code == 0, err
    assert Essence.load("f.safetensors").provenance["continues"] == "t"


# -- methods that the command has never heard of


@dataclasses.dataclass(frozen=True)
class ToyOptions:
    steps: int = 2
    seed: int = 0
    preview_every: int = 1


def learn_pictures(models, target, sources, options, start=None):
    """No direction and no loss: every source becomes the target."""
    target_pixels = np.asarray(target.picture.resize((models.size, models.size)))
    pictures = Pictures(np.stack([target_pixels] * len(sources)), target.name, "toy")
    for i in range(options.steps):
        yield Step(i + 1, options.steps, pictures, {})


def learn_nothing(models, target, sources, options, start=None):
    direction = torch.zeros(models.latent_shape)
    for i in range(options.steps):
        yield Step(i + 1, options.steps, Essence(direction, target.name), {"total": 1.0 / (i + 1)})


@pytest.fixture
def toy(monkeypatch):
    """Register a method "toy" with its preset."""

    def register(learn):
        presets = {"toy-preset": ToyOptions()}
        monkeypatch.setitem(METHODS, "toy", Method("for a test", learn, presets))
        monkeypatch.setitem(PRESETS, "toy-preset", presets["toy-preset"])

    return register


TOY = "extract --target t.png --sources a.png t.png --aligned --refine 0 --json"


@pytest.mark.parametrize("choice", ["--method toy", "--preset toy-preset"])
def test_a_new_method_is_offered(run, toy, choice):
    toy(learn_nothing)
    code, out, _ = run(f"{TOY} {choice} --steps 4 --out e.safetensors")
    found = json.loads(out)
    assert code == 0 and found["steps"] == 4
    assert (found["loss_first"], found["loss_best"]) == (1.0, 0.25)
    assert found["cosine_before"] == pytest.approx(found["cosine_after"], abs=1e-5)
    assert Essence.load("e.safetensors").name == "t"
    assert "toy-preset" in run("extract --help")[1]


def test_a_method_may_give_pictures(run, toy):
    toy(learn_pictures)
    code, out, err = run(f"{TOY} --method toy --out o.webp")
    found = json.loads(out)
    assert code == 0, err
    assert found["steps"] == 2 and found["loss_first"] is found["loss_best"] is None
    assert found["cosine_after"] == pytest.approx(1, abs=0.01)
    assert found["cosine_before"] < found["cosine_after"]
    with Image.open("o.webp") as picture:
        assert picture.format == "WEBP" and picture.width >= 2 * 32


@pytest.mark.parametrize(
    "learn, out", [(learn_pictures, "o.safetensors"), (learn_nothing, "o.png")]
)
def test_a_wrong_suffix_stops_after_the_first_step(run, toy, learn, out):
    steps = []

    def counted(*inputs):
        for step in learn(*inputs):
            steps.append(step)
            yield step

    toy(counted)
    code, _, err = run(f"{TOY} --method toy --out {out}")
    assert code == 2 and f"'{out}'" in err and len(steps) == 1 and not Path(out).exists()


@pytest.mark.parametrize(
    "flags, says",
    [
        ("--method toy --space w+", "--space"),
        ("--method toy --seed 1 --loss-resolution 32", "--loss-resolution"),
        ("--preset released --space axes", "--space"),
        ("--method optimize --preset released", "'released'"),
    ],
)
def test_a_flag_that_the_method_does_not_have(run, toy, flags, says):
    toy(learn_nothing)
    code, out, err = run(f"{TOY} {flags} --out e.safetensors")
    assert code == 2 and out == "" and says in err and len(err.splitlines()) == 1


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
        "extract --target t.png --sources a.png --aligned --lambda-consistency -1 "
        "--out e.safetensors",
        "lambda_consistency",
    ),
    ("extract --target t.png --preset wild --out e.safetensors", "wild"),
    ("apply --source a.png --aligned --essence big.npy --out o.png", "[18, 512]"),
    ("apply --source a.png --aligned --essence empty.png --out o.png", "empty.png"),
    (
        "grid --sources a.png --aligned --essences small.npy small.npy --strength 1 2 3 "
        "--out o.png",
        "--strength",
    ),
    ("apply --source big.npy --essence small.npy --out o.png", "[8, 8]"),
    ("extract --target t.png --sources a.png --aligned --device cuda --out e.safetensors", "CUDA"),
    ("nonsense", "nonsense"),
    ("train", "generator, teeth, finer, inverter, clip"),
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
        ("train teeth", "train.mouth_colour"),
        ("train inverter", "train.inverter"),
        ("train clip", "train.clip"),
        ("train texts", "train.texts"),
        ("evaluate models", "evaluate.report"),
        ("evaluate essences", "evaluate.essences"),
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
    assert code == 0 and "generator|teeth|finer|inverter|clip" in out
    assert "evaluate" in run("--help")[1]


def test_a_recipes_own_help_is_shown(run):
    code, out, _ = run("train clip --help")
    assert code == 0 and "--steps" in out


@pytest.mark.parametrize("line", ["train generator", "evaluate models"])
def test_a_recipe_whose_data_is_not_installed_says_so(run, monkeypatch, line):
    """Its module needs `essence.train.data`, which no wheel contains."""

    def main(words):
        raise ModuleNotFoundError("No module named ...", name="essence.train.data.attributes")

    for name in ("essence.train.generator", "essence.evaluate.report"):
        recipe = types.ModuleType(name)
        recipe.main = main
        monkeypatch.setitem(sys.modules, name, recipe)
    code, out, err = run(line)
    assert code == 2 and out == "" and "checkout" in err and len(err.splitlines()) == 1


def test_demo_hands_its_words_to_the_page(run, monkeypatch):
    got = []
    page = types.ModuleType("demo")
    page.main = got.append
    monkeypatch.setitem(sys.modules, "demo", page)
    assert run("demo --port 0 --help")[0] == 0
    assert got == [["--port", "0", "--help"]]


def test_demo_without_gradio_says_what_to_install(run, monkeypatch, tmp_path):
    (tmp_path / "demo.py").write_text("import gradio")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "demo", raising=False)
    monkeypatch.setitem(sys.modules, "gradio", None)
    code, out, err = run("demo")
    assert code == 2 and out == "" and "pip install gradio" in err and len(err.splitlines()) == 1


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
