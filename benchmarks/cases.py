"""What is measured, and against which target."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor

from essence import OptimizeOptions, Source, Target, ops
from essence.library import loading
from essence.methods.optimize import optimize_together
from essence.models.model_set import ModelSet
from essence.runtime import memory

from . import rival
from .networks import random_models

NOT_MEASURED = "not measured"


@dataclass(frozen=True)
class Row:
    case: str
    device: str
    ours: str
    rival: str
    ratio: str
    target: str


@dataclass(frozen=True)
class Setting:
    """Of one run of the benchmarks."""

    size: int = 1024
    sources: int = 4
    repeats: int = 3  # the median is reported
    device: str = "cpu"
    # What ratios compare: "wall", or "processor" time of all threads, for a machine that others are
    # busy on. Cells show both on a CPU.
    clock: str = "wall"
    tiny: bool = False  # small networks: a test of the benchmarks, not a measurement

    @property
    def loss_resolution(self) -> int:
        return min(256, self.size // 2)


@dataclass(frozen=True)
class Time:
    """Seconds on the clock on the wall, and of processor time over all threads."""

    wall: float
    processor: float

    @classmethod
    def now(cls) -> Time:
        return cls(time.perf_counter(), time.process_time())

    def since(self, start: Time) -> Time:
        return Time(self.wall - start.wall, self.processor - start.processor)

    @classmethod
    def median(cls, times: Sequence[Time]) -> Time:
        wall, processor = ([getattr(t, clock) for t in times] for clock in ("wall", "processor"))
        return cls(statistics.median(wall), statistics.median(processor))

    def shown(self, device: str) -> str:
        beside = f" (processor {self.processor:.3g} s)" if device == "cpu" else ""
        return f"{self.wall:.3g} s{beside}"

    def ratio(self, other: Time, clock: str) -> str:
        return f"{getattr(self, clock) / getattr(other, clock):.1f}x"


def median_time(
    work: Callable[[], object], repeats: int, device: torch.device, warm_up: int = 1
) -> Time:
    """Of `work`, after `warm_up` runs that do not count."""
    times = []
    for i in range(warm_up + repeats):
        start = Time.now()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        if i >= warm_up:
            times.append(Time.now().since(start))
    return Time.median(times)


def random_latents(models: ModelSet, count: int) -> Tensor:
    """w+ [count, L, D]."""
    rng = torch.Generator().manual_seed(1)
    z = torch.randn(count, models.latent_shape[1], generator=rng).to(models.device)
    with torch.no_grad():
        return models.generator.repeat(models.generator.mapping(z)).clone()


# ---- a step of the optimiser


def step_time(models: ModelSet, setting: Setting, loss_resolution: int, targets: int = 1) -> Time:
    """Median seconds of a step with so many targets at once; the first step, which also encodes the
    sources, and the last, which shows a picture, are left out.
    """
    steps = setting.repeats + 2 if models.device.type == "cpu" else 30 + setting.repeats
    options = OptimizeOptions(
        steps=steps,
        space="w+",
        start="zero",
        lambda_identity=0.0,  # the released code, which it is compared with, has none
        loss_resolution=loss_resolution,
        preview_every=steps,
    )
    with torch.no_grad():
        aims = [Target(f"{i}", models.encode(random_picture(i))[0].cpu()) for i in range(targets)]
    w, grey = random_latents(models, setting.sources).cpu(), Image.new("RGB", (1, 1))
    sources = [Source(f"{i}", grey, grey, each, models.id) for i, each in enumerate(w)]
    times, start = [], Time.now()
    for _ in optimize_together(models, aims, sources, options):
        times.append(Time.now().since(start))
        start = Time.now()
    return Time.median(times[1:-1][-setting.repeats :])


def random_picture(seed: int) -> Tensor:
    return torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(2 + seed)) * 2 - 1


def together_rows(setting: Setting) -> Iterator[Row]:
    """The throughput of several targets learned at once, with the bundled models, against one."""
    memory.keep_memory()
    models = loading.load_model_set("mini", setting.device)
    quick = Setting(sources=setting.sources, repeats=max(setting.repeats, 5), device=setting.device)
    alone = step_time(models, quick, 0)
    for targets in (2, 4):
        ours = step_time(models, quick, 0, targets)
        each = Time(ours.wall / targets, ours.processor / targets)
        case = f"bundled models: step, {setting.sources} sources, for each of {targets} targets"
        shown, one = each.shown(setting.device), alone.shown(setting.device)
        yield Row(case, setting.device, shown, f"alone {one}", alone.ratio(each, setting.clock), "")


def rival_time(setting: Setting) -> Time | None:
    """Median seconds of the rival's step; None where it does not fit the memory."""
    device = torch.device(setting.device)
    models = random_models(setting.size, device, half=False, tiny=setting.tiny)
    free = memory.free_memory(device)
    if free is not None and free < rival.step_memory(setting.sources, models.generator):
        return None
    visual, rng = models.clip.model.visual, torch.Generator().manual_seed(3)
    target = torch.randn(1, visual.output_dim, generator=rng).to(device)
    z = random_latents(models, setting.sources)
    # In training mode open_clip's towers are the same, but for ways that libraries take without
    # gradients.
    work = rival.Rival(models.generator, visual, models.clip.size, z, target)
    return median_time(work.step, setting.repeats, device)


def step_rows(setting: Setting) -> Iterator[Row]:
    """The optimiser's step: exact, then with the loss at a smaller picture, and half precision
    where the processor has it.
    """
    device, cuda = setting.device, setting.device == "cuda"
    theirs = rival_time(setting)
    memory.keep_memory()  # as a Studio does; the released script does not
    pays = ops.bfloat16_pays(device)
    exact, fast = (">= 3x", ">= 10x") if cuda else (">= 4x", ">= 20x")
    early = f"loss at {setting.loss_resolution}, {'bf16' if pays else 'fp32'}"
    for label, half, side, goal in (
        ("exact, fp32", False, 0, exact),
        (early, pays, setting.loss_resolution, fast),
    ):
        if cuda:
            torch.cuda.reset_peak_memory_stats()
        models = random_models(setting.size, torch.device(device), half, setting.tiny)
        models.use_fast_layout()
        ours = step_time(models, setting, side)
        if theirs is None:
            said, ratio = f"{NOT_MEASURED}: does not fit the memory", NOT_MEASURED
        else:
            said, ratio = theirs.shown(device), theirs.ratio(ours, setting.clock)
        plural = "s" * (setting.sources > 1)
        case = f"step, {setting.size}, {setting.sources} source{plural}, {label}"
        yield Row(case, device, ours.shown(device), said, ratio, goal)
        if cuda:
            peak = torch.cuda.max_memory_allocated() / 2**30
            yield Row(f"memory of that step ({label})", "cuda", f"{peak:.1f} GB", "", "", "<= 8 GB")


# ---- rendering


def render_rows(setting: Setting) -> Iterator[Row]:
    """One picture at a time; on a GPU also the share of that time that moving its feature maps
    takes at the speed of copying.
    """
    device = torch.device(setting.device)
    cuda = device.type == "cuda"
    memory.keep_memory()
    models = random_models(setting.size, device, half=cuda, tiny=setting.tiny)
    models.use_fast_layout()
    w = random_latents(models, 1)
    with torch.no_grad():
        repeats = max(setting.repeats, 10 if cuda else 1)
        taken = median_time(lambda: models.images(w), repeats, device)
    said = f"{1 / taken.wall:.3g} pictures/s"
    if cuda:
        share = bytes_moved(models) / bytes_copied_per_second(device) / taken.wall
        said += f", {share:.0%} of the bandwidth limit"
    else:
        said += f" (processor {taken.processor:.3g} s each)"
    goal = ">= 60 pictures/s" if cuda else ""
    yield Row(f"render, {setting.size}, batch 1", setting.device, said, "", "", goal)


def bytes_moved(models: ModelSet) -> int:
    """What one picture's feature maps cannot avoid: two layers at each resolution, each read and
    written by its convolution, the first one's result also by the blur, and both by the activation;
    and the weights once.
    """
    maps = sum(width * side * side for side, width in models.generator.config.channels.items())
    size = 2 if models.half else 4
    return maps * 10 * size + sum(p.numel() for p in models.generator.parameters()) * size


def bytes_copied_per_second(device: torch.device) -> float:
    """Read and written, while a large tensor is copied."""
    x = torch.empty(1 << 28, dtype=torch.uint8, device=device)
    y = torch.empty_like(x)
    return 2 * x.numel() / median_time(lambda: y.copy_(x), 10, device).wall


# ---- the bundled models


def bundled_rows(setting: Setting) -> Iterator[Row]:
    """The model set that comes with the project, as it is used."""
    memory.keep_memory()
    models, device = loading.load_model_set("mini", setting.device), setting.device
    quick = Setting(sources=4, repeats=max(setting.repeats, 5), device=device)
    name = f"bundled model ({'bf16' if models.half else 'fp32'})"
    sides = {"full loss": 0}
    early = next(side for side in models.generator.config.resolutions if side >= models.clip.size)
    if early < models.size:
        sides[f"loss at {early}"] = early
    for label, side in sides.items():
        shown = step_time(models, quick, side).shown(device)
        yield Row(f"{name}: step, 4 sources, {label}", device, shown, "", "", "<= 0.12 s")
    w = random_latents(models, 1)
    with torch.no_grad():
        one = median_time(lambda: models.images(w), quick.repeats, models.device)
    shown = f"{one.wall * 1000:.3g} ms"
    yield Row(f"{name}: render of one", device, shown, "", "", "<= 15 ms")


GPU_CASES = (
    ("step, 1024, 4 sources, exact, fp32", ">= 3x"),
    ("step, 1024, 4 sources, loss at 256, bf16, graph", ">= 10x; 300 steps in 5 s on an H200"),
    ("memory of that step", "<= 8 GB"),
    ("render, 1024, batch 1", ">= 60 pictures/s"),
)


def unmeasured_rows() -> Iterator[Row]:
    """The cases of a GPU, where there is none."""
    for case, target in GPU_CASES:
        yield Row(case, "cuda", NOT_MEASURED, NOT_MEASURED, "", target)
