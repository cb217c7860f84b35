"""`python -m benchmarks.compiled`: a step of learning as plain torch, compiled by torch.compile;
says how long compiling took, then what a step takes.

The step is ours as one would write it down: the sources are encoded once and all weights are
frozen. It runs in a process of its own (`compiled_rows`), so that compiling can be given up.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from essence.models.model_set import ModelSet
from essence.pictures.tensors import resample

from .cases import NOT_MEASURED, Row, Setting, random_latents, random_picture
from .networks import random_models

LIMIT = 90.0  # seconds for one case, compiling included
PLAIN = {"ESSENCE_OPS": "reference"}  # plain torch in every layer
REPEATS = 30


def plain_loss(models: ModelSet, w: Tensor, target: Tensor, side: int) -> Callable[..., Tensor]:
    """(b [L, D], c [N, 1, 1]) to the loss of the edited sources w + c b; `side`: 0 for the full
    picture.
    """
    clip = models.clip
    with torch.no_grad():
        before = F.normalize(models.encode(models.images(w, side or None)), dim=-1)

    def loss(b: Tensor, c: Tensor) -> Tensor:
        with models.precision():
            pictures = models.generator.synthesis(w + c * b, side or None).float()
            small = (resample(pictures, clip.size, "antialias") + 1) / 2
            seen = clip.model.encode_image((small - clip.mean) / clip.std)
        after = F.normalize(seen.float(), dim=-1)
        change = F.normalize(after - before + 1e-6, dim=-1)
        alike = change @ change.T
        return 1 - (after @ target.T).mean() + 0.5 * (1 - alike).mean()

    return loss


def time_steps(models: ModelSet, count: int, side: int) -> Iterator[str]:
    """Seconds of the first step, which compiles, then the median and the least of the others."""
    w = random_latents(models, count)
    with torch.no_grad():
        target = F.normalize(models.encode(random_picture(0)), dim=-1)
    loss = torch.compile(plain_loss(models, w, target, side))
    b = (torch.randn_like(w[0]) * 0.1).requires_grad_()
    c = torch.ones(count, 1, 1, device=w.device, requires_grad=True)
    optimizer = torch.optim.Adam([b, c], lr=0.02)

    def step() -> float:
        began = time.perf_counter()
        optimizer.zero_grad()
        loss(b, c).backward()
        optimizer.step()
        if w.is_cuda:
            torch.cuda.synchronize()
        return time.perf_counter() - began

    yield f"compiled after {step():.0f} s"
    step()
    times = [step() for _ in range(REPEATS if w.is_cuda else 3)]
    yield f"{statistics.median(times):.3g} s a step, at best {min(times):.3g} s"


def compiled_rows(setting: Setting) -> Iterator[Row]:
    """The exact step and the one with the loss at a smaller picture, both where half precision
    pays, compiled at once in processes of their own.
    """
    sides = {"exact": 0, f"loss at {setting.loss_resolution}": setting.loss_resolution}
    began = time.monotonic()
    processes = {label: start(setting, side) for label, side in sides.items()}
    for label, process in processes.items():
        try:
            said, _ = process.communicate(timeout=max(0.0, LIMIT - (time.monotonic() - began)))
        except subprocess.TimeoutExpired:
            process.kill()
            said, _ = process.communicate()
            said += f"\n{NOT_MEASURED}: ended after {LIMIT:.0f} s"
        else:
            said += f"\n{NOT_MEASURED}: it failed" if process.returncode else ""
        case = f"step, {setting.size}, {setting.sources} sources, {label}, torch.compile"
        yield Row(case, setting.device, "", "; ".join(said.split("\n")).strip("; "), "", "")


def start(setting: Setting, side: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "benchmarks.compiled", "--device", setting.device]
    command += ["--size", str(setting.size), "--sources", str(setting.sources)]
    command += ["--side", str(side), *["--tiny"] * setting.tiny]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, **PLAIN})


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser("python -m benchmarks.compiled", description=__doc__)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--size", type=int, default=1024)
    parser.add_argument("--sources", type=int, default=4)
    parser.add_argument("--side", type=int, default=256, help="of the loss's picture; 0: full")
    parser.add_argument("--tiny", action="store_true")
    a = parser.parse_args(arguments)
    half = a.device == "cuda"
    models = random_models(a.size, torch.device(a.device), half, a.tiny)
    for said in time_steps(models, a.sources, a.side):
        print(said, flush=True)


if __name__ == "__main__":
    main()
