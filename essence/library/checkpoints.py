"""Every model file in and out: our safetensors, and the public PyTorch checkpoints (docs/METHOD.md,
section 6).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor

from ..errors import BadFile
from ..models.arcface import ArcFace
from ..models.e4e import (
    RESTYLE_PASSES,
    Encoder4Editing,
    EncoderConfig,
    EssenceEncoder,
    Inverter,
)
from ..models.finer_level import FinerConfig, FinerLevel
from ..models.judge import Judge, JudgeConfig
from ..models.latents import LatentAxes
from ..models.mapper import Mapper, MapperConfig
from ..models.style_layers import BLUR
from ..models.stylegan2 import Generator, GeneratorConfig
from . import nvidia
from .building import build_network
from .network_pickle import read_pickle
from .safe_files import check_finite, file_format, read_safetensors, write_safetensors
from .state_dicts import (
    ENCODER,
    GENERATOR,
    MEAN,
    find_prefix,
    generator_state,
    mean_beside,
    network_state,
    read_tensors,
)

# Sampled once where a checkpoint brings no mean latent, as the public code does.
LATENT_AVG_SAMPLES = 4096
# Of an e4e encoder, what 16 bits are too few for.
ENCODER_EXACT = ("running_", "linear.")


def load_generator(path: str | Path) -> Generator:
    """A StyleGAN2 from our safetensors, a `{"g_ema": ...}` checkpoint, the decoder inside an e4e
    checkpoint, or NVIDIA's pickle. Frozen, on the CPU.

    Size, widths, style_dim and n_mlp are read off the tensors. Raises BadFile.
    """
    path = Path(path)
    state, latent_avg = _read_generator(path)
    config = GeneratorConfig.infer(state)
    filter_2d = torch.outer(torch.tensor(BLUR), torch.tensor(BLUR))
    for key, value in state.items():
        if key.endswith(".kernel") and not (
            value.shape == filter_2d.shape and torch.allclose(value, filter_2d, atol=1e-3)
        ):
            raise BadFile(
                f"{path.name} resamples with another filter than [1, 3, 3, 1] ({key}); "
                "such a generator is not supported."
            )
    generator = build_network(lambda: Generator(config), state, path.name)
    if latent_avg is None:
        latent_avg = mean_latent(generator)
    generator.latent_avg.copy_(_per_layer(latent_avg, config.layers, config.style_dim, path.name))
    return generator


def _read_generator(path: Path) -> tuple[dict[str, Tensor], Tensor | None]:
    """State dict in the common names, and the mean latent where the file has one."""
    if file_format(path) == "pickle":
        network = nvidia.find_generator(read_pickle(path), path.name)
        return nvidia.common_state_dict(network, path.name)
    tensors = read_tensors(path)
    nvidia.refuse_stylegan3(tensors, path.name)
    prefix = find_prefix(tensors, nvidia.GENERATOR)
    if prefix is not None:
        network = nvidia.record_of(network_state(tensors, prefix, path.name))
        return nvidia.common_state_dict(network, path.name)
    return generator_state(tensors, path.name)


def holds_generator(path: str | Path) -> bool:
    """Whether a StyleGAN2 is inside. Raises BadFile."""
    path = Path(path)
    if file_format(path) == "pickle":
        return True
    names = read_tensors(path, lazily=True)
    return any(find_prefix(names, shown) is not None for shown in (GENERATOR, nvidia.GENERATOR))


def mean_latent(generator: Generator) -> Tensor:
    """Mean of w over a fixed sample of z, [D]."""
    z = torch.randn(
        LATENT_AVG_SAMPLES, generator.config.style_dim, generator=torch.Generator().manual_seed(0)
    )
    with torch.no_grad():
        return generator.mapping(z).mean(0)


def load_inverter(path: str | Path) -> Inverter:
    """An e4e encoder with its mean latent, from our safetensors or a public e4e or ReStyle
    checkpoint. Frozen, on the CPU. Raises BadFile.
    """
    path = Path(path)
    tensors, header = _encoder_tensors(path)
    encoder, prefix = _read_encoder(tensors, path.name)
    latent_avg = mean_beside(tensors, prefix, path.name)
    if latent_avg is None and find_prefix(tensors, GENERATOR) is not None:
        latent_avg = load_generator(path).latent_avg
    if latent_avg is None:
        raise BadFile(f"{path.name} has no tensor '{MEAN}', which its encoder's answers add to.")
    config = encoder.config
    latent_avg = _per_layer(latent_avg, config.layers, config.style_dim, path.name)
    passes = header.get("passes", RESTYLE_PASSES if config.channels == 6 else 1)
    if not isinstance(passes, int) or passes < 1:
        raise BadFile(f"The header of {path.name} is damaged: {passes!r} passes.")
    return Inverter(encoder, latent_avg, passes).eval().requires_grad_(False)


def load_essence_encoder(path: str | Path) -> EssenceEncoder:
    """An essence encoder, from our safetensors or a checkpoint in e4e's format; a mean latent in
    it is not used. Frozen, on the CPU. Raises BadFile, also for an inverter of ours.
    """
    path = Path(path)
    tensors, header = _encoder_tensors(path)
    if header.get("kind", "essence") != "essence":
        raise BadFile(
            f"{path.name} is no essence encoder but a file of kind '{header['kind']}': "
            "`train essence` makes one."
        )
    encoder, _ = _read_encoder(tensors, path.name)
    bound = (str(header.get(kind, "")) for kind in ("generator", "clip"))
    return EssenceEncoder(encoder, *bound).eval().requires_grad_(False)


def holds_essence_encoder(path: str | Path) -> bool:
    """Whether this is an essence encoder in our format. Raises BadFile."""
    path = Path(path)
    return file_format(path) == "safetensors" and read_safetensors(path)[1].get("kind") == "essence"


def _encoder_tensors(path: Path) -> tuple[dict[str, Tensor], dict]:
    """Of a file that should hold an e4e encoder, with our header ({} where there is none)."""
    kind = file_format(path)
    if kind == "pickle":
        raise BadFile(f"{path.name} is one of NVIDIA's pickles: they hold no e4e encoder.")
    return read_safetensors(path) if kind == "safetensors" else (read_tensors(path), {})


def _read_encoder(tensors: Mapping[str, Tensor], name: str) -> tuple[Encoder4Editing, str]:
    """The e4e encoder among a checkpoint's tensors, and the prefix that its names have there."""
    prefix = find_prefix(tensors, ENCODER)
    if prefix is None:
        raise BadFile(f"{name} holds no e4e encoder: no tensor is named '...{ENCODER}'.")
    state = network_state(tensors, prefix, name)
    state.pop(MEAN, None)
    config = EncoderConfig.infer(state)
    encoder = build_network(lambda: Encoder4Editing(config), state, name)
    # One picture at a time, its many small convolutions take a fifth less time on a processor so.
    return encoder.to(memory_format=torch.channels_last), prefix


def holds_inverter(path: str | Path) -> bool:
    """Whether an e4e encoder is inside. Raises BadFile."""
    path = Path(path)
    if file_format(path) == "pickle":
        return False
    return find_prefix(read_tensors(path, lazily=True), ENCODER) is not None


def load_latents(path: str | Path) -> LatentAxes:
    """The axes of w, from a file of its mean [D] and covariance [D, D]. Raises BadFile."""
    tensors, _ = read_safetensors(path)
    check_finite(tensors, Path(path).name)
    mean, covariance = (_tensor(tensors, key, Path(path).name) for key in ("mean", "covariance"))
    return LatentAxes.of(mean, covariance)


def save_latents(mean: Tensor, covariance: Tensor, path: str | Path, samples: int) -> None:
    write_safetensors(
        path,
        {"mean": mean.float(), "covariance": covariance.float()},
        {"kind": "latents", "samples": samples},
    )


def save_generator(generator: Generator, path: str | Path, half: bool = True) -> None:
    state = generator.state_dict() | {"latent_avg": generator.latent_avg}
    # A mapping network that works far from zero, and what it feeds, need their last bits.
    exact = ("style.", "latent_avg", "modulation.")
    write_safetensors(
        path, halved(state, half, exact), {"kind": "generator", "config": asdict(generator.config)}
    )


def load_finer_level(path: str | Path) -> FinerLevel:
    """A finer level of our recipe. Frozen, on the CPU. Raises BadFile."""
    path = Path(path)
    state, header = _read_ours(path, "finer", "finer level")
    try:
        config, bound = FinerConfig(**header["config"]), str(header["generator"])
    except (KeyError, TypeError) as error:
        raise BadFile(f"The header of {path.name} is damaged ({error}).") from None
    return build_network(lambda: FinerLevel(config, bound), state, path.name)


def save_finer_level(level: FinerLevel, path: str | Path, half: bool = True) -> None:
    header = {"kind": "finer", "config": asdict(level.config), "generator": level.generator}
    write_safetensors(path, halved(level.state_dict(), half, ("modulation.",)), header)


def save_inverter(inverter: Inverter, path: str | Path, half: bool = True) -> None:
    state = inverter.encoder.state_dict() | {"latent_avg": inverter.latent_avg}
    exact = ("latent_avg", *ENCODER_EXACT)
    header = {"kind": "inverter", "config": asdict(inverter.encoder.config)}
    header |= {"passes": inverter.passes}
    write_safetensors(path, halved(state, half, exact), header)


def save_essence_encoder(essence: EssenceEncoder, path: str | Path, half: bool = True) -> None:
    header = {"kind": "essence", "config": asdict(essence.encoder.config)}
    header |= {"generator": essence.generator, "clip": essence.clip}
    write_safetensors(path, halved(essence.encoder.state_dict(), half, ENCODER_EXACT), header)


def load_mapper(path: str | Path) -> Mapper:
    """A mapper of our recipe. Frozen, on the CPU. Raises BadFile."""
    path = Path(path)
    state, header = _read_ours(path, "mapper")
    try:
        known = dict(header["config"])
        config = MapperConfig(**known | {"styles": tuple(known["styles"])})
        bound = str(header["generator"]), str(header["clip"])
    except (KeyError, TypeError, ValueError) as error:
        raise BadFile(f"The header of {path.name} is damaged ({error}).") from None
    return build_network(lambda: Mapper(config, *bound), state, path.name)


def save_mapper(mapper: Mapper, path: str | Path, half: bool = True) -> None:
    header = {"kind": "mapper", "config": asdict(mapper.config)}
    header |= {"generator": mapper.generator, "clip": mapper.clip}
    exact = ("centre", "spread", "deviation_")
    write_safetensors(path, halved(mapper.state_dict(), half, exact), header)


def load_judge(path: str | Path) -> Judge:
    """A judge of our recipe. Frozen, on the CPU. Raises BadFile."""
    path = Path(path)
    state, header = _read_ours(path, "judge")
    try:
        config = JudgeConfig(**{name: tuple(value) for name, value in header["config"].items()})
    except (KeyError, TypeError, AttributeError) as error:
        raise BadFile(f"The header of {path.name} is damaged ({error}).") from None
    return build_network(lambda: Judge(config), state, path.name)


def save_judge(judge: Judge, path: str | Path, half: bool = True) -> None:
    exact = ("running_", "centre", "scale", "reliability")
    header = {"kind": "judge", "config": asdict(judge.config)}
    write_safetensors(path, halved(judge.state_dict(), half, exact), header)


def load_arcface(path: str | Path) -> ArcFace:
    """An IR-SE network with ArcFace's head, `model_ir_se50.pth` or one like it. Frozen, on the CPU.
    Raises BadFile.
    """
    path, mark = Path(path), "output_layer.3.weight"
    if not path.is_file():
        raise BadFile(f"There is no file {path}: give ArcFace's model_ir_se50.pth.")
    tensors = read_tensors(path)
    prefix = find_prefix(tensors, mark)
    if prefix is None:
        raise BadFile(f"{path.name} is no ArcFace network: no tensor is named '...{mark}'.")
    state = network_state(tensors, prefix, path.name)
    return build_network(lambda: ArcFace.like(state), state, path.name)


def _read_ours(path: Path, kind: str, what: str = "") -> tuple[dict[str, Tensor], dict]:
    """The tensors and the header of a network that the recipe `kind` makes. Raises BadFile for
    other files.
    """
    tensors, header = read_safetensors(path)
    if header.get("kind") != kind:
        raise BadFile(f"{path.name} is no {what or kind}: `train {kind}` makes one.")
    return network_state(tensors, "", path.name), header


def _per_layer(latent_avg: Tensor, layers: int, width: int, name: str) -> Tensor:
    """The mean latent [D], [1, D] or [L, D] as [L, D]."""
    if tuple(latent_avg.shape) not in ((width,), (1, width), (layers, width)):
        raise BadFile(
            f"The mean latent in {name} has the shape {list(latent_avg.shape)}; "
            f"the network's latents are {[layers, width]}."
        )
    return latent_avg.expand(layers, -1)


def halved(state: Mapping[str, Tensor], half: bool, exact: tuple[str, ...]) -> dict[str, Tensor]:
    """Floats in 16 bits if `half`, except those with one of `exact` in their name."""

    def stored(name: str, value: Tensor) -> Tensor:
        keep = not value.is_floating_point() or any(part in name for part in exact)
        return value.half() if half and not keep else value

    return {name: stored(name, value) for name, value in state.items()}


def _tensor(state: Mapping, key: str, name: str) -> Tensor:
    if not isinstance(state.get(key), Tensor):
        raise BadFile(f"{name} has no tensor '{key}'.")
    return state[key]
