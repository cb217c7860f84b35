"""Learning rates in place, and steps that run as they are without a GPU."""

from __future__ import annotations

import pytest
import torch

from essence.runtime.cuda_graphs import remember, restore
from essence.train import recording
from essence.train.recording import RecordedTraining, adam, set_rates, state_of


@pytest.mark.parametrize("as_tensor", [False, True])
def test_rates_reach_the_optimiser(as_tensor):
    a, b = (torch.ones(1, requires_grad=True) for _ in range(2))
    optimizer = adam([{"params": [a], "lr": 1.0}, {"params": [b], "lr": 1.0}], (0.9, 0.99), "cpu")
    if as_tensor:
        for group in optimizer.param_groups:
            group["lr"] = torch.tensor(group["lr"])
    set_rates(optimizer, [0.25, 0.0])
    (a + b).backward()
    optimizer.step()
    assert a.item() == pytest.approx(0.75) and b.item() == 1
    assert len(state_of(optimizer)) == 6  # of each parameter two moments and a count


def test_without_a_gpu_every_step_is_computed_as_it_is():
    seen = []
    step = RecordedTraining(lambda *given: {"sum": sum(given)}, lambda: seen, "cpu")
    assert step(1, torch.tensor(2), torch.tensor(3))["sum"] == 6
    assert step(2, torch.tensor(2), torch.tensor(3))["sum"] == 7


def test_on_a_gpu_each_variant_is_recorded_once_and_reads_the_same_inputs(monkeypatch):
    recorded = []

    def pretend(function, moved):
        recorded.append(function)
        return function

    monkeypatch.setattr(recording, "capture", pretend)
    step = RecordedTraining(lambda variant, x: {"sum": variant + x}, list, "cpu")
    step.captures = True
    found = [
        step(variant, torch.tensor(x))["sum"].item() for variant, x in [(1, 2), (5, 3), (1, 4)]
    ]
    assert found == [3, 8, 5] and len(recorded) == 2


def test_what_cannot_be_recorded_is_launched(monkeypatch):
    monkeypatch.setattr(recording, "capture", lambda function, moved: None)
    step = RecordedTraining(lambda _, x: {"double": 2 * x}, list, "cpu")
    step.captures = True
    assert step(None, torch.tensor(2))["double"] == 4 and not step.captures
    assert step(None, torch.tensor(3))["double"] == 6


def test_what_a_warm_up_moved_is_put_back_also_through_a_detached_view():
    weight = torch.nn.Parameter(torch.arange(3.0))
    before = remember([weight.detach()])
    with torch.no_grad():
        weight += 1
    came_into_being = torch.ones(2)
    restore([weight.detach(), came_into_being], before)
    assert weight.tolist() == [0, 1, 2] and came_into_being.tolist() == [0, 0]
