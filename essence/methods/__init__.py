"""The methods by name, and their presets."""

from __future__ import annotations

from typing import Any

from ..values import Essence
from .base import Method
from .encode import EncodeOptions, encode_target
from .map import MapOptions, map_target
from .optimize import OptimizeOptions
from .released import ReleasedOptions, released
from .starts import optimize_best

METHODS: dict[str, Method] = {
    "optimize": Method(
        "one direction by gradient descent (paper, section 3)",
        optimize_best,
        {
            "essence": OptimizeOptions(),
            # The paper's first version, target in the generator's domain. Out of it:
            # weight_decay .001, lambda_consistency .6.
            "paper": OptimizeOptions(
                steps=1000,
                space="w+",
                start="inverted",
                lambda_consistency=0.7,
                learning_rate=0.2,
                weight_decay=0.007,
                unit_differences=False,
                loss_resolution=0,
                reach=None,
            ),
        },
        Essence,
    ),
    "map": Method(
        "the target mapped to a direction, at once (CSLA; for models with a mapper)",
        map_target,
        {"instant": MapOptions()},
        Essence,
        needs="mapper",
    ),
    "encode": Method(
        "the target's picture encoded as a direction, at once (ECCV variant; for models with an "
        "essence encoder)",
        encode_target,
        {"encode": EncodeOptions()},
        Essence,
        needs="essence",
    ),
    "released": Method(
        "the authors' released code, its defects included",
        released,
        {"released": ReleasedOptions()},
        Essence,
    ),
}
PRESETS: dict[str, Any] = {
    name: options for method in METHODS.values() for name, options in method.presets.items()
}


def method_of(options: object) -> tuple[str, Method]:
    """The method, by name, that takes these options."""
    return next(
        (name, method) for name, method in METHODS.items() if type(method.options) is type(options)
    )
