"""The experiment behind the report: targets, people who took no part, methods, and what each method
does to them. Whatever has been computed is kept on disk, so that a run can be resumed.
"""

from __future__ import annotations

import dataclasses
import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from ...library.components import fingerprint
from ...methods import method_of
from ...models.arcface import ArcFace
from ...pictures.loading import load_image
from ...pictures.saving import write_picture
from ...pictures.tensors import from_uint8, resize, to_pil, to_tensor
from ...studio import Studio, last
from ...train.augment import light, misalign
from ...train.common import cached_on_disk
from ...train.data.drawing.draw import draw_target
from ...train.examples import DRAWN
from ...values import Essence, Pictures, Source, Target
from .. import essence_measures as measures
from ..held_out import to_channels
from ..judging import Juror
from ..metrics import chip_descriptors, identity_distance, set_features, sharpness
from .contenders import Contender, Scale

SIDE = 256  # pixels of a target
# Seeds of random faces: those that essences are learned on, and those that took no part.
LEARNED_ON, UNSEEN = 500, 1000
TARGET_SEED, PERSON_SEED, REFERENCE_SEED = 11, 12, 13
SHOWN = 6  # sources in a figure


@dataclass(frozen=True)
class Appearance:
    """What networks say of N pictures; None where they say nothing of such pictures."""

    embeddings: Tensor  # unit [N, E], of the encoder that is optimised
    described: Tensor | None  # [N, K], by the judge
    descriptors: Tensor | None  # [N, 128], of the face network
    faces: Tensor | None = None  # unit [N, E], of ArcFace where somebody brought it


class Study:
    """Targets, sources and models of one report. What is computed goes into `work`, under a name
    that changes with the models and the number of people.
    """

    def __init__(
        self,
        studio: Studio,
        juror: Juror | None,
        scale: Scale,
        out: Path,
        arcface: ArcFace | None = None,
    ):
        self.studio, self.models, self.juror, self.scale = studio, studio.models, juror, scale
        self.arcface = arcface if self.models.has_faces else None
        self.out, self.work = out, out / ".work" / self.digest()
        self.work.mkdir(parents=True, exist_ok=True)
        (out / ".work" / ".gitignore").write_text("*\n")

    def digest(self) -> str:
        networks = [self.models.generator, self.models.clip, *self.models.extras.values()]
        networks += [self.arcface] if self.arcface else []
        networks += [judge] if (judge := getattr(self.juror, "judge", None)) is not None else []
        marks = [fingerprint(network) for network in networks]
        people = self.scale.sources, self.scale.learned_on
        known = (self.models.id, marks, people, getattr(self.juror, "name", None), SIDE)
        return hashlib.sha256(repr(known).encode()).hexdigest()[:10]

    # ---- people

    @cached_property
    def learned_on(self) -> list[Source]:
        return [self.studio.random_source(LEARNED_ON + i) for i in range(8)]

    @cached_property
    def sources(self) -> list[Source]:
        """People who took no part in learning."""
        return [self.studio.random_source(UNSEEN + i) for i in range(self.scale.sources)]

    def generated(self, count: int, seed: int) -> list[Image.Image]:
        """Pictures of random z, without truncation."""
        models = self.models
        z = torch.randn(
            count, models.latent_shape[1], generator=torch.Generator().manual_seed(seed)
        )
        with torch.no_grad():
            w = models.generator.repeat(models.generator.mapping(z.to(models.device)))
        return [Image.fromarray(picture) for picture in models.render(w)]

    @cached_property
    def target_pictures(self) -> dict[str, Image.Image]:
        """Generated and, for faces, drawn ones in turn."""
        drawn = DRAWN[: self.scale.targets // 2] if self.models.has_faces else ()
        made = self.generated(self.scale.targets - len(drawn), TARGET_SEED)
        found: dict[str, Image.Image] = {}
        for i, picture in enumerate(made):
            found[f"generated-{i}"] = resize(picture, SIDE)
            if i < len(drawn):
                found[f"drawn-{drawn[i]}"] = self.drawing(drawn[i], seed=0)
        return found

    def drawing(self, name: str, seed: int) -> Image.Image:
        """Drawn by code, which takes seconds, or from disk."""
        path = self.work.parent / f"drawn-{name}-{seed}.png"
        if not path.is_file():
            write_picture(draw_target(name, SIDE, seed), path)
        return load_image(path)

    @cached_property
    def targets(self) -> list[Target]:
        pairs = self.target_pictures.items()
        return [self.studio.embed_target(picture, name) for name, picture in pairs]

    @cached_property
    def second_pictures(self) -> list[Target]:
        """Another picture of each target's person: a generated one mirrored, in another light and
        shifted; a drawn one drawn again with other strokes.
        """
        rng, found = torch.Generator().manual_seed(PERSON_SEED), []
        for name, picture in list(self.target_pictures.items())[: self.scale.persons]:
            if name.startswith("drawn-"):
                again = self.drawing(name.removeprefix("drawn-"), seed=1)
            else:
                lit = light(to_tensor(picture).flip(-1), rng, share=1.0)[0]
                again = to_pil(misalign(lit, rng))[0]
            found.append(self.studio.embed_target(again, f"{name}-again"))
        return found

    # ---- learning and editing

    def learn(self, contender: Contender, target: Target) -> tuple[Essence | Pictures, float]:
        """What the contender's method gives for the target, and how many seconds it took."""
        sources, method = self.sources[: contender.sources], contender.options
        if not self.gives_pictures(contender):
            sources = self.learned_on[: contender.learned_on or self.scale.learned_on]
        began = time.perf_counter()
        result = last(self.studio.extract(target, sources, method)).result
        return result, time.perf_counter() - began

    def gives_pictures(self, contender: Contender) -> bool:
        return method_of(contender.options)[1].result is Pictures

    def essence(self, contender: Contender, target: Target) -> Essence:
        """Learned, or from disk where it has been before; of a contender that learns directions."""
        path = self.place("essence", contender, target).with_suffix(".safetensors")
        if not path.is_file():
            self.learn(contender, target)[0].save(path)
        return self.studio.load_essence(path)

    def edits(self, contender: Contender, result: Essence | Pictures) -> np.ndarray:
        """The sources at the contender's strengths, uint8 [K, S, H, W, 3]. Pictures with latents
        are reached on the straight line in W+, others by a cross-fade.
        """
        strengths, sources = contender.strengths, self.sources[: contender.sources]
        if isinstance(result, Essence):
            return self.studio.blend(sources, [result] * len(strengths), strengths)
        if result.latents is not None:
            z = torch.stack([source.w for source in sources])
            rows = [torch.lerp(z, result.latents, strength) for strength in strengths]
            return self.models.render(torch.cat(rows)).reshape(len(rows), *result.images.shape)
        before = np.stack([np.asarray(source.inversion) for source in sources]).astype(np.float32)
        after = result.images.astype(np.float32)
        mixed = [before + strength * (after - before) for strength in strengths]
        return np.stack(mixed).round().clip(0, 255).astype(np.uint8)

    # ---- measuring

    @torch.no_grad()
    def appearance(self, pictures: np.ndarray) -> Appearance:
        """uint8 [N, H, W, 3]."""
        parts = from_uint8(pictures).split(self.models.render_batch)
        embeddings = torch.cat([self.models.encode(part).float().cpu() for part in parts])
        described = self.juror.describe(pictures) if self.juror else None
        descriptors = chip_descriptors(pictures) if self.models.has_faces else None
        faces = None
        if self.arcface is not None:
            parts = from_uint8(pictures).split(self.models.render_batch)
            faces = torch.cat([self.arcface(part) for part in parts])
        return Appearance(F.normalize(embeddings, dim=1), described, descriptors, faces)

    @cached_property
    def before(self) -> Appearance:
        """Of the unedited sources."""
        return self.appearance(np.stack([np.asarray(s.inversion) for s in self.sources]))

    def record(self, contender: Contender, target: Target) -> dict[str, Tensor]:
        """All that is measured of a contender's edits towards a target; from disk where it has
        been before. `encoder`, `judge` (similarities) and `distance` are [K, S]; `arcface`,
        `moved`, `side_effects`, `disentanglement`, `linearity`, `sharpness` [S]; `consistency` and
        `seconds` numbers; `features` [S, 704] and `cells` uint8 [up to SHOWN, H, W, 3] of
        strength 1. Not a number where nobody can say.
        """
        path = self.place("record", contender, target)
        return cached_on_disk(path, lambda: self.measure(contender, target))

    def measure(self, contender: Contender, target: Target) -> dict[str, Tensor]:
        result, seconds = self.learn(contender, target)
        if isinstance(result, Essence):
            result.save(self.place("essence", contender, target).with_suffix(".safetensors"))
        edited, one = self.edits(contender, result), contender.one
        strengths, count = edited.shape[:2]
        # At strength zero all contenders show the same.
        flat = edited[1:].reshape(-1, *edited.shape[2:])
        after, before = self.appearance(flat), self.before

        def path(name: str) -> Tensor:
            """[K, S, ...] of one part of the appearance."""
            rest = getattr(after, name).unflatten(0, (strengths - 1, count))
            return torch.cat([getattr(before, name)[None, :count], rest])

        e, unknown = path("embeddings"), torch.full((strengths, count), torch.nan)
        found: dict[str, Any] = {
            "encoder": torch.stack([measures.target_similarity(x, target.embedding) for x in e]),
            "consistency": torch.tensor(measures.consistency(e[0], e[one])),
            "linearity": measures.linearity(e),
            "judge": unknown,
            "distance": unknown,
            "arcface": unknown[0],
            "moved": unknown[0],
            "side_effects": unknown[0],
            "disentanglement": unknown[0],
            "seconds": torch.tensor(seconds),
        }
        if after.descriptors is not None:
            d = path("descriptors")
            found["distance"] = torch.stack([identity_distance(d[0], x) for x in d])
            found["features"] = set_features(to_channels(edited[one])).half()
        if after.faces is not None:
            faces = path("faces")
            found["arcface"] = F.cosine_similarity(faces[0], faces[one], dim=1)
        if after.described is not None:
            found |= self.judgement(path("described"), one, target)
        ratio = sharpness(edited[one]) / sharpness(edited[0]).clip(min=1e-6)
        found["sharpness"] = torch.from_numpy(ratio)
        found["cells"] = torch.from_numpy(edited[one][:SHOWN].copy())
        return found

    def judgement(self, described: Tensor, one: int, target: Target) -> dict[str, Tensor]:
        """What the judge finds in edits that it described, [K, S, A], beside the target's picture
        at their own side.
        """
        picture = resize(target.picture.convert("RGB"), self.models.size)
        goal = self.juror.describe(np.array(picture)[None])[0]
        similarity = [self.juror.similarity(each, goal) for each in described]
        found = {"judge": torch.stack(similarity)}
        if self.juror.attributes:
            edit = described[0], described[one], goal
            found["moved"] = measures.moved_share(*edit)
            found["side_effects"] = measures.side_effects(*edit)
            found["disentanglement"] = measures.disentanglement(*edit)
        return found

    def records(
        self, contender: Contender, targets: Sequence[Target], tell: Callable[[], None]
    ) -> dict[str, Tensor]:
        """The records of several targets stacked, [T, ...] each; `tell()` is called after each."""
        found = []
        for target in targets:
            found.append(self.record(contender, target))
            tell()
        return {name: torch.stack([each[name] for each in found]) for name in found[0]}

    def place(self, kind: str, contender: Contender, target: Target) -> Path:
        """The file of one record, by everything that it depends on beside the digest."""
        known = repr((contender, target.name, dataclasses.asdict(contender.options)))
        mark = hashlib.sha256(known.encode()).hexdigest()[:10]
        name = f"{kind}-{contender.name}-{target.name}".replace(" ", "_").replace("/", "_")
        return self.work / f"{name[:60]}-{mark}.pt"
