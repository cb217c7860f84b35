"""The page on a Space: its environment variables, and ZeroGPU with a stand-in for `spaces` that
pickles as a fork does.
"""

from __future__ import annotations

import os
import pickle
import socket
import subprocess
import sys
from functools import wraps
from inspect import isgeneratorfunction
from types import SimpleNamespace

import pytest
import torch

from demo import spaces
from demo.panels import learning, sources, targets
from demo.session import Run, Session
from essence import PRESETS, OptimizeOptions, RefineOptions, Studio
from essence.library import loading

from . import fakes, pictures
from .test_browser import answer
from .test_demo import learn, only, run

SPACE = {
    "SPACE_ID": "somebody/essence",
    "SYSTEM": "spaces",
    "SPACE_AUTHOR_NAME": "somebody",
    "SPACE_HOST": "somebody-essence.hf.space",
}


def copied(value):
    """As if it had gone to another process; nothing of a GPU may."""
    return pickle.loads(pickle.dumps(value))


@pytest.fixture
def lent(monkeypatch):
    """The seconds that were asked for, by function."""
    asked = []

    def lend(duration):
        def decorate(function):
            def ask(*args):
                seconds = duration(*args) if callable(duration) else duration
                asked.append((function.__name__, seconds))
                return copied(args)

            @wraps(function)
            def plain(*args):
                return copied(function(*ask(*args)))

            @wraps(function)
            def stream(*args):
                for value in function(*ask(*args)):
                    yield copied(value)

            return stream if isgeneratorfunction(function) else plain

        return decorate

    monkeypatch.setitem(sys.modules, "spaces", SimpleNamespace(GPU=lend))
    monkeypatch.setattr(loading, "load_model_set", lambda *_, **__: fakes.model_set())
    monkeypatch.setenv("SPACES_ZERO_GPU", "true")
    return asked


def test_elsewhere_the_studio_is_the_plain_one(monkeypatch):
    monkeypatch.delenv("SPACES_ZERO_GPU", raising=False)
    studios = spaces.open_pool("mini")
    assert type(studios.of()) is Studio and "ffhq" in studios.sets()


def test_on_zero_gpu_the_whole_job_crosses_the_fork_as_values(lent):
    studios, session = spaces.open_pool("mini"), Session(run=Run(lent=True))
    studio = studios.of(session.run.model)
    assert list(studios.sets()) == ["fake"]  # nothing else to switch to
    run(sources.add_sources(studio, session, [pictures.SOURCES[0]], True, 2))
    assert not only(
        session.items.sources
    ).stale  # the crop that came back is a copy, and no other crop
    run(targets.add_targets(studio, session, [pictures.SOURCES[1]], True))
    frames = run(learn(studio, session, steps=3))
    assert "Learned 1 essence" in frames[-1][0] and len(session.view.cells) == 1
    at_once = ["embed_target", "instant", "blend"]
    assert [name for name, _ in lent] == ["invert", *at_once, "extract", "blend"]
    assert only(session.items.targets).essence.delta.device == torch.device("cpu")
    course = learn(studio, session, learning.AGAIN, steps=10_000)
    next(course), next(course)
    course.close()
    assert not studio.queue.busy


def test_the_loan_grows_with_the_work_and_has_an_end():
    few, many, endless = (
        spaces.learning_seconds(None, [None] * 4, OptimizeOptions(steps=n))
        for n in (10, 100, 10_000)
    )
    assert few < many < endless == spaces.LONGEST
    assert spaces.inversion_seconds([None], [""], RefineOptions(steps=0)) == spaces.SECONDS_OF_START


def test_the_app_starts_with_the_environment_of_a_space():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {
        **os.environ,
        **SPACE,
        "GRADIO_SERVER_PORT": str(port),
        "GRADIO_SERVER_NAME": "127.0.0.1",
    }
    command, streams = (
        [sys.executable, "app.py"],
        {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE},
    )
    server = subprocess.Popen(command, cwd=pictures.ROOT, env=environment, **streams)
    try:
        assert "Essence" in answer(f"http://127.0.0.1:{port}", server)
    finally:
        server.terminate()
        server.communicate(timeout=600)  # reads on, so that a full pipe holds nobody up


def test_several_starts_borrow_the_gpu_for_as_many_pictures():
    def seconds(**options) -> int:
        return spaces.learning_seconds(None, [None] * 4, OptimizeOptions(steps=100, **options))

    assert seconds() < seconds(starts=3) < spaces.LONGEST
    assert spaces.learning_seconds(None, [None] * 4, PRESETS["released"]) > 0
