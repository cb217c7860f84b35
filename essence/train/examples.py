"""The examples in assets/: sources and targets from the bundled generator, targets drawn by code, a
few learned essences.

`python -m essence.train.examples` makes them anew from the models in weights/.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from PIL import Image

from ..pictures.tensors import resize
from ..runtime.folders import ASSETS
from ..studio import Studio, last
from .data.drawing.draw import NAMES, draw_target

SIDE = 256
# Chosen by eye from the first hundred seeds: different people, clean edges.
SOURCES = {
    "ada": 17,
    "ben": 44,
    "cora": 9,
    "dan": 35,
    "eve": 60,
    "finn": 63,
    "gwen": 53,
    "iris": 42,
}
TARGETS = {"auburn": 10, "elder": 83, "grin": 62, "night": 98, "porcelain": 39, "stern": 12}
# The small image-text encoder misreads the clown: see docs/LOG.md.
DRAWN = tuple(name for name in NAMES if name != "clown")
# Targets are drawn without truncation: they may be stronger characters than sources.
TARGET_SEED = 5
ESSENCES = ("redhead", "greybeard", "auburn")


def make_examples(studio: Studio, out: Path = ASSETS) -> None:
    """Write out/sources, out/targets and out/essences; each essence is learned on the first four
    sources with the default options.
    """

    def save(picture: Image.Image, name: str) -> None:
        resize(picture, SIDE).save(out / name, quality=92)

    for kind in ("sources", "targets", "essences"):
        (out / kind).mkdir(parents=True, exist_ok=True)
    for name, seed in SOURCES.items():
        save(studio.random_source(seed).inversion, f"sources/{name}.jpg")
    models = studio.models
    rng = torch.Generator().manual_seed(TARGET_SEED)
    w = models.latents.sample(max(TARGETS.values()) + 1, rng)
    for name, index in TARGETS.items():
        picture = models.render(models.generator.repeat(w[index : index + 1]))[0]
        save(Image.fromarray(picture), f"targets/{name}.jpg")
    for name in DRAWN:
        save(draw_target(name, SIDE), f"targets/drawn-{name}.jpg")
    sources = studio.sources(sorted((out / "sources").glob("*.jpg"))[:4], aligned=True)
    for name in ESSENCES:
        path = next((out / "targets").glob(f"*{name}.jpg"))
        target = studio.target(path, name, aligned=True)
        essence = last(studio.extract(target, sources)).result
        essence.save(out / "essences" / f"{name}.essence.safetensors")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=ASSETS)
    make_examples(Studio("mini", "cpu"), parser.parse_args().out)


if __name__ == "__main__":
    main()
