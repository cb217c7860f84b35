"""Devices that are lent for one call at a time, to a process that is forked for it (ZeroGPU)."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

# Takes a function or generator function and gives one that runs it where a device is lent.
Lend = Callable[[Callable[..., Any]], Callable[..., Any]]


def device_work(method: Callable[..., Any]) -> Callable[..., Any]:
    """Mark a method that works on the device. Its arguments and what it returns or yields are
    values on the CPU, and it calls no other marked method: where a device is lent, the whole call
    may run in another process.
    """

    @functools.wraps(method)
    def call(self: Any, *arguments: Any, **options: Any) -> Any:
        lent = getattr(self, "_lent", {}).get(method.__name__)
        return lent(*arguments, **options) if lent else method(self, *arguments, **options)

    call.works_on_device = True
    return call


def lend_methods(owner: Any, lend: Lend) -> None:
    """From now on the marked methods of `owner` run where `lend` puts them."""
    marked = {
        name: value.__wrapped__
        for name, value in vars(type(owner)).items()
        if getattr(value, "works_on_device", False)
    }
    owner._lent = {name: lend(method.__get__(owner)) for name, method in marked.items()}
