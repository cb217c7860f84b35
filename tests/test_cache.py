"""What the models remember: inversions and embeddings by content, a bounded number of them, and
never a picture.
"""

from __future__ import annotations

import gc
import threading
import weakref

import numpy as np
import pytest
import torch
from PIL import Image

from essence import OptimizeOptions, RefineOptions
from essence.models import model_set
from essence.studio import last

from . import fakes

PICTURE = Image.effect_mandelbrot((64, 64), (-2, -1.5, 1, 1.5), 40).convert("RGB")
OPTIONS = RefineOptions(steps=4)


@pytest.fixture
def studio():
    return fakes.studio()


@pytest.fixture
def inverted(studio, monkeypatch):
    """How many pictures went through the inverter."""
    counted, forward = [], type(studio.models.inverter).forward

    def count(inverter, images, *render):
        counted.extend(images)
        return forward(inverter, images, *render)

    monkeypatch.setattr(type(studio.models.inverter), "forward", count)
    return counted


def test_the_same_crop_is_inverted_once(studio, inverted):
    first = last(fakes.invert(studio, PICTURE, "first", OPTIONS)).result
    (step,) = fakes.invert(studio, PICTURE.copy(), "second", RefineOptions(steps=4))
    assert len(inverted) == 1
    assert (step.index, step.total, step.fraction) == (1, 1, 1.0) and step.losses["total"] > 0
    assert step.preview.shape == (1, 32, 32, 3) and step.preview.dtype == np.uint8
    assert torch.equal(step.result.w, first.w) and step.result.name == "second"
    assert (
        np.abs(np.asarray(step.result.inversion, int) - np.asarray(first.inversion, int)).max() <= 1
    )


def test_another_pixel_option_or_generator_is_another_inversion(studio, inverted):
    other = PICTURE.copy()
    other.putpixel((3, 3), (1, 2, 3))
    for number, (crop, options) in enumerate(
        [(PICTURE, OPTIONS), (other, OPTIONS), (PICTURE, RefineOptions(steps=5))], 1
    ):
        assert (
            len(list(fakes.invert(studio, crop, "a", options))) == options.steps + 1
            and len(inverted) == number
        )
    assert (
        len(list(fakes.invert(fakes.studio(), PICTURE, "a", OPTIONS))) == 5
    )  # other models know nothing of it


def test_an_inversion_that_was_broken_off_is_not_remembered(studio):
    course = fakes.invert(studio, PICTURE, "a", OPTIONS)
    for _ in range(5):
        next(course)
    course.close()
    assert len(list(fakes.invert(studio, PICTURE, "a", OPTIONS))) == 5


def test_the_oldest_answers_go_first(monkeypatch):
    monkeypatch.setattr(model_set, "CACHE_SIZE", 3)
    models = fakes.studio().models
    for number in range(3):
        models.store((number,), torch.tensor(number))
    assert models.lookup((0,)) == 0  # asked for just now: 1 is the oldest
    models.store((3,), torch.tensor(3))
    assert [models.lookup((number,)) is None for number in range(4)] == [False, True, False, False]


def test_many_threads_may_remember_at_once(monkeypatch):
    monkeypatch.setattr(model_set, "CACHE_SIZE", 2)
    models, wrong = fakes.studio().models, []

    def work(start):
        for number in range(start, start + 2000):
            if models.cached((number % 7,), lambda n=number: torch.tensor(n % 7)) != number % 7:
                wrong.append(number)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong and len(models._cache) == 2


def test_no_picture_stays(studio):
    """The page promises that pictures leave with their session: the models outlive it, and keep
    hashes and latents alone.
    """
    crop, target = PICTURE.resize((48, 48)), PICTURE.rotate(90)
    source = last(fakes.invert(studio, crop, "a", OPTIONS)).result
    for weight in (0.0, 0.5):  # the second describes faces
        options = OptimizeOptions(steps=2, lambda_identity=weight)
        last(studio.extract(studio.embed_target(target), [source], options))
    kept = [weakref.ref(picture) for picture in (crop, target, source.inversion)]
    del crop, target, source
    gc.collect()
    assert not any(picture() for picture in kept)
    assert len(studio.models._cache) == 2
    for key, value in studio.models._cache.items():
        assert tuple(value.shape) in (studio.models.latent_shape, (1, 8))  # latents; an embedding
        assert all(len(part) == 32 for part in key if isinstance(part, bytes))  # a sha256
