"""The load measurement runs, counts what happens and says it in a table."""

from __future__ import annotations

import os

import pytest

from benchmarks import load
from benchmarks.visitor import Gone, QueueFull, Refused, Visitor, visiting
from demo import LAUNCH, build

from . import fakes


@pytest.fixture(scope="module")
def app():
    app = build(fakes.studio())
    app.launch(prevent_thread_lock=True, quiet=True, **LAUNCH)
    yield app
    app.close()


@pytest.fixture
def address(app):
    return app.local_url


class UntilSeen(load.Log):
    """Goes on, on a busy machine, until a visit has learned and moved its sliders."""

    @property
    def over(self) -> bool:
        seen = self.calls["learn click"] >= 1 and self.calls["slider moved"] >= 4
        return super().over and seen and self.visits >= 2


class UntilRefusedTwice(load.Log):
    @property
    def over(self) -> bool:
        return super().over and self.full > 1


def test_two_sessions_for_some_seconds(address, monkeypatch):
    monkeypatch.setattr(load, "REFINE", 0)
    monkeypatch.setattr(load, "Log", UntilSeen)
    log = load.measure(address, os.getpid(), 2, 8, every=1)
    assert not log.errors and log.visits >= 2
    assert len(log.memory) >= 3 and log.memory[0][1] > 50 and len(log.seconds["page"]) >= 3
    lines = list(load.table(log))
    assert '| errors but "queue full" | 0 |' in lines and all(
        line.count("|") == 3 for line in lines
    )


def test_what_goes_wrong_is_counted(address, monkeypatch):
    monkeypatch.setattr(Visitor, "call", lambda *_: (_ for _ in ()).throw(Refused("no")))
    log = load.measure(address, os.getpid(), 1, 1)
    assert log.errors and log.errors[0] == "Refused: no" and not log.visits


def test_a_full_queue_is_no_error(address, monkeypatch):
    monkeypatch.setattr(
        Visitor, "call", lambda *_: (_ for _ in ()).throw(QueueFull("queue is full"))
    )
    monkeypatch.setattr(load, "AGAIN", 0.1)
    monkeypatch.setattr(load, "Log", UntilRefusedTwice)
    log = load.measure(address, os.getpid(), 1, 1)
    assert log.full > 1 and not log.calls


def test_a_closed_tab_is_noticed(address):
    with visiting(address) as visitor:
        assert visitor.call("sources", "undo").data
    with pytest.raises(Gone):
        visitor.call("sources", "undo")


def test_the_page_forgets_old_sessions(app, address, monkeypatch):
    """With the faces that they showed: memory does not grow with every visitor there ever was."""
    held = app.state_holder
    assert held.capacity == LAUNCH["state_session_capacity"]
    monkeypatch.setattr(held, "capacity", 2)
    for _ in range(4):
        with visiting(address):
            pass
        sessions = list(held.session_data)
    with visiting(address) as last:
        assert last.session in held.session_data and sessions[0] not in held.session_data


def test_quantiles():
    assert (
        load.quantiles([0.1] * 98 + [0.5, 2.0]) == "0.100 s, 0.100 s, 2.000 s"
        and load.quantiles([]) == "none"
    )
