"""A GPU that is not there: networks run on it with shapes and devices alone, and what a real one
would have to launch, move and wait for is counted.

Fake tensors (torch's own) say that they lie on a GPU and hold no numbers. Below autograd every
operation passes a dispatch mode, which counts it.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.autograd.function import BackwardCFunction
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves, tree_map

from essence.models.identity import face_descriptor
from essence.ops import cuda, dispatch
from essence.pictures.tensors import _resampling_matrix
from essence.runtime import hardware, memory

# Operations that give memory or another view of it: nothing is launched.
FREE = (
    "empty",
    "new_empty",
    "detach",
    "alias",
    "lift_fresh",
    "_unsafe_view",
    "sym_",
    "_reshape_alias",
    "resize_",
)
# Operations whose answer the processor waits for, or whose size depends on the numbers.
WAITING = ("_local_scalar_dense", "item", "is_nonzero", "equal", "nonzero")


class Refused(RuntimeError):
    """An operation that cannot be recorded in a CUDA graph."""


@dataclass
class Count:
    """Of one stretch of work."""

    launches: Counter[str] = field(default_factory=Counter)  # kernels by the operation's name
    crossings: Counter[str] = field(default_factory=Counter)  # copies between processor and GPU
    waits: Counter[str] = field(default_factory=Counter)  # the processor waits for the GPU
    bytes: int = 0  # read and written by the kernels, each tensor once

    @property
    def kernels(self) -> int:
        return self.launches.total()

    @property
    def barred(self) -> int:
        """What a graph cannot hold."""
        return self.crossings.total() + self.waits.total()


class Counting(TorchDispatchMode):
    """Counts into `count`. One operation of torch is taken as one kernel; a convolution in half
    precision whose maps or weights do not have their channels innermost as one more for each
    conversion. With `refusing`, raises Refused for what cannot be recorded.
    """

    def __init__(self) -> None:
        super().__init__()
        self.count, self.refusing = Count(), False

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):  # noqa: ANN001
        name, given = operation._schema.name.removeprefix("aten::"), tree_leaves((args, kwargs))
        tensors = [each for each in given if isinstance(each, Tensor)]
        fake = any(isinstance(tensor, FakeTensor) for tensor in tensors)
        if name in WAITING and fake:
            if any(tensor.is_cuda for tensor in tensors):
                self._bar(self.count.waits, name)
            if name == "nonzero":  # at most all of them
                return tensors[0].new_zeros(tensors[0].numel(), tensors[0].ndim, dtype=torch.long)
            return 1.0  # true, where that is asked
        there = any(isinstance(x, torch.device) and x.type == "cuda" for x in given)
        if tensors and not fake and not there:  # the processor's own numbers
            with _disable_current_modes():
                return operation(*args, **(kwargs or {}))
        if name == "_fused_adam_":  # fake tensors do not know it; it works in place
            return self.launched(name, tensors)
        out = operation(*args, **(kwargs or {}))
        if name.startswith("convolution"):
            out = laid_out(out, args)
        results = [each for each in tree_leaves(out) if isinstance(each, Tensor)]
        devices = {each.device.type for each in [*tensors, *results] if each.ndim or each.is_cuda}
        if name in ("_to_copy", "copy_") and len(devices) > 1:
            self._bar(self.count.crossings, f"{name} {tuple(results[0].shape)}")
            if not results[0].is_cuda:  # what arrives at the processor is made of numbers
                with _disable_current_modes():
                    return torch.zeros(results[0].shape, dtype=results[0].dtype)
            return out
        if any(result.is_cuda for result in results):
            if any(not tensor.is_cuda and tensor.ndim for tensor in tensors):
                self._bar(self.count.crossings, f"{name}, an operand of which is not there")
            if not operation.is_view and not name.startswith(FREE):
                self.launched(name, [*tensors, *results], conversions(name, args))
        return out

    def launched(self, name: str, tensors: Sequence[Tensor], more: int = 0) -> None:
        """Count a kernel that reads and writes these, and `more` beside it."""
        self.count.launches[name] += 1
        if more:
            self.count.launches["conversion of a layout"] += more
        self.count.bytes += sum(t.numel() * t.element_size() for t in tensors if t.is_cuda)

    def _bar(self, counter: Counter[str], what: str) -> None:
        if self.refusing:
            raise Refused(f"{what} cannot be recorded in a CUDA graph")
        counter[what] += 1


def conversions(name: str, args: Sequence[object]) -> int:
    """How often cuDNN changes a layout around a convolution: its kernels for half precision want
    the channels innermost.
    """
    if name not in ("convolution", "convolution_backward"):
        return 0
    maps = [each for each in args if isinstance(each, Tensor) and each.ndim == 4]
    if maps[0].dtype == torch.float32:
        return 0
    changed = [not each.is_contiguous(memory_format=torch.channels_last) for each in maps]
    return sum(changed) + all(changed)  # of what is read; of the result, if nothing asked for it


def laid_out(out, args: Sequence[object]):  # noqa: ANN001, ANN201
    """The results of a convolution as cuDNN lays them out, channels innermost where the map's or
    the weight's are: fake tensors do not know.
    """
    maps = [each for each in args if isinstance(each, Tensor) and each.ndim == 4]
    if not any(_is_innermost(each) for each in maps):
        return out
    change = partial(torch.empty_like, memory_format=torch.channels_last)
    return tree_map(lambda each: change(each) if is_map(each) else each, out)


def is_map(x: object) -> bool:
    return isinstance(x, Tensor) and x.ndim == 4


def _is_innermost(x: Tensor) -> bool:
    return x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()


@contextmanager
def fake_gpu() -> Iterator[Counting]:
    """Everything that is made in here and put on "cuda" lies on a GPU that is not there; gradients
    and our own kernels included.
    """
    counting, caches = Counting(), (face_descriptor, _resampling_matrix)

    def launch(x: Tensor, name: str, *arguments: object) -> None:
        counting.launched(name, [each for each in arguments if isinstance(each, Tensor)])

    with ExitStack() as stack:
        for place, name, value in (
            (cuda, "call", launch),
            (dispatch, "cuda_kernels", lambda: True),
            (memory, "free_memory", lambda device: None),
            (hardware, "bfloat16_pays", lambda device: True),
            (torch.autograd, "grad", gradients),
            (F, "scaled_dot_product_attention", partial(attention, counting)),
            (torch.cuda.amp.common, "amp_definitely_not_available", lambda: False),
            (torch.cuda, "is_bf16_supported", lambda *_: True),
        ):
            stack.enter_context(mock.patch.object(place, name, value))
        stack.enter_context(mock.patch.object(Tensor, "backward", backward))
        stack.enter_context(mock.patch.object(torch.nn.Module, "to", moved))
        stack.enter_context(warnings.catch_warnings())
        warnings.filterwarnings("ignore", "Accessing the data pointer of FakeTensor")
        stack.enter_context(FakeTensorMode(allow_non_fake_inputs=True))
        stack.enter_context(counting)
        for cache in caches:  # nothing fake stays behind
            cache.cache_clear()
            stack.callback(cache.cache_clear)
        yield counting


def attention(counting: Counting, q: Tensor, k: Tensor, v: Tensor, *_: object, **__: object):
    """Attention as one kernel, and three on the way back: without a GPU torch would take it apart,
    which with one it does not.
    """
    return _Attention.apply(counting, q, k, v)


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(ctx, counting: Counting, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        ctx.counting = counting
        ctx.save_for_backward(q, k, v)
        out = _by_tokens(q)
        counting.launched("attention", [q, k, v, out])
        return out

    @staticmethod
    def backward(ctx, g: Tensor) -> tuple[Tensor | None, ...]:
        saved = ctx.saved_tensors
        for _ in range(3):
            ctx.counting.launched("attention, backward", [g, *saved])
        return None, *map(_by_tokens, saved)


def _by_tokens(x: Tensor) -> Tensor:
    """An empty [B, heads, T, d] that lies as [B, T, heads, d], as attention's kernels lay it."""
    return torch.empty_like(x.transpose(1, 2), memory_format=torch.contiguous_format).transpose(
        1, 2
    )


# ---- the backward pass


def backward(output: Tensor) -> None:
    """`output.backward()`."""
    for leaf, gradient in accumulated(output).items():
        leaf.grad = gradient if leaf.grad is None else leaf.grad + gradient


def gradients(outputs: Tensor, inputs: Sequence[Tensor], **_: object) -> tuple[Tensor, ...]:
    """`torch.autograd.grad(outputs, inputs)` of one output to leaves."""
    found = accumulated(outputs)
    return tuple(found[leaf] for leaf in inputs)


@torch.no_grad()
def accumulated(output: Tensor) -> dict[Tensor, Tensor]:
    """The gradient of each leaf. What torch's engine does, in Python: the engine itself asks the
    GPU for its streams, and there is none.
    """
    waiting: Counter[object] = Counter()  # node -> edges that have not delivered yet
    nodes = [output.grad_fn]
    seen = set(nodes)
    for node in nodes:  # grows as it is read
        for following, _ in node.next_functions:
            if following is not None:
                waiting[following] += 1
                if following not in seen:
                    seen.add(following)
                    nodes.append(following)
    arrived: dict[object, list[Tensor | None]] = {output.grad_fn: [torch.ones_like(output)]}
    ready, leaves = [output.grad_fn], {}
    while ready:
        node = ready.pop()
        given = arrived.pop(node, [])
        if hasattr(node, "variable"):
            if given:
                leaves[node.variable] = given[0]
            continue
        edges = [edge for edge in node.next_functions if edge[0] is not None]
        for (following, slot), gradient in zip(edges, _through(node, given), strict=True):
            if gradient is not None:
                slots = arrived.setdefault(following, [None] * len(following._input_metadata))
                gradient = _fitted(gradient, following._input_metadata[slot])
                slots[slot] = gradient if slots[slot] is None else slots[slot] + gradient
            waiting[following] -= 1
            if waiting[following] == 0:
                ready.append(following)
    return leaves


def _through(node, given: Sequence[Tensor | None]) -> list[Tensor | None]:  # noqa: ANN001
    """The gradients that a node sends along those of its edges that lead anywhere."""
    if not given:
        return [None for following, _ in node.next_functions if following is not None]
    if isinstance(node, BackwardCFunction):
        found = node.apply(*given)
        found = found if isinstance(found, tuple) else (found,)
        return [each for each, needed in zip(found, node.needs_input_grad, strict=True) if needed]
    found = node(*given)
    found = found if isinstance(found, tuple) else (found,)
    edges = node.next_functions
    return [
        each for each, (following, _) in zip(found, edges, strict=True) if following is not None
    ]


def _fitted(gradient: Tensor, like) -> Tensor:  # noqa: ANN001
    """Summed over what was broadcast, in the type of the operand."""
    if gradient.shape != like.shape:
        gradient = gradient.sum_to_size(like.shape)
    return gradient if gradient.dtype == like.dtype else gradient.to(like.dtype)


# ---- modules


def moved(
    module: torch.nn.Module,
    place: torch.device | torch.dtype | str | None = None,
    memory_format: torch.memory_format | None = None,
) -> torch.nn.Module:
    """`module.to(...)`, which cannot exchange fake tensors in place."""
    for part in module.modules():
        for name, weight in part._parameters.items():
            if weight is not None:
                there = _tensor_moved(weight.detach(), place, memory_format)
                part._parameters[name] = torch.nn.Parameter(there, weight.requires_grad)
        for name, buffer in part._buffers.items():
            if buffer is not None:
                part._buffers[name] = _tensor_moved(buffer, place, memory_format)
    return module


def _tensor_moved(
    x: Tensor, place: torch.device | torch.dtype | str | None, layout: torch.memory_format | None
) -> Tensor:
    x = x if place is None else x.to(place)
    return x if layout is None or x.ndim != 4 else x.contiguous(memory_format=layout)
