"""Which model sets there are, and where their files lie: weights/manifest.toml to a `ModelSet`."""

from __future__ import annotations

import hashlib
import os
import sys
from dataclasses import dataclass
from pathlib import Path

import torch

from . import checkpoints
from .errors import BadFile, UserError
from .model_set import ModelSet
from .models.clip import ImageText
from .models.identity import face_descriptor

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

WEIGHTS = Path(__file__).resolve().parent.parent / "weights"
PARTS = ("generator", "inverter", "clip", "latents")


@dataclass(frozen=True)
class Part:
    """One entry of the manifest: a file, or a public open_clip model by name."""

    file: str = ""  # relative to weights/
    sha256: str = ""
    open_clip: str = ""  # "architecture/pretrained"
    origin: str = ""  # where it comes from, for people

    @property
    def path(self) -> Path:
        return WEIGHTS / self.file

    @property
    def present(self) -> bool:
        return bool(self.open_clip) or self.path.is_file()


def manifest(path: Path | None = None) -> dict[str, dict[str, Part]]:
    """Model set -> part -> where it is."""
    with open(path or WEIGHTS / "manifest.toml", "rb") as file:
        table = tomllib.load(file)
    return {name: {part: Part(**entry[part]) for part in PARTS if part in entry} for name, entry in table.items()}


def load(name: str = "mini", device: str | torch.device = "cpu", half: bool | None = None) -> ModelSet:
    """A whole model set on `device`. `half`: bfloat16 where it is safe; None decides by the processor. Raises UserError."""
    sets = manifest()
    if name not in sets:
        raise UserError(f"There is no model set '{name}'. There are: {', '.join(sets)}.")
    parts = sets[name]
    for part, entry in parts.items():
        if not entry.present:
            raise UserError(f"The {part} of '{name}' is not here: put {entry.origin or 'its file'} at weights/{entry.file}.")
    generator = checkpoints.load_generator(verified(parts["generator"])).to(device)
    return ModelSet(
        name,
        f"{name}-{fingerprint(generator)}",
        generator,
        checkpoints.load_inverter(verified(parts["inverter"])).to(device),
        _clip(parts["clip"]).to(device),
        face_descriptor().to(device),
        checkpoints.load_latents(verified(parts["latents"])).to(device) if "latents" in parts else None,
        bfloat16_pays(device) if half is None else half,
    )


def verified(part: Part) -> Path:
    """The part's file, after comparing its sha256 where the manifest knows it."""
    if part.sha256 and hashlib.sha256(part.path.read_bytes()).hexdigest() != part.sha256:
        raise BadFile(f"weights/{part.file} is not the file that the manifest names (its sha256 differs). Copy or download it again.")
    return part.path


def fingerprint(generator: torch.nn.Module) -> str:
    """Eight digits that tell one generator's weights from another's, the same whether they were stored in full or half precision."""
    digest = hashlib.sha256()
    for name, value in sorted(generator.state_dict().items()):
        digest.update(f"{name}{tuple(value.shape)}".encode())
        digest.update(value.cpu().half().numpy().tobytes())
    return digest.hexdigest()[:8]


def _clip(part: Part) -> ImageText:
    if part.open_clip:
        return ImageText.from_hub(*part.open_clip.split("/"))
    return checkpoints.load_clip(verified(part))


def bfloat16_pays(device: str | torch.device) -> bool:
    """True where the processor multiplies bfloat16 itself; ESSENCE_PRECISION=full|half overrides."""
    asked = os.environ.get("ESSENCE_PRECISION", "auto")
    if asked in ("full", "half"):
        return asked == "half"
    if torch.device(device).type == "cuda":
        return torch.cuda.is_bf16_supported()
    return torch.device(device).type == "cpu" and torch.ops.mkldnn._is_mkldnn_bf16_supported()
