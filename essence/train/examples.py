"""The examples in assets/: sources and targets from the bundled generator, targets drawn by code, a
few learned essences.

`python -m essence.train.examples` makes them anew from the models in weights/.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from PIL import Image

from ..pictures.loading import load_image
from ..pictures.tensors import resize
from ..studio import ASSETS, Studio, last
from .data.drawing.draw import NAMES, draw

SIDE = 256
# Chosen by eye from the first hundred seeds: different people, clean edges.
SOURCES = {"ada": 8, "ben": 9, "cora": 43, "dan": 35, "eve": 64, "finn": 28, "gwen": 89, "iris": 29}
TARGETS = {"auburn": 46, "elder": 69, "grin": 78, "night": 82, "porcelain": 54, "stern": 28}
DRAWN = tuple(
    name for name in NAMES if name != "clown"
)  # the small image-text encoder misreads the clown: see docs/LOG.md
TARGET_SEED = (
    5  # targets are drawn without truncation: they may be stronger characters than sources
)
ESSENCES = ("redhead", "greybeard", "auburn")


def make(studio: Studio, out: Path = ASSETS) -> None:
    """Write out/sources, out/targets and out/essences."""
    for kind in ("sources", "targets", "essences"):
        (out / kind).mkdir(parents=True, exist_ok=True)
    for name, seed in SOURCES.items():
        _save(studio.random_source(seed).inversion, out / "sources" / f"{name}.jpg")
    models = studio.models
    w = models.latents.sample(max(TARGETS.values()) + 1, torch.Generator().manual_seed(TARGET_SEED))
    for name, index in TARGETS.items():
        picture = models.render(models.generator.repeat(w[index : index + 1]))[0]
        _save(Image.fromarray(picture), out / "targets" / f"{name}.jpg")
    for name in DRAWN:
        _save(draw(name, SIDE), out / "targets" / f"drawn-{name}.jpg")
    learn(studio, out)


def learn(studio: Studio, out: Path) -> None:
    """The bundled essences, each learned on the first four bundled sources with the default
    options.
    """
    sources = studio.sources(sorted((out / "sources").glob("*.jpg"))[:4], aligned=True)
    for name in ESSENCES:
        path = next((out / "targets").glob(f"*{name}.jpg"))
        target, _ = studio.crop_target(load_image(path), aligned=True)
        last(studio.extract(target, sources, name=name)).result.save(
            out / "essences" / f"{name}.essence.safetensors"
        )


def _save(picture: Image.Image, path: Path) -> None:
    resize(picture, SIDE).save(path, quality=92)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=ASSETS)
    make(Studio("mini", "cpu"), parser.parse_args().out)


if __name__ == "__main__":
    main()
