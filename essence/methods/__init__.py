"""The methods by name, and their presets."""

from __future__ import annotations

from typing import Any

from ..values import Essence, Pictures
from .base import Method
from .blends import BlendOptions, ClipBlendOptions, blend, clip_blend
from .map import MapOptions, map_target
from .optimize import OptimizeOptions, optimize
from .released import ReleasedOptions, released
from .style_transfer import GatysOptions, gatys

METHODS: dict[str, Method] = {
    "optimize": Method(
        "one direction by gradient descent (paper, section 3)",
        optimize,
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
    "released": Method(
        "the authors' released code, its defects included",
        released,
        {"released": ReleasedOptions()},
        Essence,
    ),
    "blend": Method(
        "baseline: the mean of source and target in StyleGAN's space, a picture for each source",
        blend,
        {
            "blend": BlendOptions(),
            "mixing": BlendOptions(share=1.0, bands=("middle", "fine")),
        },
        Pictures,
        baseline=True,
    ),
    "clip-blend": Method(
        "baseline: the mean of source and target in CLIP's space, a picture for each source",
        clip_blend,
        {"clip-blend": ClipBlendOptions()},
        Pictures,
        baseline=True,
    ),
    "gatys": Method(
        "baseline: style transfer by Gram matrices, a picture for each source",
        gatys,
        {"gatys": GatysOptions()},
        Pictures,
        baseline=True,
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
