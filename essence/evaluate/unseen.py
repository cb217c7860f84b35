"""People who took no part in learning, and what edits make of them."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

import numpy as np

from ..methods.invert import inversions
from ..runtime.folders import bundled
from ..studio import Studio
from ..values import Essence, Source, Target
from .metrics import chip_descriptors, identity_distance

LEARNED_ON = 4  # bundled sources
FIRST_SEED = 1000  # of random faces that took part in nothing
STRENGTHS = (0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0)


def learning_sources(studio: Studio) -> list[Source]:
    """Whom essences are learned on, when others are to be edited by them."""
    return studio.sources(bundled("sources")[:LEARNED_ON], aligned=True)


def random_people(studio: Studio, count: int) -> list[Source]:
    """Faces that the generator makes up, always the same."""
    return [studio.random_source(FIRST_SEED + i) for i in range(count)]


class UnseenPeople:
    """Sources that took no part in learning."""

    def __init__(self, studio: Studio, sources: Sequence[Source]):
        self.studio, self.sources = studio, sources
        self.pictures = inversions(sources)
        self.descriptors = chip_descriptors(self.pictures)

    def edits(self, essence: Essence, strength: float = 1.0) -> np.ndarray:
        """uint8 [N, H, W, 3]."""
        return self.studio.blend(self.sources, [essence], [strength])[0]

    def measure(self, target: Target, pictures: np.ndarray) -> tuple[float, float]:
        """How far these pictures of theirs are from themselves, by dlib's own chips, and their
        cosine to the target: means.
        """
        distance = identity_distance(chip_descriptors(pictures), self.descriptors)
        return distance.mean().item(), statistics.mean(self.studio.similarity(target, pictures))

    def similarity_at(self, target: Target, essence: Essence, distance: float) -> float:
        """The cosine at the strength at which people are so far from themselves; at the largest one
        where none takes them there.
        """
        points = [self.measure(target, self.pictures)]
        for strength in STRENGTHS:
            points.append(self.measure(target, self.edits(essence, strength)))
            if points[-1][0] >= distance:
                break
        far, similarity = np.array(points).T
        return float(np.interp(distance, np.maximum.accumulate(far), similarity))
