"""`python -m benchmarks.precision`: what half precision changes, part by part, against float32 with
the same weights; bfloat16, but for pictures that are shown.

Pictures are compared in levels of 1/255, embeddings and latents by cosine, a learned direction by
its cosine and by the pictures that float32 makes of it.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from essence import PRESETS, Studio, Target
from essence.library import loading
from essence.models.model_set import ModelSet
from essence.studio import last

from .__main__ import machine_description
from .cases import random_latents, random_picture
from .load import table_row
from .networks import random_models

LEAST_COSINE, MOST_LEVELS = 0.999, 2.0  # what half precision may cost
SOURCES = 4  # of the learning


@dataclass(frozen=True)
class Pair:
    """The same models twice."""

    name: str
    exact: ModelSet
    half: ModelSet

    @classmethod
    def bundled(cls, device: torch.device) -> Pair:
        sets = [loading.load_model_set("mini", device, half) for half in (False, True)]
        return cls("bundled", *sets)

    @classmethod
    def random(cls, size: int, device: torch.device, tiny: bool) -> Pair:
        sets = [random_models(size, device, half, tiny) for half in (False, True)]
        for models in sets:
            models.use_fast_layout()
        return cls(f"random, {size}", *sets)


# ---- parts


@torch.no_grad()
def picture_rows(pair: Pair, count: int) -> Iterator[list[str]]:
    w = random_latents(pair.exact, count)
    exact = pair.exact.images(w)
    said, worst = levels(exact, pair.half.shown(w))
    yield [f"{pair.name}: picture that is shown", said, verdict(worst <= MOST_LEVELS)]
    yield [f"{pair.name}: picture in a loss", levels(exact, pair.half.images(w))[0], ""]


@torch.no_grad()
def embedding_rows(pair: Pair, count: int) -> Iterator[list[str]]:
    """CLIP's alone, of the same pictures; then of the pictures that each precision makes."""
    w = random_latents(pair.exact, count)
    pictures = pair.exact.images(w)
    embeddings = pair.exact.encode(pictures)
    for label, shown in (("CLIP", pictures), ("render and CLIP", pair.half.images(w))):
        said, least = cosines(embeddings, pair.half.encode(shown))
        yield [f"{pair.name}: {label}", said, verdict(least >= LEAST_COSINE)]


@torch.no_grad()
def encoder_rows(pair: Pair, count: int) -> Iterator[list[str]]:
    """w+ of the encoder, from the mean latent, and what float32 renders from it."""
    pictures = pair.exact.images(random_latents(pair.exact, count))
    pictures = F.interpolate(pictures, size=pair.exact.inverter.input_size, mode="bilinear")
    exact, half = pair.exact.invert(pictures), pair.half.invert(pictures)
    mean = pair.exact.generator.latent_avg
    said, least = cosines((exact - mean).flatten(1), (half - mean).flatten(1))
    yield [f"{pair.name}: encoder", said, verdict(least >= LEAST_COSINE)]
    said, worst = levels(pair.exact.images(exact), pair.exact.images(half))
    yield [f"{pair.name}: encoder, its pictures", said, verdict(worst <= MOST_LEVELS)]


def direction_rows(pair: Pair, steps: int) -> Iterator[list[str]]:
    """The essence of a picture, learned in either precision; in float32 a second time from latents
    that differ by a millionth, since any two runs drift apart.
    """
    options = dataclasses.replace(PRESETS["essence"], steps=steps, preview_every=steps)
    w = random_latents(pair.exact, SOURCES)
    exact = direction(pair.exact, w, options)
    runs = {
        "float32 again, latents off by 1e-6": (pair.exact, w * (1 + 1e-6)),
        "half": (pair.half, w),
    }
    for label, (models, latents) in runs.items():
        found = direction(models, latents, options)
        with torch.no_grad():
            edited = [pair.exact.images(w + b.to(w)) for b in (exact, found)]
            embeddings = [pair.exact.encode(pictures) for pictures in edited]
        said = f"{cosines(exact.flatten()[None], found.flatten()[None])[0]}; edited pictures "
        said += f"{levels(*edited)[0]}, their embeddings {cosines(*embeddings)[0]}"
        cosine = F.cosine_similarity(exact.flatten(), found.flatten(), dim=0)
        yield [
            f"{pair.name}: direction after {steps} steps, {label}",
            said,
            verdict(float(cosine) >= LEAST_COSINE),
        ]


def direction(models: ModelSet, w: Tensor, options: object) -> Tensor:
    """b [L, D], on the CPU."""
    studio = Studio.of(models)
    with torch.no_grad():
        aim = Target("target", models.encode(random_picture(0))[0].float().cpu())
    sources = [studio.from_latents(each.cpu(), f"{i}") for i, each in enumerate(w)]
    return last(studio.extract(aim, sources, options)).result.delta.float().cpu()


# ---- comparisons


def levels(exact: Tensor, other: Tensor) -> tuple[str, float]:
    """Of pictures [B, 3, H, W] in [-1, 1], and the 99.9th percentile alone."""
    apart = (exact.clamp(-1, 1) - other.clamp(-1, 1)).abs().flatten().float() * 127.5
    most = apart.kthvalue(max(1, round(0.999 * len(apart)))).values.item()
    return f"{apart.mean():.3f}, 99.9 % {most:.2f}, most {apart.max():.2f} levels", most


def cosines(exact: Tensor, other: Tensor) -> tuple[str, float]:
    """Of rows [B, D], and the smallest alone."""
    found = F.cosine_similarity(exact.double().cpu(), other.double().cpu(), dim=-1)
    return f"cosine mean {found.mean():.6f}, least {found.min():.6f}", float(found.min())


def verdict(enough: bool) -> str:
    return "enough" if enough else "TOO LITTLE"


def rows(
    device: torch.device, size: int, steps: int, pictures: int, tiny: bool
) -> Iterator[list[str]]:
    random = Pair.random(size, device, tiny)
    yield from picture_rows(random, min(pictures, 4))
    yield from embedding_rows(random, min(pictures, 4))
    bundled = Pair.bundled(device)
    for part in (picture_rows, embedding_rows, encoder_rows):
        yield from part(bundled, pictures)
    yield from direction_rows(bundled, steps)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser("python -m benchmarks.precision", description=__doc__)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    parser.add_argument("--device", default=device, help="default %(default)s")
    parser.add_argument("--size", type=int, default=1024, help="default %(default)s")
    parser.add_argument("--steps", type=int, default=60, help="default %(default)s")
    parser.add_argument("--pictures", type=int, default=16, help="default %(default)s")
    parser.add_argument("--tiny", action="store_true", help="a random generator of few channels")
    a = parser.parse_args(arguments)
    print(machine_description(a.device), flush=True)
    print(table_row(["part", "half precision against float32", "verdict"]))
    print(table_row(["---"] * 3))
    for row in rows(torch.device(a.device), a.size, a.steps, a.pictures, a.tiny):
        print(table_row(row), flush=True)


if __name__ == "__main__":
    main()
