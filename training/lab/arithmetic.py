"""Vector arithmetic with concepts (paper, section 6.3.2), and whether it works.

mean(latents with) - mean(latents without) + another latent. The paper averages three latents,
because single ones did not work, and shows the pictures; here a classifier also counts.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
from annotated_types import Ge

from handler.latents import from_seeds
from handler.pixels import Images
from training.config import Count, nearest
from training.lab.commands import OfWeights, Plot, UsageError, rows_of
from training.lab.judge import SURE, Probabilities, alike, judge_of, likeliest
from training.networks import Generator
from training.samples import Latents, draw
from training.weights import load_generator

Rows = npt.NDArray[np.intp]
TERMS = 3  # latents averaged on each side, in the paper
BASES = 200  # samples that each direction is added to
SHOWN = 8  # of them on the picture

# What the avatars can have, by name: the classes of the labelled attributes.
NAMES: dict[str, dict[str, int]] = {
    "body": {
        "maroon": 0, "green": 1, "black": 2, "lilac": 3, "red": 4, "sand": 5, "pink": 6,
        "brown": 7, "blue": 8, "yellow": 9, "ochre": 10, "grey": 11, "caramel": 12, "cream": 13,
        "orange": 14,
    },
    "fur": {"tiger": 1, "swirls": 3, "dark-eye-patch": 4, "white-patches": 5, "spots": 8},
    "eyes": {"dots": 2, "monocle": 4, "smiling": 6, "lashes": 10, "glasses": 12},
    "mouth": {"curl": 1, "shout": 3, "teeth": 8},
    "accessory": {
        "red-scarf": 0, "bell": 1, "red-collar": 2, "headband": 3, "pink-bow": 4, "black-hat": 5,
        "red-headphones": 6, "blue-scarf": 7, "medal": 8, "machine": 9, "pendant": 10,
        "bandana": 11, "blue-bow": 12, "red-hat": 13, "silver-headphones": 14, "bare": 15,
    },
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Arithmetic(OfWeights, Plot):
    """Give samples what others have, by adding latents with it minus latents without.

    Rows of the picture: the averaged samples with the concept and, last, the picture of their
    mean; the same without; bases; bases plus the difference; bases plus a random direction of
    the same length.
    """

    concept: str = "glasses"
    """What to add, such as glasses, blue-scarf or black-hat."""
    without: str | None = None
    """What the subtracted samples and the bases have instead, of the same kind; anything else
    when omitted."""
    out: Path = Path("runs/plots/arithmetic.png")
    samples: Annotated[int, Ge(2)] = 2000
    """Samples, of seeds 0, 1, ..., among which terms and bases are looked for."""
    terms: Count = TERMS
    """Latents averaged on each side, as the paper's."""
    trials: Count = 10
    """Directions, each from other samples, that the numbers are over; the first one is drawn."""
    strength: float = 1.0
    """Factor of the direction."""

    def result(self) -> dict[str, Any]:
        """Write the picture; returns the numbers of ``measure`` and their origin."""
        generator, info = load_generator(self.weights)
        judge = judge_of(info, self.weights)
        concept = parse_concept(self.concept)
        without = parse_concept(self.without) if self.without else None
        latents = from_seeds(range(self.samples), generator.nz)
        images = draw(generator, latents)
        pool = Pool(latents, judge.classifier.classify(images))
        trials, bases = plan(pool, concept, without, self.terms, self.trials, BASES)
        numbers = measure(
            pool,
            trials,
            bases,
            concept,
            lambda latents: judge.classifier.classify(draw(generator, latents)),
            partial(add, strength=self.strength),
        )
        rows = self._rows(generator, images, latents, trials[0], bases[:SHOWN])
        self.save_png(rows_of(rows))
        return {
            "out": str(self.out),
            "concept": f"{concept} ({concept.attribute} {concept.index})",
            "without": str(without) if without else "anything else",
            "samples": self.samples,
            "surely_with": len(pool.having(concept)),
            "terms": self.terms,
            "trials": self.trials,
            "bases": len(bases),
            "strength": self.strength,
            **numbers,
            "judge_accuracy_on_unseen_real": judge.accuracy,
            "seeds_on_the_picture": {
                "with": trials[0].having.tolist(),
                "without": trials[0].lacking.tolist(),
                "bases": bases[:SHOWN].tolist(),
            },
        }

    def _rows(
        self, generator: Generator, images: Images, latents: Latents, trial: Trial, bases: Rows
    ) -> list[Images]:
        move = partial(add, latents[bases], strength=self.strength)
        length = float(np.linalg.norm(trial.direction))
        control = random_directions(len(bases), length, generator.nz, seed=0)
        rows = [
            np.concatenate([images[terms[:SHOWN]], draw(generator, latents[terms].mean(0)[None])])
            for terms in (trial.having, trial.lacking)
        ]
        moved = [draw(generator, move(direction=d)) for d in (trial.direction, control)]
        return [*rows, images[bases], *moved]


@dataclass(frozen=True)
class Concept:
    """One class of one attribute."""

    attribute: str
    index: int

    def __str__(self) -> str:
        for name, index in NAMES.get(self.attribute, {}).items():
            if index == self.index:
                return name
        return f"{self.attribute}:{self.index}"


KNOWN = {
    name: Concept(attribute, index)
    for attribute, names in NAMES.items()
    for name, index in names.items()
}


def parse_concept(text: str) -> Concept:
    """The concept of a name, such as ``glasses``.

    Raises:
        UsageError: unknown; the nearest name is given.
    """
    if text not in KNOWN:
        hint = nearest(text, KNOWN) or f"known: {', '.join(KNOWN)}"
        raise UsageError(f"unknown concept {text!r}; {hint.strip()}")
    return KNOWN[text]


@dataclass(frozen=True, eq=False)
class Pool:
    """Samples, and what the judge sees on them: row i is one sample."""

    latents: Latents
    seen: Probabilities

    def having(self, concept: Concept) -> Rows:
        """Rows that surely have the concept."""
        return np.flatnonzero(self.seen[concept.attribute][:, concept.index] >= SURE)

    def lacking(self, concept: Concept) -> Rows:
        """Rows that surely lack the concept."""
        return np.flatnonzero(self.seen[concept.attribute][:, concept.index] < 1 - SURE)


@dataclass(frozen=True, eq=False)
class Trial:
    """One direction, from ``terms`` samples of each side, and the latents it is added to.

    Attributes:
        having, lacking: rows of the pool that are averaged.
        direction: float32 (nz,).
    """

    having: Rows
    lacking: Rows
    direction: Latents


def plan(
    pool: Pool, concept: Concept, without: Concept | None, terms: int, trials: int, bases: int
) -> tuple[list[Trial], Rows]:
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
    found = []
    for start in range(0, terms * trials, terms):
        chosen = slice(start, start + terms)
        plus, minus = pool.latents[having[chosen]], pool.latents[lacking[chosen]]
        vector = plus.astype(np.float64).mean(0) - minus.astype(np.float64).mean(0)
        found.append(Trial(having[chosen], lacking[chosen], vector.astype(np.float32)))
    return found, lacking[terms * trials :][:bases]


def add(bases: Latents, direction: Latents, strength: float) -> Latents:
    """``bases + strength * direction``, of float32 (n, nz) and (nz,) or (n, nz)."""
    return bases + np.float32(strength) * direction


def random_directions(count: int, length: float, nz: int, seed: int) -> Latents:
    """Evenly distributed directions of one length, the same each time: float32 (count, nz)."""
    drawn = np.random.default_rng(seed).standard_normal((count, nz))
    drawn *= length / np.linalg.norm(drawn, axis=1, keepdims=True)
    return drawn.astype(np.float32)


def measure(
    pool: Pool,
    trials: list[Trial],
    bases: Rows,
    concept: Concept,
    classify: Callable[[Latents], Probabilities],
    move: Callable[[Latents, Latents], Latents],
) -> dict[str, Any]:
    """How often the results have the concept, and what else changes.

    A result has the concept if it is the likeliest class. Another attribute is kept if its
    likeliest class is the base's. The control adds, to each base, a random direction as long
    as the trial's.

    Args:
        bases: rows of the pool.
        classify: what the judge sees on the pictures of latents.
        move: adds a direction to latents: ``add`` with its settings.

    Returns:
        fractions of all results: ``has_concept`` ``before``, ``after`` (and its ``lowest`` and
        ``highest`` trial) and with ``random_direction``; ``kept`` by attribute.
    """
    start = pool.latents[bases]
    before = likeliest({name: seen[bases] for name, seen in pool.seen.items()})
    outcomes: dict[str, list[dict[str, float]]] = {"after": [], "random_direction": []}
    for number, trial in enumerate(trials):
        length = float(np.linalg.norm(trial.direction))
        control = random_directions(len(start), length, start.shape[1], seed=number)
        for name, direction in (("after", trial.direction), ("random_direction", control)):
            now = likeliest(classify(move(start, direction)))
            hit = float((now[concept.attribute] == concept.index).mean())
            outcomes[name].append({**alike(now, before), concept.attribute: hit})
    mean = {
        name: {key: round(float(np.mean([t[key] for t in found])), 3) for key in found[0]}
        for name, found in outcomes.items()
    }
    hits = [trial[concept.attribute] for trial in outcomes["after"]]
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
