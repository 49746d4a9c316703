"""Vector arithmetic with concepts (paper, section 6.3.2), and whether it works.

mean(latents with) - mean(latents without) + another latent. The paper averages three latents,
because single ones did not work, and shows the pictures; here a classifier also counts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from handler.pixels import Images
from training.lab.canvas import Latents
from training.lab.concepts import Concept
from training.lab.usage import UsageError

Draw = Callable[[Latents], Images]
# uint8 (n, H, W, C) -> attribute -> probabilities, float32 (n, classes)
Classify = Callable[[Images], Mapping[str, npt.NDArray[np.float32]]]

SURE = 0.9  # probability from which a sample has a concept; below 1 - SURE it lacks it


@dataclass(frozen=True, eq=False)
class Pool:
    """Samples, and what the judge sees on them: row i is one sample."""

    latents: Latents
    told: Mapping[str, npt.NDArray[np.float32]]

    def having(self, concept: Concept) -> npt.NDArray[np.intp]:
        """Rows that surely have the concept."""
        return np.flatnonzero(self.told[concept.attribute][:, concept.index] >= SURE)

    def lacking(self, concept: Concept) -> npt.NDArray[np.intp]:
        """Rows that surely lack the concept."""
        return np.flatnonzero(self.told[concept.attribute][:, concept.index] < 1 - SURE)


@dataclass(frozen=True, eq=False)
class Trial:
    """One direction, from ``terms`` samples of each side, and the latents it is added to.

    Attributes:
        having, lacking: rows of the pool that are averaged.
        direction: float32 (nz,).
    """

    having: npt.NDArray[np.intp]
    lacking: npt.NDArray[np.intp]
    direction: Latents


def plan(
    pool: Pool, concept: Concept, without: Concept | None, terms: int, trials: int, bases: int
) -> tuple[list[Trial], npt.NDArray[np.intp]]:
    """Split the samples, in their order, into the terms of each trial and the bases of all.

    Args:
        pool: the samples.
        concept: what to add.
        without: what the subtracted terms and the bases have instead; anything else if None.
        terms: samples averaged on each side.
        trials: how many directions, from different samples.
        bases: how many samples to add each direction to; fewer if there are not as many.

    Returns:
        the trials, and the rows that serve as bases.

    Raises:
        UsageError: too few samples.
    """
    having = pool.having(concept)
    lacking = pool.lacking(concept)
    if without is not None:
        lacking = np.intersect1d(lacking, pool.having(without))
    for rows, least, what in (
        (having, terms * trials, f"with {concept}"),
        (lacking, terms * trials + 1, f"with {without}" if without else f"without {concept}"),
    ):
        if len(rows) < least:
            raise UsageError(
                f"{len(rows)} of {len(pool.latents)} samples are surely {what}, {least} are "
                "needed; give more --samples, fewer --trials or --terms, or another concept"
            )
    made = []
    for start in range(0, terms * trials, terms):
        chosen = slice(start, start + terms)
        plus, minus = pool.latents[having[chosen]], pool.latents[lacking[chosen]]
        vector = plus.astype(np.float64).mean(0) - minus.astype(np.float64).mean(0)
        made.append(Trial(having[chosen], lacking[chosen], vector.astype(np.float32)))
    return made, lacking[terms * trials :][:bases]


def random_directions(count: int, length: float, nz: int, seed: int) -> Latents:
    """Evenly distributed directions of one length: float32 (count, nz)."""
    drawn = np.random.default_rng(seed).standard_normal((count, nz))
    drawn *= length / np.linalg.norm(drawn, axis=1, keepdims=True)
    return drawn.astype(np.float32)


def add(bases: Latents, direction: Latents, strength: float, *, keep_length: bool) -> Latents:
    """``bases + strength * direction``, each as long as its base if ``keep_length``.

    Args:
        bases: float32 (n, nz).
        direction: float32 (nz,) or (n, nz).
    """
    moved = bases + np.float32(strength) * direction
    if keep_length:
        lengths = np.linalg.norm(moved, axis=1, keepdims=True)
        moved *= np.linalg.norm(bases, axis=1, keepdims=True) / np.maximum(lengths, 1e-12)
    return moved


def measure(
    pool: Pool, trials: list[Trial], bases: npt.NDArray[np.intp], concept: Concept, draw: Draw,
    classify: Classify, strength: float, *, keep_length: bool,
) -> dict[str, Any]:  # fmt: skip
    """How often the results have the concept, and what else changes.

    A result has the concept if it is the likeliest class. Another attribute is kept if its
    likeliest class is the base's. The control adds, to each base, a random direction as long
    as the trial's.

    Returns:
        fractions of all results: ``has_concept`` ``before``, ``after`` (and its ``lowest`` and
        ``highest`` trial) and with ``random_direction``; ``kept`` by attribute.
    """
    start = pool.latents[bases]
    before = {name: told[bases].argmax(1) for name, told in pool.told.items()}
    outcomes: dict[str, list[dict[str, float]]] = {"after": [], "random_direction": []}
    for number, trial in enumerate(trials):
        length = float(np.linalg.norm(trial.direction))
        control = random_directions(len(start), length, start.shape[1], seed=number)
        for name, direction in (("after", trial.direction), ("random_direction", control)):
            moved = add(start, direction, strength, keep_length=keep_length)
            now = {key: told.argmax(1) for key, told in classify(draw(moved)).items()}
            same = {key: float((now[key] == before[key]).mean()) for key in now}
            hit = float((now[concept.attribute] == concept.index).mean())
            outcomes[name].append({**same, concept.attribute: hit})
    mean = {
        name: {key: round(float(np.mean([t[key] for t in told])), 3) for key in told[0]}
        for name, told in outcomes.items()
    }
    hits = [told[concept.attribute] for told in outcomes["after"]]
    return {
        "has_concept": {
            "before": round(float((before[concept.attribute] == concept.index).mean()), 3),
            "after": mean["after"][concept.attribute],
            "after_lowest": round(min(hits), 3),
            "after_highest": round(max(hits), 3),
            "random_direction": mean["random_direction"][concept.attribute],
        },
        "kept": {
            key: {name: mean[name][key] for name in mean}
            for key in before
            if key != concept.attribute
        },
    }
