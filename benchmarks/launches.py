"""`python -m benchmarks.launches`: what a GPU has to launch, move and wait for in one step or one
picture, counted on any machine. It says nothing of times.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from unittest import mock

import torch
from PIL import Image

from essence import OptimizeOptions, Source, Target
from essence.library import loading
from essence.methods.optimize import optimize
from essence.methods.previews import Previews
from essence.methods.refine import refine
from essence.models.e4e import Encoder4Editing, EncoderConfig, Inverter
from essence.models.identity import FaceDescriptor
from essence.models.latents import LatentAxes
from essence.models.model_set import ModelSet
from essence.runtime import cuda_graphs

from .fake_gpu import Count, Counting, fake_gpu
from .networks import random_models

STEPS = 6  # of which the last is counted: no preview, nothing better than before


@dataclass(frozen=True)
class Launches:
    """Of one step or one call, once everything has been recorded."""

    inside: Count  # the graphs
    outside: Count  # replays of graphs among its launches


class Ledger:
    """Stands in for `cuda_graphs.CapturedGraph` and keeps the account of what is in the graphs
    apart. `refusing`: raises Refused for what cannot be recorded.
    """

    def __init__(self, counting: Counting, refusing: bool = False):
        self.counting, self.refusing, self.inside = counting, refusing, Count()

    def graph(self, function: Callable, *_: object) -> Callable:
        function()  # the warm-up: what is computed once is computed now

        def replay():  # noqa: ANN202
            outside, self.counting.count = self.counting.count, self.inside
            self.counting.refusing = self.refusing
            try:
                return function()
            finally:
                self.counting.count, self.counting.refusing = outside, False
                outside.launches["replay of a graph"] += 1

        return replay

    def of(self, work: Callable[[], object]) -> Launches:
        """What `work` does, with its graphs."""
        self.inside, self.counting.count = Count(), Count()
        work()
        return Launches(self.inside, self.counting.count)


def patched(ledger: Ledger):  # noqa: ANN201
    return mock.patch.object(cuda_graphs, "CapturedGraph", ledger.graph)


def random_sources(models: ModelSet, count: int) -> list[Source]:
    grey = Image.new("RGB", (models.size, models.size))
    w = torch.zeros(models.latent_shape)
    return [Source(f"{i}", grey, grey, w, models.id) for i in range(count)]


def learning(ledger: Ledger, models: ModelSet, sources: int, loss_resolution: int) -> Launches:
    """A step of the optimiser, without the previews, which are drawn beside it."""
    options = OptimizeOptions(
        steps=100, lambda_identity=0.0, loss_resolution=loss_resolution, preview_every=100
    )
    target = Target("none", torch.zeros(models.clip.model.visual.output_dim))
    with patched(ledger), mock.patch.object(Previews, "_begin"):
        steps = optimize(models, target, random_sources(models, sources), options)
        for _ in range(STEPS):
            found = ledger.of(lambda: next(steps))
        steps.close()
    return found


def refining(ledger: Ledger, models: ModelSet, sources: int) -> Launches:
    """A step of refinement."""
    with patched(ledger):
        steps = refine(models, random_sources(models, sources))
        for _ in range(STEPS - 1):
            found = ledger.of(lambda: next(steps))
        steps.close()
    return found


def rendering(ledger: Ledger, models: ModelSet, count: int = 1) -> Launches:
    """Pictures from latents, as numbers of 8 bits on the processor."""
    w = torch.zeros(count, *models.latent_shape, device=models.device)
    with patched(ledger):
        models.render(w), models.render(w)  # recorded the second time
        return ledger.of(lambda: models.render(w))


def inverting(ledger: Ledger, models: ModelSet) -> Launches:
    """The encoder's latents of one picture."""
    side = models.inverter.input_size
    picture = torch.zeros(1, 3, side, side, device=models.device)
    with patched(ledger):
        models.invert(picture), models.invert(picture)
        return ledger.of(lambda: models.invert(picture))


# ---- the table


def public_models(size: int, half: bool, tiny: bool = False) -> ModelSet:
    """A model set of the public sizes, with an encoder and the face network."""
    device = torch.device("cuda")
    models = random_models(size, device, half, tiny)
    layers, width = models.latent_shape
    config = EncoderConfig(layers=layers, style_dim=width)
    if tiny:
        config = EncoderConfig((4, 6, 8, 10), (1, 1, 1, 1), 32, layers, width, 8)
    encoder = Encoder4Editing(config).eval().requires_grad_(False)
    inverter = Inverter(encoder, models.generator.latent_avg.cpu()).to(device)
    face = FaceDescriptor().requires_grad_(False).to(device)
    axes = LatentAxes(torch.zeros(width), torch.eye(width)).to(device)
    models = dataclasses.replace(models, inverter=inverter, identity=face, latents=axes)
    models.use_fast_layout()
    return models


def copied(models: ModelSet) -> ModelSet:
    """With networks of its own: what is moved to a fake GPU does not come back."""
    parts = ("generator", "inverter", "clip", "identity")
    return dataclasses.replace(models, **{p: copy.deepcopy(getattr(models, p)) for p in parts})


def moved_to_gpu(models: ModelSet, half: bool) -> ModelSet:
    """`models`, whose networks are moved."""
    for network in (models.generator, models.inverter, models.clip, models.identity):
        network.to("cuda")
    axes = models.latents and models.latents.to("cuda")
    models = dataclasses.replace(models, latents=axes, half=half)
    models.use_fast_layout()
    return models


def cases(size: int, sources: int, tiny: bool = False) -> Iterator[tuple[str, Launches]]:
    loaded = copied(loading.load_model_set("mini", "cpu"))
    with fake_gpu() as counting:
        ledger, early = Ledger(counting), min(256, size // 2)
        half, full = (public_models(size, half, tiny) for half in (True, False))
        yield f"step, {size}, {sources} sources, exact, fp32", learning(ledger, full, sources, 0)
        yield "the same in half precision", learning(ledger, half, sources, 0)
        yield f"the same, loss at {early}", learning(ledger, half, sources, early)
        yield f"refinement, {size}, one picture, half", refining(ledger, half, 1)
        yield f"render, {size}, batch 1, half", rendering(ledger, half)
        yield "encoder, one picture, half", inverting(ledger, half)
        bundled = moved_to_gpu(loaded, half=True)
        yield "bundled models: step, 4 sources", learning(ledger, bundled, 4, 0)
        yield "bundled models: render of one", rendering(ledger, bundled)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser("python -m benchmarks.launches", description=__doc__)
    parser.add_argument("--size", type=int, default=1024, help="default %(default)s")
    parser.add_argument("--sources", type=int, default=4, help="default %(default)s")
    parser.add_argument("--tiny", action="store_true", help="networks of a few channels")
    parser.add_argument("--names", action="store_true", help="the kernels by name beside")
    a = parser.parse_args(arguments)
    print(
        "| case | launches outside graphs | kernels in them | barred from them | copies, waits ",
        end="",
    )
    print("| moved |")
    print("|---|---|---|---|---|---|")
    for case, found in cases(a.size, a.sources, a.tiny):
        inside, outside = found.inside, found.outside
        moved = (inside.bytes + outside.bytes) / 1e9
        waits = f"{outside.crossings.total()}, {outside.waits.total()}"
        print(
            f"| {case} | {outside.kernels} | {inside.kernels} | {inside.barred} | {waits} "
            f"| {moved:.3g} GB |",
            flush=True,
        )
        if a.names:
            print(outside.launches.most_common(), outside.crossings, outside.waits)
            print(inside.launches.most_common(), inside.crossings)


if __name__ == "__main__":
    main()
