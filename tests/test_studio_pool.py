"""Several model sets in one process: which there are, that few stay in memory, and that they take
turns.
"""

from __future__ import annotations

import gc
import threading
import weakref

import pytest

from essence import RefineOptions, Studio, StudioPool, UserError, studio_pool
from essence.library import loading, manifest
from essence.studio import last

from . import fakes, pictures

FACE = pictures.face(0, 64)


@pytest.fixture
def four_sets(tmp_path, monkeypatch):
    """Four small sets, and one whose files are not here."""
    fakes.write_manifest(
        tmp_path,
        monkeypatch,
        {"one": "face", "two": "face", "three": "square", "four": "face", "far": None},
    )


def test_what_there_is(four_sets):
    several = StudioPool("two")
    assert several.first == "two" and list(several.sets()) == ["two", "one", "three", "four", "far"]
    assert [name for name, entry in several.sets().items() if entry.missing_required] == ["far"]
    assert several.of() is several.of("two") is several.of("")
    with pytest.raises(UserError, match="essence fetch far"):
        several.of("far")
    with pytest.raises(UserError, match="There are: two, one, three, four, far"):
        several.of("../../etc")
    with pytest.raises(UserError, match="essence fetch far"):
        StudioPool("far")
    with pytest.raises(UserError, match="no model set 'nowhere'"):
        StudioPool("nowhere")


def test_a_path_is_one_of_the_sets_and_browsers_see_its_name_only(four_sets, tmp_path):
    path = fakes.files(tmp_path / "elsewhere" / "own", seed=9)
    several = StudioPool(str(path))
    assert several.first == "own" and list(several.sets())[:2] == ["own", "one"]
    assert (
        several.of("own").models.name == "own"
        and several.of("one").models.id != several.of().models.id
    )
    with pytest.raises(UserError):
        several.of(str(path))


def test_one_studio_alone_offers_nothing_else():
    studio = fakes.studio()
    alone = StudioPool.around(studio)
    assert list(alone.sets()) == ["fake"] and alone.of() is studio
    with pytest.raises(UserError):
        alone.of("mini")


def test_few_sets_stay_in_memory_and_the_first_always(four_sets, monkeypatch):
    monkeypatch.setattr(studio_pool, "KEPT", 1)
    several = StudioPool("one")
    held = {name: weakref.ref(several.of(name).models) for name in ("one", "two", "three", "four")}
    gc.collect()
    assert [name for name, models in held.items() if models() is not None] == ["one", "four"]
    known = several.of("two").models  # loaded again, and the same
    assert known.id == Studio("two").models.id
    gc.collect()
    assert held["four"]() is None


def test_one_ear_hears_of_all_loading(four_sets, monkeypatch):
    load, heard = loading.load_model_set, []

    def tell(name, *args, progress, **options):
        progress(name, 1, 2)
        return load(name, *args, progress=progress, **options)

    monkeypatch.setattr(loading, "load_model_set", tell)
    several = StudioPool("one", lambda *news: heard.append(news))
    for name in ("one", "two", "one"):
        assert several.of(name).models is not None and several.of(name).loading is None
    assert heard == [("one", 1, 2), ("two", 1, 2)]


def test_what_is_forgotten_while_it_works_finishes_its_work(four_sets, monkeypatch):
    monkeypatch.setattr(studio_pool, "KEPT", 1)
    several = StudioPool("one")
    course = fakes.invert(several.of("two"), FACE, "a", RefineOptions(steps=2))
    first = next(course).result
    _ = several.of("three").models
    assert several.of("two")._models is None
    assert last(course).result.model == first.model == several.of("two").models.id


def test_all_take_turns_on_the_device(four_sets):
    several = StudioPool("one")
    course = fakes.invert(several.of("one"), FACE, "a", RefineOptions(steps=1))
    other, done = several.of("two"), threading.Event()
    _ = other.models
    thread = threading.Thread(target=lambda: (other.random_source(1), done.set()))

    def hold():
        thread.start()
        assert not done.wait(0.3)

    several.of("one").queue.run(hold)
    thread.join()
    assert done.is_set() and last(course).index == 2


def test_a_source_of_other_models_is_refused(four_sets):
    several = StudioPool("one")
    source = several.of("two").random_source(1)
    with pytest.raises(UserError, match="two-.*one-"):
        several.of("one").blend([source], [], [])


def test_every_set_of_the_manifest_says_what_it_is():
    for entry in manifest.model_sets().values():
        assert entry.title and entry.licence_terms and entry.fetch_command.endswith(entry.name)
    ffhq = manifest.model_sets()["ffhq"]
    assert (
        len(ffhq.unique_files) == 2 and len(ffhq.components) == 3
    )  # the inverter lies in the generator's file
