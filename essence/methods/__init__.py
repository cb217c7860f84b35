"""The methods by name, and their presets."""

from __future__ import annotations

from typing import Any

from ..models.model_set import ModelSet
from ..values import Essence, Pictures
from .base import Method
from .blends import BlendOptions, ClipBlendOptions, blend, clip_blend
from .encode import EncodeOptions, encode_target
from .map import MapOptions, map_target
from .optimize_options import OptimizeOptions
from .released import ReleasedOptions, released
from .starts import optimize_best
from .style_transfer import GatysOptions, gatys

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
                lambda_identity=0.0,
                target_share=0.0,
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
# Methods that give an essence at once: the first that the models have serves. Those in WANT_PICTURE
# know no words.
INSTANT, WANT_PICTURE = ("encode", "map"), ("encode",)
PRESETS: dict[str, Any] = {
    name: options for method in METHODS.values() for name, options in method.presets.items()
}


def method_of(options: object) -> tuple[str, Method]:
    """The method, by name, that takes these options."""
    return next(
        (name, method) for name, method in METHODS.items() if type(method.options) is type(options)
    )


def instant_options(models: ModelSet, words: bool = False) -> Any | None:
    """The options of the method that gives the essence of a picture, or of words, at once with
    these models; None where they have none.
    """
    able = [name for name in instant_methods(models) if not (words and name in WANT_PICTURE)]
    return METHODS[able[0]].options if able else None


def instant_methods(models: ModelSet) -> list[str]:
    """The methods that give an essence at once with these models, the best one first."""
    return [name for name in INSTANT if METHODS[name].needs in models.extras]
