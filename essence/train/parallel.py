"""One process or several: `torchrun --nproc-per-node N -m -- essence train ...` runs a recipe on N
devices, each of which draws its own batches. Without the `--` torchrun takes `--start` for its own.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel


def rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


@contextmanager
def process_group(device: str) -> Iterator[str]:
    """Join the group that torchrun announces, if there is one; yields this process's device and
    leaves the group at the end.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield device
        return
    cuda = device.startswith("cuda")
    if cuda:
        device = f"cuda:{os.environ['LOCAL_RANK']}"
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if cuda else "gloo")
    try:
        yield device
    finally:
        dist.destroy_process_group()


def data_parallel(module: nn.Module, device: str) -> nn.Module:
    """The module with gradients averaged over the processes; the module itself in one process."""
    if world_size() == 1:
        return module
    devices = [device] if device.startswith("cuda") else None
    return DistributedDataParallel(module, device_ids=devices)


def from_first_process(value: float) -> float:
    """Rank 0's value in every process: clocks differ, and all must stop at the same step."""
    if world_size() == 1:
        return value
    holder = torch.tensor([value], dtype=torch.float64)
    if dist.get_backend() == "nccl":
        holder = holder.cuda()
    dist.broadcast(holder, 0)
    return holder.item()


def mean_over_processes(value: Tensor) -> Tensor:
    if world_size() == 1:
        return value
    value = value.clone()
    dist.all_reduce(value)
    return value / world_size()


@contextmanager
def first_process_first() -> Iterator[None]:
    """The body runs on rank 0, then on the others, which find the files that it has made."""
    if rank():
        dist.barrier()
    yield
    if world_size() > 1 and not rank():
        dist.barrier()
