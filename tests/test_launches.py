"""What a step asks of a GPU, on one that is not there (benchmarks/fake_gpu.py): nothing that a CUDA
graph cannot hold, and few launches beside it.
"""

import pytest
import torch

from benchmarks import launches
from benchmarks.fake_gpu import Refused, fake_gpu
from essence.runtime import cuda_graphs

SIZE = 64
MOST = 10  # launches beside the graphs


def recorded(work, half=True):
    """`work` with random models, where a graph refuses what it cannot hold."""
    with fake_gpu() as counting:
        models = launches.public_models(SIZE, half, tiny=True)
        return work(launches.Ledger(counting, refusing=True), models)


@pytest.mark.parametrize("half", [True, False], ids=["half", "full"])
@pytest.mark.parametrize("resolution", [0, 32])
def test_a_step_of_learning_is_recorded_whole(half, resolution):
    found = recorded(lambda ledger, models: launches.learning(ledger, models, 3, resolution), half)
    assert found.inside.kernels > 100 and found.inside.barred == 0
    assert found.outside.kernels <= MOST
    assert found.outside.crossings.total() == 1  # the losses


@pytest.mark.parametrize(
    "work",
    [lambda ledger, models: launches.refining(ledger, models, 2), launches.inverting],
    ids=["refinement", "encoder"],
)
def test_refinement_and_the_encoder_are_recorded_whole(work):
    found = recorded(work)
    assert found.inside.kernels > 50 and found.inside.barred == 0
    assert found.outside.kernels <= MOST


@pytest.mark.parametrize("count", [1, 3])
def test_a_picture_takes_few_launches(count):
    found = recorded(lambda ledger, models: launches.rendering(ledger, models, count))
    assert found.inside.barred == 0 and found.inside.kernels > 20
    assert found.outside.kernels <= 5
    assert list(found.outside.crossings.values()) == [1]  # the picture


@pytest.mark.parametrize(
    "work",
    [
        lambda x: x[:, [0, 2]],
        lambda x: x.sum().item(),
        lambda x: x + 1 if x.sum() > 0 else x,
        lambda x: x.nonzero(),
        lambda x: x + torch.ones(3).to(x.device),
        lambda x: x.cpu(),
    ],
    ids=["index", "item", "bool", "nonzero", "from the processor", "to the processor"],
)
def test_what_a_graph_cannot_hold_is_refused(work):
    with fake_gpu() as counting:
        x = torch.zeros(2, 3, device="cuda")
        work(x)  # counted, where nothing is recorded
        assert counting.count.barred == 1
        counting.refusing = True
        with pytest.raises(Refused):
            work(x)


def test_gradients_are_those_of_the_engine():
    """The backward pass in Python, on tensors that have numbers."""
    from benchmarks.fake_gpu import gradients

    random = torch.Generator().manual_seed(0)
    a, b = (torch.randn(*shape, generator=random).requires_grad_() for shape in ((3, 4), (4,)))
    y = ((a * b).sin() @ a.T).square().mean() + (a[1] * b).sum() / a.norm()
    for ours, theirs in zip(gradients(y, [a, b]), torch.autograd.grad(y, [a, b]), strict=True):
        torch.testing.assert_close(ours, theirs)


# -- what happens around a recording


class FakeStreams:
    """torch.cuda's streams and graphs, as far as a capture asks for them."""

    def __init__(self, monkeypatch):
        self.current, self.used = "default", []
        monkeypatch.setattr(torch.cuda, "Stream", lambda: FakeStream())
        monkeypatch.setattr(torch.cuda, "current_stream", lambda: FakeStream())
        monkeypatch.setattr(torch.cuda, "stream", self.on)
        monkeypatch.setattr(torch.cuda, "CUDAGraph", lambda: None)
        monkeypatch.setattr(torch.cuda, "graph", lambda graph, stream: self.on(stream))

    def on(self, stream):
        from contextlib import contextmanager

        @contextmanager
        def entered():
            before, self.current = self.current, stream
            yield
            self.current = before

        return entered()


class FakeStream:
    def wait_stream(self, other):
        pass


def test_warm_up_and_capture_share_a_stream_and_leave_the_state_alone(monkeypatch):
    streams, used = FakeStreams(monkeypatch), []
    moved, born = torch.tensor([1.0, 2.0]), []

    def step():
        used.append(streams.current)
        moved.add_(1)
        born[:] = born or [torch.zeros(2)]
        born[0].add_(1)
        if len(used) == cuda_graphs.WARM_UP:
            born[0].add_(5)
        return {}

    cuda_graphs.CapturedGraph(step, lambda: [moved, *born])
    assert len(used) == cuda_graphs.WARM_UP + 1
    assert len(set(used)) == 1 and used[0] != "default"
    # A capture runs nothing on a GPU; here it moved both by one.
    assert moved.tolist() == [2, 3] and born[0].tolist() == [1, 1]


def test_a_step_that_takes_all_at_once_says_itself_that_the_memory_is_used_up():
    tried = []

    def step(batch):
        tried.append(batch)
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(torch.OutOfMemoryError):
        cuda_graphs.RecordedStep(step, list, 3, None, False)()
    assert tried == [3]


def test_shapes_that_come_again_are_recorded_and_changed_weights_start_over(monkeypatch):
    recorded = []

    def capture(function, *_):
        recorded.append(1)
        return function

    monkeypatch.setattr(cuda_graphs, "capture", capture)
    weight, cpu = torch.ones(1), torch.device("cpu")
    double = cuda_graphs.RecordedFunction(lambda x: 2 * x * weight)
    for i, expected in ((1, 0), (2, 1), (3, 1)):
        assert double(torch.full((2,), float(i)), cpu, [weight]).tolist() == [2 * i] * 2
        assert len(recorded) == expected
    double(torch.ones(3), cpu, [weight])
    assert len(recorded) == 1
    weight.mul_(2)
    assert double(torch.ones(2), cpu, [weight]).tolist() == [4, 4] and len(recorded) == 1
    double(torch.ones(2), cpu, [weight])
    assert len(recorded) == 2
