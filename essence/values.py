"""The values that flow: sources, essences, and the steps in which they come about."""

from __future__ import annotations

import base64
import dataclasses
import io
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from .errors import BadFile, EssenceMismatch, UserError
from .library.latent_files import check_latents, over_layers, read_one, split_choice
from .library.safe_files import file_format, read_safetensors, write_safetensors
from .models.latents import LatentAxes, move
from .pictures.align import Square
from .pictures.grids import grid
from .pictures.saving import write_picture
from .runtime.files import timestamp

FORMAT = "essence/1"
THUMBNAIL = 96
HEADER_FIELDS = ("name", "model", "method", "strength", "reach", "text", "neutral")
# What the layers of w+ govern, two for each resolution: up to 8 pixels, 16 and 32, 64 and above
# (Karras et al. 2019, figure 3).
BANDS = {"coarse": slice(0, 4), "middle": slice(4, 8), "fine": slice(8, None)}


@dataclass(frozen=True, eq=False)
class Source:
    """A picture as the generator understands it."""

    name: str
    crop: Image.Image  # the aligned picture at its own resolution; G(w) where there is none
    inversion: Image.Image  # G(w)
    w: Tensor  # w+ [L, D], float32, CPU
    model: str  # which generator
    square: Square | None = None  # where the crop was cut from, in the pixels of its picture
    fine: Image.Image | None = None  # G(w) by a finer level, where the models bring one

    @property
    def picture(self) -> Image.Image:
        """G(w) for the eye."""
        return self.fine or self.inversion

    @property
    def has_photograph(self) -> bool:
        """Whether there is a picture beside the generator's own."""
        return self.crop is not self.inversion


@dataclass(frozen=True, eq=False)
class Target:
    """What edited sources should look like: a point in CLIP's space, and where it came from."""

    name: str
    embedding: Tensor  # [E], float32, CPU, as the encoder gives it, not normalised
    picture: Image.Image | None = None  # the aligned square it was taken from
    text: str = ""  # or the words
    neutral: str = ""  # the words that those are compared with, where there are any
    # Then the way from the one to the other in CLIP's space [E], in lengths of unit embeddings.
    direction: Tensor | None = None
    face_found: bool = True  # False: searched for in vain, and the centred square was taken
    turn: int = 0  # degrees clockwise that its picture was turned by to stand the face upright


@dataclass(frozen=True, eq=False)
class Essence:
    """A direction b in W+ that carries what makes the target the target (paper section 3)."""

    delta: Tensor  # b [L, D], float32, CPU
    name: str = "essence"
    model: str = ""  # which generator; empty where the file did not say
    method: str = ""
    strength: float = 1.0  # to start from
    # Options, seed, losses, creation date, ...
    provenance: Mapping[str, object] = field(default_factory=dict)
    thumbnail: Image.Image | None = None  # the target
    # Standard deviations of w along b at which a source stops (`LatentAxes.hold`); None: nowhere.
    reach: float | None = None
    # What the target was in words, and what they were compared with.
    text: str = ""
    neutral: str = ""

    def __post_init__(self) -> None:
        delta = torch.as_tensor(self.delta)
        if delta.ndim == 3 and delta.shape[0] == 1:
            delta = delta[0]
        if delta.ndim != 2 or not delta.is_floating_point():
            raise BadFile(
                "An essence is a table of numbers [layers, width]; "
                f"this one has the shape {list(delta.shape)}, {delta.dtype}."
            )
        if not torch.isfinite(delta).all():
            raise BadFile("This essence holds numbers that are not finite; learn it again.")
        object.__setattr__(self, "delta", delta.detach().to("cpu", torch.float32).contiguous())

    def apply(
        self,
        w: Tensor,
        strength: float | Tensor | None = None,
        model: str = "",
        axes: LatentAxes | None = None,
    ) -> Tensor:
        """w + strength * b: the one place where an edit happens.

        `w` [L, D] or [B, L, D]; `strength` a number or [B]; `model` the generator that `w` belongs
        to, if known. With that generator's `axes` the edit is held to the essence's `reach`.
        Raises EssenceMismatch for another generator's latents.
        """
        rows = 1 if len(self.delta) == 1 else w.shape[-2]  # one row serves every layer
        self.check((rows, w.shape[-1]), model)
        strength = self.strength if strength is None else strength
        if isinstance(strength, Tensor):
            strength = strength.to(w).view(-1, 1, 1)
        return move(w, strength * self.delta.to(w), axes, self.reach)

    def check(self, shape: tuple[int, ...], model: str = "") -> None:
        """Raise EssenceMismatch unless this essence belongs to the generator `model` with latents
        of `shape` [L, D].
        """
        if tuple(self.delta.shape) != tuple(shape):
            raise EssenceMismatch(
                f"The essence '{self.name}' was made for a generator with latents "
                f"{list(self.delta.shape)}; this one has {list(shape)}. Switch to the generator "
                "that it was made with, or learn it again with this one."
            )
        # NAME-WEIGHTS: one file may be known by several names.
        ours, theirs = (id.rpartition("-")[2] for id in (self.model, model))
        if ours and theirs and ours != theirs:
            raise EssenceMismatch(
                f"The essence '{self.name}' was made with the generator {self.model}; this one is "
                f"{model}. Their latents have the same shape but another meaning: learn it again "
                "with this one."
            )

    def over_layers(self, layers: int) -> Essence:
        """Of one row, the same for every layer, the essence on all of them; else itself."""
        delta = over_layers(self.delta, layers, self.name)
        return self if delta is self.delta else dataclasses.replace(self, delta=delta)

    def save(self, path: str | Path) -> None:
        """Write a safetensors file with everything that is known about the essence in its
        header.
        """
        header: dict[str, object] = {"format": FORMAT, "provenance": dict(self.provenance)}
        header |= {name: getattr(self, name) for name in HEADER_FIELDS}
        if self.thumbnail is not None:
            header["thumbnail"] = encode_thumbnail(self.thumbnail)
        write_safetensors(path, {"delta": self.delta}, header)

    @classmethod
    def load(cls, path: str | Path) -> Essence:
        """Read our safetensors, or a public direction: `.npy`, `.npz` or `.pt` holding [L, D],
        [1, L, D], or [1, D] or [D] for every layer; FILE#NAME where there are several. Raises
        BadFile, UserError.
        """
        path = Path(path)
        if file_format(split_choice(path)[0]) != "safetensors":
            return cls(*read_one(path))
        tensors, header = read_safetensors(path)
        if header.get("format") != FORMAT or "delta" not in tensors:
            raise BadFile(
                f"{path.name} is a safetensors file, but no essence: it has no header '{FORMAT}' "
                "with a tensor 'delta'."
            )
        check_latents(tensors["delta"], path.name)
        try:
            return cls(
                tensors["delta"],
                str(header["name"]),
                str(header["model"]),
                str(header["method"]),
                float(header["strength"]),
                dict(header.get("provenance", {})),
                decode_thumbnail(header.get("thumbnail")),
                read_reach(header.get("reach")),
                str(header.get("text", "")),
                str(header.get("neutral", "")),
            )
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            if isinstance(error, UserError):
                raise
            raise BadFile(f"The header of {path.name} is damaged ({error}).") from None

    @classmethod
    def mixture(
        cls, essences: Sequence[Essence], strengths: Sequence[float], name: str = "mixture"
    ) -> Essence:
        """The sum of strength_t * b_t as one essence. Raises UserError for none, EssenceMismatch
        for those of several generators.
        """
        if not essences:
            raise UserError("A mixture takes at least one essence.")
        model = next((essence.model for essence in essences if essence.model), "")
        total = torch.zeros_like(max((essence.delta for essence in essences), key=len))
        for essence, strength in zip(essences, strengths, strict=True):
            total = essence.apply(total, strength, model)
        parts = [
            {"name": essence.name, "strength": strength}
            for essence, strength in zip(essences, strengths, strict=True)
        ]
        provenance = {"parts": parts, "created": timestamp()}
        reaches = [essence.reach for essence in essences if essence.reach is not None]
        reach = min(reaches, default=None)
        return cls(total, name, model, "mixture", provenance=provenance, reach=reach)

    def limited(self, bands: Collection[str]) -> Essence:
        """The same essence on the layers of the named `BANDS` alone: coarse (structure), middle
        (features), fine (colour).
        """
        unknown = set(bands) - set(BANDS)
        if unknown:
            raise UserError(f"There is no band '{min(unknown)}'. There are: {', '.join(BANDS)}.")
        delta = torch.zeros_like(self.delta)
        for band in bands:
            delta[BANDS[band]] = self.delta[BANDS[band]]
        return dataclasses.replace(
            self, delta=delta, provenance={**self.provenance, "bands": sorted(bands)}
        )


@dataclass(frozen=True, eq=False)
class Pictures:
    """What a method gives that has no direction, style transfer for one: a picture per source."""

    images: np.ndarray  # uint8 [N, H, W, 3]
    name: str = "pictures"
    method: str = ""
    provenance: Mapping[str, object] = field(default_factory=dict)
    thumbnail: Image.Image | None = None  # the target
    # w+ [N, L, D], float32, CPU, of pictures that the generator made.
    latents: Tensor | None = None

    def save(self, path: str | Path) -> None:
        """Write the pictures side by side, .png, .jpg or .webp."""
        row = [Image.fromarray(image) for image in self.images]
        write_picture(grid([row], self.images.shape[1]), path)


@dataclass(frozen=True, eq=False)
class Step:
    """One step of work that takes many. Every method yields these; the page, the command line and
    the tests read them alike.
    """

    index: int  # 1 ... total
    total: int
    result: Essence | Pictures | Source | tuple[Source, ...]  # the best so far
    losses: Mapping[str, float]  # of this step; "total" is what was minimised
    preview: np.ndarray | None = None  # uint8 [N, H, W, 3], every few steps
    # In the last step of a method that learned from several starts: what came of each, the best
    # first, which is the result.
    choices: tuple[Essence, ...] = ()

    @property
    def fraction(self) -> float:
        return self.index / self.total


def read_reach(value: object) -> float | None:
    if value is None:
        return None
    reach = float(value)  # type: ignore[arg-type]
    if not 0 < reach < math.inf:
        raise ValueError(f"a reach of {value}")
    return reach


def encode_thumbnail(image: Image.Image) -> str:
    small = image.convert("RGB")
    small.thumbnail((THUMBNAIL, THUMBNAIL))
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=85)
    return base64.b64encode(buffer.getvalue()).decode()


def decode_thumbnail(text: object) -> Image.Image | None:
    if not isinstance(text, str):
        return None
    try:
        image = Image.open(io.BytesIO(base64.b64decode(text)))
        if max(image.size) > 4 * THUMBNAIL:
            return None
        return image.convert("RGB")
    except Exception:  # pictures fail in many ways, and an essence without a thumbnail is whole
        return None
