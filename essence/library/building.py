"""Networks made from stored tensors, without time spent on random weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ..errors import BadFile

# What layers fill their new weights with.
FILLS = {nn.init.uniform_, nn.init.normal_, nn.init.kaiming_uniform_, nn.init.xavier_uniform_}
FILLS |= {Tensor.uniform_, Tensor.normal_}


class WithoutRandomWeights(TorchFunctionMode):
    """Within it, networks are made without filling their weights. (On torch's meta device the first
    random number imports sympy and torch's compiler, which takes seconds.)
    """

    def __torch_function__(
        self, func: Callable, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in FILLS:
            return args[0] if args else kwargs["tensor"]
        return (torch.empty if func is torch.randn else func)(*args, **kwargs)


def build_network(
    build: Callable[[], nn.Module], state: Mapping[str, Tensor], name: str
) -> nn.Module:
    """Build without random weights, then load every tensor by name and shape."""
    with WithoutRandomWeights():
        module = build()
    stored = module.state_dict().keys()
    for key, buffer in module.named_buffers():
        if key not in stored:
            buffer.zero_()
    try:
        module.load_state_dict(dict(state))
    except RuntimeError as error:
        raise BadFile(f"{name} does not have the tensors of this network: {error}") from None
    return module.eval().requires_grad_(False)
