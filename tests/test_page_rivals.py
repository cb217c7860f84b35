"""Several methods beside each other on the page."""

from __future__ import annotations

import re

import pytest

from demo.panels import rivals
from demo.session import Session

from . import fakes
from .test_demo import give_essences, session  # noqa: F401 - a fixture


@pytest.fixture(scope="module")
def studio():
    return fakes.studio()


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(rivals, "STEPS", 2)


def compare(studio, session):  # noqa: F811
    source, target = (next(iter(x)) for x in (session.items.sources, session.items.targets))
    return list(rivals.compare_methods(studio, session, source, target))


def test_every_method_is_shown_with_its_figures(studio, session, quick):  # noqa: F811
    frames = compare(studio, session)
    titles = re.findall(r'<img src="[^"]+" alt="([^"]+)"\s+style', frames[-1])
    assert titles == ["unedited", "ours", "encode", "map", "StyleGAN blend", "CLIP blend"]
    assert len(re.findall(r"identity \d\.\d\d", frames[-1])) == 6
    assert frames[-1].count("likeness ") == 6 and "identity 0.00" in frames[-1]
    # What a target shows at once is not ours: that is learned.
    assert any("ours: step 1 of 2" in frame for frame in frames)
    assert any("CLIP blend: step 1 of 2" in frame for frame in frames)
    assert not any(item.learned for item in session.items.targets.values())


def test_an_essence_that_is_there_is_not_learned_again(studio, session, quick):  # noqa: F811
    give_essences(studio, session)
    assert not any("ours: step" in frame for frame in compare(studio, session))


def test_choices_follow_what_there_is(studio, session):  # noqa: F811
    ids = [list(x) for x in (session.items.sources, session.items.targets)]
    source, target = rivals.offer(studio, session, None, "gone")
    assert [id for _, id in source["choices"]] == ids[0] and source["value"] == ids[0][0]
    assert target["value"] == ids[1][0]
    assert rivals.offer(studio, session, ids[0][1], None)[0]["value"] == ids[0][1]
    (words,) = list(rivals.compare_methods(studio, Session(), None, None))
    assert "Add a source and a target first" in words
