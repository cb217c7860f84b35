"""Numbers that no work can be done with, losses that are no numbers, and memory that is used up."""

from __future__ import annotations

import base64
import copy
import dataclasses

import numpy as np
import pytest
import torch

from essence import METHODS, PRESETS, UserError, adjusted
from essence.models.latents import mean_and_covariance
from essence.runtime.device_queue import DeviceQueue
from essence.runtime.memory import BatchHalving

from . import fakes
from .test_cli import run  # noqa: F401 - a fixture

# -- what memory allocators say


def cpu_out_of_memory(batch: int) -> None:
    torch.empty(batch << 50)


def said(text: str, kind: type[Exception] = RuntimeError):
    def work(batch: int) -> None:
        raise kind(text)

    return work


@pytest.mark.parametrize(
    "fail",
    [
        cpu_out_of_memory,
        said("[enforce fail at alloc_cpu.cpp:1] DefaultCPUAllocator: not enough memory: you tried"),
        said("MPS backend out of memory (MPS allocated: 1 GB)"),
        said("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate"),
        said("CUDA out of memory", torch.OutOfMemoryError),
        said("std::bad_alloc"),
        said("could not create a primitive"),
        said("", MemoryError),
    ],
)
def test_a_batch_that_does_not_fit_is_halved_whatever_the_memory_says(fail):
    asked = []

    def work(batch: int) -> int:
        asked.append(batch)
        if batch > 3:
            fail(batch)
        return batch

    assert BatchHalving(12)(work) == 3 and asked == [12, 6, 3]
    with pytest.raises(UserError, match="Not even one picture"):
        BatchHalving(2)(fail)


@pytest.mark.parametrize("single_thread", [True, False])
def test_work_that_cannot_be_halved_is_told(single_thread):
    """Inversion, for one, and pictures of a grid."""
    queue = DeviceQueue(single_thread)
    with pytest.raises(UserError, match="DefaultCPUAllocator.*fewer pictures"):
        queue.run(lambda: cpu_out_of_memory(1))
    with pytest.raises(RuntimeError, match="shape"):
        queue.run(lambda: said("a wrong shape")(1))
    assert queue.run(lambda: 3) == 3


def test_other_errors_are_not_taken_for_memory():
    with pytest.raises(RuntimeError, match="shape"):
        BatchHalving(8)(said("The size of tensor a must match: a wrong shape"))


# -- losses


@pytest.mark.parametrize("preset", sorted({*PRESETS} - {"instant", "encode"}))
def test_a_loss_that_is_no_number_is_told(preset):
    models = dataclasses.replace(fakes.model_set())
    sources = fakes.sources(models, torch.randn(2, 8, 8))
    target = fakes.target(models, torch.zeros(1, 3, 32, 32), "grandmother")
    broken = dataclasses.replace(target, embedding=torch.full_like(target.embedding, torch.nan))
    method = next(m for m in METHODS.values() if preset in m.presets)
    if preset in ("released", "gatys"):  # they read the target's picture, not its embedding
        sources = [dataclasses.replace(s, w=torch.full_like(s.w, torch.nan)) for s in sources]
    options = adjusted(PRESETS[preset], steps=3, loss_resolution=0)
    with pytest.raises(UserError, match="'grandmother'.*nan.*first"):
        list(method.learn(models, broken, sources, options))


@pytest.mark.parametrize("preset, kind", [("instant", "mapper"), ("encode", "essence")])
def test_an_answer_at_once_that_is_no_number_is_told(preset, kind):
    models = fakes.model_set()
    broken = copy.deepcopy(models.extras[kind])
    for weight in broken.parameters():
        weight.data.fill_(torch.nan)
    models = dataclasses.replace(models, extras={**models.extras, kind: broken})
    target = fakes.target(models, torch.zeros(1, 3, 32, 32), "grandmother")
    method = next(m for m in METHODS.values() if preset in m.presets)
    with pytest.raises(UserError, match="'grandmother'.*not finite"):
        list(method.learn(models, target, (), PRESETS[preset]))


def test_an_embedding_that_is_no_number_is_told_by_the_mapper_too():
    models = fakes.model_set()
    target = fakes.target(models, torch.zeros(1, 3, 32, 32), "grandmother")
    broken = dataclasses.replace(target, embedding=torch.full_like(target.embedding, torch.nan))
    with pytest.raises(UserError, match="'grandmother'.*not finite"):
        list(METHODS["map"].learn(models, broken, (), PRESETS["instant"]))


# -- the command line

MISTAKES = [
    ("apply --source w.npy --essence w.npy --strength nan --out o.png", "nan"),
    ("apply --source w.npy --essence w.npy --strength inf --out o.png", "inf"),
    ("apply --source w.npy --essence w.npy --strength=-1e9 --out o.png", "-1e9"),
    ("apply --source w.npy --essence w.npy --strength much --out o.png", "much"),
    ("grid --sources w.npy --essences w.npy --strength 1 nan --out o.png", "nan"),
    ("extract --target t.png --steps 1000000000 --out e.safetensors", "1000000000"),
    ("extract --target t.png --refine 1000000000 --out e.safetensors", "1000000000"),
    ("extract --target t.png --seed 99999999999999999999 --out e.safetensors", "at most"),
    ("extract --target t.png --seed -1 --out e.safetensors", "at least 0"),
    ("extract --target t.png --lambda-consistency nan --out e.safetensors", "nan"),
    ("extract --target t.png --aligned --sources none.npy --out e.safetensors", "none.npy"),
    ("extract --target t.png --aligned --sources flat.npy --out e.safetensors", "flat.npy"),
    ("apply --source none.npy --essence w.npy --out o.png", "none.npy"),
    ("apply --source w.npy --essence none.npy --out o.png", "none"),
    ("apply --source w.npy --essence w.npy --device nonsense --out o.png", "cpu, cuda, mps"),
    ("doctor --device nonsense", "cpu, cuda, mps"),
]


@pytest.mark.parametrize("line, says", MISTAKES)
def test_a_number_that_makes_no_sense_is_one_line(run, line, says):  # noqa: F811
    np.save("w.npy", np.zeros((8, 8), np.float32))
    np.save("none.npy", np.zeros((0, 8, 8), np.float32))
    np.save("flat.npy", np.zeros((8, 0), np.float32))
    code, out, err = run(line)
    assert code == 2 and out == "" and says in err and len(err.splitlines()) == 1


# -- Apple's GPUs


class OnMps(torch.Tensor):
    """Refuses float64, as tensors there do."""

    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        if function is torch.Tensor.double:
            raise TypeError("Cannot convert a MPS Tensor to float64 dtype")
        found = super().__torch_function__(function, types, args, kwargs)
        return found.as_subclass(torch.Tensor) if function is torch.Tensor.cpu else found


def test_latents_are_measured_on_a_device_without_float64():
    mean, covariance = mean_and_covariance(lambda z: (2 * z).as_subclass(OnMps), 4, samples=5000)
    assert mean.abs().max() < 0.2 and (covariance - 4 * torch.eye(4)).abs().max() < 0.5


# -- base64


@pytest.mark.parametrize(
    "wrapped", [base64.encodebytes, lambda data: b" " + base64.b64encode(data)]
)
def test_line_wrapped_base64_is_read(wrapped):
    from demo.encoding import read_base64

    data = bytes(range(256))
    text = wrapped(data).decode()
    assert read_base64(text, "It") == read_base64(text.replace("\n", "\r\n"), "It") == data
    assert read_base64(f"data:image/png;base64,{text}", "It") == data
    with pytest.raises(UserError, match="no base64"):
        read_base64("AAAA*AAA", "It")
