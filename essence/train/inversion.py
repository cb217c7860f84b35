"""What an inverter does with pictures it never saw: figures and sheets (`python -m essence.train.inversion --data DIR ...`)."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from ..checkpoints import load_generator, load_inverter, load_latents
from ..images import grid, resample, to_pil
from ..methods.refine import RefineOptions, refine
from ..model_set import ModelSet
from ..models.identity import face_descriptor
from ..types import Source
from .common import PHOTOGRAPHS, held_out, list_pictures, load_pictures, parse_options, to_float

SAME_PERSON = 0.6  # dlib's line between the same and another person


@dataclass(frozen=True)
class ReportOptions:
    data: str
    generator: str = "weights/mini/generator.safetensors"
    latents: str = "weights/mini/latents.safetensors"
    inverter: str = "weights/mini/inverter.safetensors"
    steps: tuple[int, int, int] = (25, 50, 100)  # of refinement
    out: str = "runs/inversion"  # sheets
    threads: int = 2


def working_set(generator: torch.nn.Module, inverter: torch.nn.Module, latents) -> ModelSet:
    """A model set without image-text encoder, which inversion does not need."""
    return ModelSet("training", "training", generator, inverter, None, face_descriptor(), latents, half=True)


@torch.no_grad()
def invert(models: ModelSet, pictures: Tensor) -> list[Source]:
    """Pictures [N, 3, H, W] in [-1, 1] through the encoder alone."""
    sources = []
    for part in pictures.split(16):
        w = models.invert(resample(part, models.inverter.input_size, "antialias"))
        images = models.images(w)
        for crop, image, code in zip(part, images, w, strict=True):
            sources.append(Source("", to_pil(crop), to_pil(image), code.cpu(), models.id))
    return sources


def refined(models: ModelSet, source: Source, marks: Sequence[int]) -> list[Source]:
    """The source after each of the given numbers of refinement steps, from one run of the longest."""
    options = RefineOptions(steps=max(marks), preview_every=max(marks))
    return [step.result for step in refine(models, source, options) if step.index in marks]


@torch.no_grad()
def distances(models: ModelSet, pictures: Tensor, sources: Sequence[Source]) -> tuple[Tensor, Tensor]:
    """Mean absolute error in [0, 1] and descriptor distance, [N] each."""
    images = torch.cat([models.images(source.w[None]) for source in sources]).clamp(-1, 1)
    shown = resample(pictures, models.size, "antialias")
    error = (images - shown).abs().mean(dim=(1, 2, 3)) / 2
    return error, (models.describe(images) - models.describe(shown)).norm(dim=1)


@torch.no_grad()
def between_people(models: ModelSet, pictures: Tensor) -> float:
    """Mean descriptor distance between different pictures."""
    return torch.pdist(models.describe(pictures)).mean().item()


def sheet(pictures: Tensor, *rows: Sequence[Source]) -> Image.Image:
    """Crops above, then one row for each stage."""
    return grid([[to_pil(picture) for picture in pictures], *[[source.inversion for source in row] for row in rows]])


def measure(models: ModelSet, pictures: Tensor, marks: Sequence[int]) -> tuple[dict, list[list[Source]]]:
    """Figures of the encoder alone and after each number of refinement steps, and the sources behind them."""
    stages = [invert(models, pictures)]
    start = time.monotonic()
    later = [refined(models, source, marks) for source in tqdm(stages[0], desc="refine")]
    seconds = (time.monotonic() - start) / len(pictures)
    stages += [list(stage) for stage in zip(*later, strict=True)]
    figures = {"pictures": len(pictures), "between people": round(between_people(models, pictures), 4), "seconds each": round(seconds, 2)}
    for steps, stage in zip([0, *sorted(marks)], stages, strict=True):
        error, distance = distances(models, pictures, stage)
        figures[f"{steps} steps"] = {
            "mean abs error": round(error.mean().item(), 4),
            "descriptor distance": round(distance.mean().item(), 4),
            "worst": round(distance.max().item(), 4),
            "same person": round((distance < SAME_PERSON).float().mean().item(), 3),
        }
    return figures, stages


def main(argv: Sequence[str] | None = None) -> None:
    options = parse_options(ReportOptions, argv, __doc__)
    torch.set_num_threads(options.threads)
    models = working_set(load_generator(options.generator), load_inverter(options.inverter), load_latents(options.latents))
    paths = list_pictures(options.data)
    held = held_out([path.name for path in paths])
    out = Path(options.out)
    out.mkdir(parents=True, exist_ok=True)
    kinds = {"photographs": True, "others": False}
    for kind, photographs in kinds.items():
        chosen = [path for path in paths if path.name in held and path.name.startswith(PHOTOGRAPHS) == photographs]
        if not chosen:
            continue
        pictures = to_float(load_pictures(chosen, models.size))
        figures, stages = measure(models, pictures, sorted(options.steps))
        print(json.dumps({kind: figures}), flush=True)
        for first in range(0, min(len(chosen), 40), 10):
            part = slice(first, first + 10)
            sheet(pictures[part], *[stage[part] for stage in stages]).save(out / f"{kind}-{first:02d}.png")


if __name__ == "__main__":
    main()
