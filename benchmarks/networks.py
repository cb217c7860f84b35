"""Networks of the public sizes with random weights: what a step costs does not depend on what they
have learned.
"""

from __future__ import annotations

from pathlib import Path

import torch

from essence.library import checkpoints, clip_files
from essence.models.clip import ImageText
from essence.models.latents import mean_and_covariance
from essence.models.model_set import ModelSet
from essence.models.stylegan2 import Generator, GeneratorConfig

FFHQ = {4: 512, 8: 512, 16: 512, 32: 512, 64: 512, 128: 256, 256: 128, 512: 64, 1024: 32}
# open_clip's ViT-B-32-quickgelu; the text tower is not measured and therefore small.
VIT_B_32 = {
    "embed_dim": 512,
    "quick_gelu": True,
    "vision_cfg": {"image_size": 224, "layers": 12, "width": 768, "patch_size": 32},
    "text_cfg": {"context_length": 8, "vocab_size": 49408, "width": 8, "heads": 1, "layers": 1},
}
SAMPLES = 4096  # latents whose axes are measured
TINY_CLIP = VIT_B_32 | {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 16, "layers": 1, "width": 16, "patch_size": 8, "head_width": 8},
}


def random_models(size: int, device: torch.device, half: bool, tiny: bool = False) -> ModelSet:
    """A model set of the public FFHQ generator's widths up to `size`, and ViT-B/32; `tiny`: a few
    channels, for tests.
    """
    from open_clip.model import CLIP

    channels = {side: 8 if tiny else width for side, width in FFHQ.items() if side <= size}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        generator = Generator(
            GeneratorConfig(size, 16 if tiny else 512, 2 if tiny else 8, channels)
        )
        config = TINY_CLIP if tiny else VIT_B_32
        clip = ImageText.from_config(config, CLIP(**config).state_dict(), "random")
    generator = generator.eval().requires_grad_(False).to(device)
    return ModelSet("random", f"random-{size}", generator, None, clip.to(device), None, half=half)


def save_models(models: ModelSet, folder: Path) -> None:
    """As a folder that `load_model_set` takes, of a generator of faces without an inverter."""
    generator, clip = models.generator, models.clip
    checkpoints.save_generator(generator, folder / "generator.safetensors")
    clip_files.save_clip(clip.config, clip.model.state_dict(), folder / "clip.safetensors")
    width = generator.config.style_dim
    with torch.no_grad():
        axes = mean_and_covariance(generator.mapping, width, models.device, SAMPLES)
    checkpoints.save_latents(*axes, folder / "latents.safetensors", SAMPLES)
    files = "".join(
        f'{n} = {{file = "{n}.safetensors"}}\n' for n in ("generator", "clip", "latents")
    )
    (folder / "model.toml").write_text(f'title = "Random weights"\naligned = "face"\n{files}')
