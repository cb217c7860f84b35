"""A whole model set with random weights, small enough that a test of anything takes a second."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import closing
from functools import lru_cache
from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from essence.library import checkpoints, clip_files, loading
from essence.library.components import COMPONENTS, fingerprint
from essence.methods.refine import RefineOptions
from essence.models.clip import ImageText
from essence.models.e4e import Encoder4Editing, EncoderConfig, EssenceEncoder, Inverter
from essence.models.identity import FaceDescriptor
from essence.models.judge import Judge, JudgeConfig
from essence.models.latents import LatentAxes
from essence.models.mapper import Mapper, new_mapper
from essence.models.model_set import ModelSet
from essence.models.stylegan2 import Generator, GeneratorConfig
from essence.pictures.tensors import to_pil
from essence.runtime import folders
from essence.studio import Studio
from essence.train.data.judged import JUDGED
from essence.values import Source, Step, Target

GENERATOR = GeneratorConfig(size=32, style_dim=8, n_mlp=2, channels={4: 8, 8: 8, 16: 8, 32: 4})
ENCODER = EncoderConfig(
    widths=(4, 6, 8, 10), depths=(1, 1, 1, 1), input_size=32, layers=8, style_dim=8, head_width=8
)
CLIP = {
    "embed_dim": 8,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 16, "patch_size": 8, "head_width": 8},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 8, "heads": 1, "layers": 1},
}


class TinyFace(FaceDescriptor):
    """A face network of one layer, not dlib's, which takes longer for a picture than all the other
    networks here together. Its descriptors lie as near to each other as dlib's do of such pictures.
    """

    def __init__(self) -> None:
        nn.Module.__init__(self)
        self.conv, self.fc = nn.Conv2d(3, 8, 4, 4), nn.Linear(8, 128, bias=False)
        nn.init.normal_(self.fc.weight, std=0.03)

    def features(self, images: torch.Tensor) -> list[torch.Tensor]:
        small = F.interpolate(images, size=(16, 16), mode="bilinear", antialias=True)
        first = F.leaky_relu(self.conv(small))
        return [first, *(F.avg_pool2d(first, 2) for _ in range(4))]


@lru_cache
def model_set(with_axes: bool = True) -> ModelSet:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        from open_clip.model import CLIP as OpenClip

        generator = Generator(GENERATOR).eval().requires_grad_(False)
        inverter = (
            Inverter(Encoder4Editing(ENCODER), generator.latent_avg).eval().requires_grad_(False)
        )
        clip = ImageText.from_config(CLIP, OpenClip(**CLIP).state_dict())
        spread = torch.randn(8, 8)
        axes = LatentAxes.of(torch.zeros(8), spread @ spread.T)
        extras = {"mapper": mapper(generator, clip, axes)}
        extras["essence"] = essence_encoder(generator, clip)
        face = TinyFace().eval().requires_grad_(False)
    return ModelSet(
        "fake",
        "fake-0",
        generator,
        inverter,
        clip,
        face,
        axes if with_axes else None,
        extras=extras,
    )


@torch.no_grad()
def mapper(generator: Generator, clip: ImageText, axes: LatentAxes, styles: bool = False) -> Mapper:
    """Untrained, for these two."""
    w = axes.sample(16, torch.Generator().manual_seed(0))
    made = new_mapper(
        axes,
        clip.embed_images(generator.synthesis(w)),
        width=16,
        depth=1,
        styles=generator.styles(w) if styles else [],
        generator=fingerprint(generator),
        clip=fingerprint(clip.model.visual),
    )
    return made.eval().requires_grad_(False)


def essence_encoder(generator: Generator, clip: ImageText) -> EssenceEncoder:
    """Untrained, for these two."""
    bound = (fingerprint(network) for network in (generator, clip.model.visual))
    encoder = Encoder4Editing(ENCODER)
    for head in encoder.styles:
        head.linear.weight.data *= 0.2  # essences that change a face, and do not replace it
    return EssenceEncoder(encoder, *bound).eval().requires_grad_(False)


def judge() -> Judge:
    """Untrained."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = Judge(JudgeConfig(widths=(4, 4, 6, 8), names=JUDGED))
    return made.eval().requires_grad_(False)


def studio(with_axes: bool = True, with_mapper: bool = True) -> Studio:
    """Of its own: what another one remembers it does not know."""
    models = model_set(with_axes)
    extras = models.extras if with_mapper else {}
    return Studio.of(dataclasses.replace(models, extras=extras))


def sources(models: ModelSet, w: torch.Tensor) -> list[Source]:
    """Latents [N, L, D] as sources; nobody looks at their pictures."""
    grey = Image.new("RGB", (32, 32))
    return [Source(f"{i}", grey, grey, each, models.id) for i, each in enumerate(w)]


@torch.no_grad()
def target(models: ModelSet, picture: torch.Tensor, name: str = "essence") -> Target:
    """A picture [1, 3, H, W] in [-1, 1] as a target."""
    return Target(name, models.encode(picture)[0].cpu(), to_pil(picture)[0])


def invert(
    studio: Studio,
    crop: Image.Image,
    name: str = "source",
    options: RefineOptions = RefineOptions(),  # noqa: B008 - frozen
) -> Iterator[Step]:
    """The inversion of one picture: each step's result is its source."""
    with closing(studio.invert([crop], [name], options)) as steps:
        for step in steps:
            yield dataclasses.replace(step, result=step.result[0])


# ---- on the disk


def files(folder: Path, seed: int = 0) -> Path:
    """The set's files, with a generator of their own for each seed."""
    folder.mkdir(parents=True)
    models = model_set()
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        generator = Generator(GENERATOR).eval().requires_grad_(False)
    checkpoints.save_generator(generator, folder / "generator.safetensors", half=False)
    checkpoints.save_inverter(models.inverter, folder / "inverter.safetensors", half=False)
    clip_files.save_clip(
        CLIP, models.clip.model.state_dict(), folder / "clip.safetensors", half=False
    )
    checkpoints.save_latents(torch.zeros(8), torch.eye(8), folder / "latents.safetensors", 1)
    clip = clip_files.load_clip(folder / "clip.safetensors")
    made = mapper(generator, clip, LatentAxes.of(torch.zeros(8), torch.eye(8)))
    checkpoints.save_mapper(made, folder / "mapper.safetensors", half=False)
    encoder = essence_encoder(generator, clip)
    checkpoints.save_essence_encoder(encoder, folder / "essence.safetensors", half=False)
    checkpoints.save_judge(judge(), folder / "judge.safetensors", half=False)
    return folder


def write_manifest(folder: Path, monkeypatch, sets: dict[str, str | None]) -> None:
    """A folder of weights with these sets, by name "face" or "square"; None: its files are not
    here.
    """
    tables = []
    for seed, (name, aligned) in enumerate(sets.items(), 1):
        if aligned:
            files(folder / name, seed)
        parts = "".join(
            f'{part} = {{file = "{name}/{part}.safetensors"}}\n'
            for part in COMPONENTS
            if part != "finer"
        )
        tables.append(
            f'[{name}]\ntitle = "Set {name}: for tests"\naligned = "{aligned or "face"}"\n{parts}'
        )
    (folder / "manifest.toml").write_text("\n".join(tables))
    monkeypatch.setattr(folders, "WEIGHTS", folder)
    monkeypatch.setenv("ESSENCE_CACHE", str(folder / "cache"))
    monkeypatch.setattr(loading, "default_model", lambda: next(iter(sets)))


class NoWaiting(TorchDispatchMode):
    """Refuses what a GPU waits for, and a recorded step must not contain."""

    WAITS = ("_local_scalar_dense", "nonzero", "masked_select", "lift_fresh")

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        assert not any(name in str(function) for name in self.WAITS), function
        if "index" in str(function):
            found = [x for x in args[1] if x is not None] if isinstance(args[1], list) else []
            assert not any(x.dtype == torch.bool for x in found), function
        return function(*args, **(kwargs or {}))
