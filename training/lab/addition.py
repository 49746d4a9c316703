"""The command around the vector arithmetic: samples in, one picture and its numbers out."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from handler.latents import from_seeds
from handler.pixels import Images
from training.lab.arithmetic import Pool, Trial, add, measure, plan, random_directions
from training.lab.canvas import Latents, draw, rows_of, save_png
from training.lab.classifier import classify
from training.lab.concepts import parse_concept
from training.lab.judge import judge_of
from training.lab.usage import check_least, check_out
from training.networks import Generator
from training.weights import load_generator


@dataclass(frozen=True)
class ArithmeticConfig:
    """Give samples what others have: latents with it, minus latents without, plus theirs.

    Rows of the picture: the averaged samples with the concept and, last, the picture of their
    mean; the same without; bases; bases plus the difference; bases plus a random direction of
    the same length.
    """

    concept: str = "glasses"
    """What to add: a name such as glasses, blue-scarf, black-hat, or attribute:number."""
    without: str | None = None
    """What the subtracted samples and the bases have instead, of the same kind; anything else
    when omitted."""
    weights: Path = Path("model_store/generator.safetensors")
    """generator.safetensors of a run on the avatars."""
    classifier: Path | None = None
    """The judge; trained on avatars and kept here if there is none. The shipped one when omitted,
    or one in runs/judges/ for avatars of another size or background."""
    out: Path = Path("runs/plots/arithmetic.png")
    """.png."""
    samples: int = 2000
    """Samples, of seeds 0, 1, ..., among which terms and bases are looked for."""
    terms: int = 3
    """Latents averaged on each side; the paper has 3."""
    trials: int = 10
    """Directions, each from other samples, that the numbers are over; the first one is drawn."""
    bases: int = 200
    """Samples that each direction is added to."""
    strength: float = 1.0
    """Factor of the direction."""
    keep_length: bool = False
    """Scale each sum to the length of its base."""
    shown: int = 8
    """Bases on the picture."""
    colours: int = 0
    """Colours in the file, 2 to 256; 0 keeps all."""

    def run(self) -> dict[str, Any]:
        """Write the picture; returns the numbers of ``arithmetic.measure`` and their origin.

        Raises:
            UsageError: a setting is out of range, or too few samples have the concept.
            WeightsError, FileNotFoundError: the weights cannot be read.
        """
        check_out(self.out, ".png")
        check_least(
            samples=(self.samples, 2), terms=(self.terms, 1), trials=(self.trials, 1),
            bases=(self.bases, 1), shown=(self.shown, 1),
        )  # fmt: skip
        generator, info = load_generator(self.weights)
        judge = judge_of(self.classifier, info, self.weights)
        concept = parse_concept(self.concept, judge.classes)
        without = parse_concept(self.without, judge.classes) if self.without else None
        latents = from_seeds(range(self.samples), generator.nz)
        images = draw(generator, latents)
        pool = Pool(latents, classify(judge.classifier, images))
        trials, bases = plan(pool, concept, without, self.terms, self.trials, self.bases)
        numbers = measure(
            pool, trials, bases, concept, partial(draw, generator),
            partial(classify, judge.classifier), self.strength, keep_length=self.keep_length,
        )  # fmt: skip
        rows = self._rows(generator, images, latents, trials[0], bases[: self.shown])
        save_png(self.out, rows_of(rows), self.colours)
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
            "keep_length": self.keep_length,
            **numbers,
            "judge_accuracy_on_unseen_real": judge.accuracy,
            "seeds_on_the_picture": {
                "with": trials[0].having.tolist(),
                "without": trials[0].lacking.tolist(),
                "bases": bases[: self.shown].tolist(),
            },
        }

    def _rows(
        self, generator: Generator, images: Images, latents: Latents, trial: Trial,
        bases: np.ndarray[Any, np.dtype[np.intp]],
    ) -> list[Images]:  # fmt: skip
        move = partial(add, latents[bases], strength=self.strength, keep_length=self.keep_length)
        length = float(np.linalg.norm(trial.direction))
        control = random_directions(len(bases), length, generator.nz, seed=0)
        rows = [
            np.concatenate(
                [images[terms[: self.shown]], draw(generator, latents[terms].mean(0)[None])]
            )
            for terms in (trial.having, trial.lacking)
        ]
        moved = [draw(generator, move(direction=d)) for d in (trial.direction, control)]
        return [*rows, images[bases], *moved]
