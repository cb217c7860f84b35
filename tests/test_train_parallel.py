"""The recipes on two processes (gloo, CPU): different batches, one set of weights."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image, ImageDraw
from torch.distributed.run import parse_args

from essence.library.checkpoints import load_inverter, save_generator
from essence.library.clip_files import load_clip
from essence.library.safe_files import write_safetensors
from essence.models.stylegan2 import Generator, GeneratorConfig

ROOT = Path(__file__).parents[1]
SIDE, DIM = 32, 16
# At every save each process writes down what its weights add up to.
SPY = """
import sys
from pathlib import Path
from essence.train import clip, generator, inverter, parallel

def told(owner, name, net):
    before = getattr(owner, name)
    def save(self, *args):
        with (Path(sys.argv[1]) / f"weights-{parallel.rank()}").open("a") as file:
            print(sum(p.double().abs().sum().item() for p in net(self).parameters()), file=file)
        return before(self, *args)
    setattr(owner, name, save)

told(generator.TrainingState, "save", lambda t: t.generator)
told(inverter.Trainer, "save", lambda t: t.encoder)
told(clip.TrainingState, "count_step", lambda r: r.model)
{"generator": generator, "inverter": inverter, "clip": clip}[sys.argv[2]].main(sys.argv[3:])
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("two")
    (root / "faces").mkdir()
    for i in range(24):
        image = Image.new("RGB", (128, 128), (9 * i, 90, 200 - 5 * i))
        ImageDraw.Draw(image).ellipse((24, 16 + i % 4, 104, 112), fill=(220, 180 - 3 * i, 150))
        image.save(root / "faces" / f"{i:02d}.png")
    torch.manual_seed(0)
    save_generator(
        Generator(GeneratorConfig(SIDE, DIM, 2, {4: 8, 8: 8, 16: 8, 32: 8})),
        root / "generator.safetensors",
        half=False,
    )
    write_safetensors(
        root / "latents.safetensors", {"mean": torch.zeros(DIM), "covariance": torch.eye(DIM)}, {}
    )
    (root / "spy.py").write_text(SPY)
    return root


def on_two(folder: Path, out: Path, recipe: str, *words: str) -> list[str]:
    """Runs a recipe on two processes; returns what each of them said of its weights, in order."""
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [sys.executable, *launch, str(folder / "spy.py"), str(out), recipe]
    command += ["--data", str(folder / "faces"), "--out", str(out)]
    command += ["--device", "cpu", "--threads", "1", *words]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=1200)
    assert done.returncode == 0, done.stderr[-3000:]
    return [(out / f"weights-{rank}").read_text() for rank in (0, 1)]


SIZES = {
    "generator": (
        "--size 32 --style-dim 16 --n-mlp 2 --channels 16 16 8 8 --steps 3 --batch 4 --sampled 2 "
        "--no-half --warmup 1"
    ),
    "inverter": (
        "--input-size 32 --widths 4 6 8 10 --depths 1 1 1 1 --head-width 8 --steps 3 --batch 4 "
        "--generated 2 --bank 8 --passes 2 --fold 1 --no-half --warmup 1"
    ),
    "clip": (
        "--size 32 --width 8 --layers 1 1 1 1 --text-width 32 --text-layers 1 --context 16 "
        "--steps 3 --batch 4 --every 1"
    ),
}


def test_torchrun_leaves_a_recipes_options_alone():
    (launch,) = re.findall(r"`torchrun (.+?) \.\.\.`", (ROOT / "README.md").read_text())
    words = ["clip", "--start", "clip.safetensors", "--rate", "1e-3", "--log", "x"]
    parsed = parse_args([*launch.split(), *words])
    assert (parsed.module, parsed.training_script) == (True, "essence")
    assert parsed.training_script_args == ["train", *words]


QUICK = "inverter"  # the others are slow


@pytest.mark.parametrize(
    "recipe",
    [pytest.param(name, marks=[] if name == QUICK else pytest.mark.slow) for name in SIZES],
)
def test_two_processes_keep_the_same_weights(folder, tmp_path, recipe):
    words = SIZES[recipe].split()
    if recipe == "inverter":
        words += ["--generator", str(folder / "generator.safetensors")]
        words += ["--latents", str(folder / "latents.safetensors")]
    first, second = on_two(folder, tmp_path, recipe, *words)
    assert first and first == second
    steps = [line.split(",")[0] for line in (tmp_path / "log.csv").read_text().splitlines()[1:]]
    assert steps == ["1", "2", "3"], "one log, written once"
    if recipe == "inverter":
        load_inverter(tmp_path / "inverter.safetensors")
    if recipe == "clip":
        load_clip(tmp_path / "clip.safetensors")
