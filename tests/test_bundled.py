"""The bundled models do the main job: these tests look at the real weights, not at fakes."""

import gc
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from essence import (
    Essence,
    NoFaceFound,
    OptimizeOptions,
    RefineOptions,
    Studio,
    bundled,
    load_image,
)
from essence.evaluate.metrics import distance_between_people, identity_distance
from essence.library import loading, manifest
from essence.pictures import align
from essence.pictures.tensors import to_tensor
from essence.runtime import folders
from essence.studio import last

QUICK = OptimizeOptions(steps=30)


@pytest.fixture(scope="module")
def studio():
    return Studio("mini", "cpu")


@pytest.fixture(scope="module")
def sources(studio):
    return [studio.random_source(seed) for seed in range(20, 24)]


@pytest.fixture(scope="module")
def unseen(studio):
    return [studio.random_source(seed) for seed in range(40, 48)]


def describe(studio, pictures):
    return studio.models.describe(
        torch.tensor(np.stack([np.asarray(p) for p in pictures])).permute(0, 3, 1, 2) / 127.5 - 1
    )


FREED = """
import gc, weakref
from essence.library import loading
models = loading.load_model_set("mini")
generator = weakref.ref(models.generator)
del models
gc.collect()
print(generator() is None)
"""


def test_the_first_models_of_a_process_can_be_freed():
    """What their loading imports must not keep hold of them: a page that goes over to others would
    have both in memory.
    """
    done = subprocess.run([sys.executable, "-c", FREED], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True"]


def test_faces_are_found_while_the_models_load(monkeypatch):
    """The same squares as afterwards; and what is wrong with a picture is said, though the models
    came to nothing.
    """
    portrait = Studio("mini", "cpu").random_source(20).inversion
    studio, loaded = Studio("mini", "cpu"), []
    found, first = align.locate, loading.load_model_set
    monkeypatch.setattr(
        loading, "load_model_set", lambda *a, **k: loaded.append("loading") or first(*a, **k)
    )
    monkeypatch.setattr(align, "locate", lambda *a, **k: loaded.append("finding") or found(*a, **k))
    squares = studio.squares([portrait, portrait])
    assert sorted(loaded) == ["finding", "finding", "loading"]
    crops = [studio.cut(portrait, square) for square in squares]
    assert [np.asarray(c).tolist() for c in crops] == [
        np.asarray(studio.crop(portrait)).tolist()
    ] * 2
    with pytest.raises(NoFaceFound):
        Studio("mini", "cpu").squares([Image.new("RGB", (300, 300))])


def test_manifest_knows_every_bundled_file_and_its_hash():
    for part in manifest.model_sets()["mini"].components.values():
        assert len(part.sha256) == 64
        part.verified_path()


def test_weights_are_small():
    assert sum(path.stat().st_size for path in (folders.WEIGHTS / "mini").iterdir()) < 60e6


def test_inversion_brings_back_the_person(studio, unseen):
    """Pictures made by the generator: refined inversions are nearer to their own original than
    people are to each other.
    """
    pictures, names = zip(*((source.inversion, source.name) for source in unseen[:4]), strict=True)
    found = last(studio.invert(pictures, names, RefineOptions(steps=12))).result
    before, after = (
        describe(studio, [s.inversion for s in group]) for group in (unseen[:4], found)
    )
    assert identity_distance(before, after).mean() < 0.5 * distance_between_people(
        describe(studio, [s.inversion for s in unseen])
    )


@pytest.mark.parametrize(
    "name", ["auburn", pytest.param("drawn-greybeard", marks=pytest.mark.slow)]
)
def test_an_essence_moves_over_and_the_person_stays(studio, sources, unseen, name):
    target = studio.target(next(p for p in bundled("targets") if p.stem == name), aligned=True)
    essence = last(studio.extract(target, sources, QUICK)).result
    before, after = studio.cosines(target, unseen, essence)
    assert after > before + 0.1
    own = [s.inversion for s in unseen]
    moved = identity_distance(
        describe(studio, own), describe(studio, studio.blend(unseen, [essence], [1.0])[0])
    )
    assert moved.mean() < distance_between_people(describe(studio, own))


def test_bundled_essences_belong_to_the_bundled_generator(studio):
    paths = bundled("essences")
    assert len(paths) >= 2
    for path in paths:
        essence = Essence.load(path)
        essence.check(studio.models.latent_shape, studio.models.id)
        assert essence.thumbnail is not None and essence.provenance["options"]["steps"] >= 50


def test_texts_and_pictures_share_a_space(studio):
    """A drawing of a smiling red-haired woman is nearer to those words than a white-bearded man's
    is, and the other way round.
    """
    pictures = [
        next(p for p in bundled("targets") if name in p.stem) for name in ("redhead", "greybeard")
    ]
    images = torch.cat([studio.models.encode(to_square(studio, path)) for path in pictures])
    texts = studio.models.clip.embed_texts(
        ["a smiling young woman with red hair", "an old man with a white beard"]
    )
    scores = torch.nn.functional.normalize(images, dim=1) @ texts.T
    assert scores[0, 0] - scores[1, 0] > 0 and scores[1, 1] - scores[0, 1] > 0


def to_square(studio, path: Path):
    return to_tensor(studio.crop(load_image(path), aligned=True))


def resident_megabytes():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096 / 1e6


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads Linux's /proc")
def test_memory_is_back_after_ten_essences(studio, sources):
    target = studio.embed_target(sources[0].crop)
    short = OptimizeOptions(steps=3)
    for _ in range(3):  # what the tests before this one left goes now, not while it counts
        last(studio.extract(target, sources, short))
    gc.collect()
    before = resident_megabytes()
    for _ in range(10):
        last(studio.extract(target, sources, short))
    gc.collect()
    assert abs(resident_megabytes() - before) < 100
