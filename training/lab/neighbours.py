"""Samples beside the training pictures nearest to them: are they copies?"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from training.lab.canvas import save_png, side_by_side, tiles
from training.lab.judge import has_labels, judge_of
from training.lab.memorisation import examine
from training.lab.reals import load_reals
from training.lab.usage import check_least, check_out
from training.samples import generate
from training.weights import load_generator


@dataclass(frozen=True)
class NeighboursConfig:
    """The samples that are most like one training picture, and their nearest training pictures.

    One row a sample: the sample, its neighbours in pixels, and, for avatars, its neighbours in
    features of the classifier. Prints what the tests for copies say of all samples.
    """

    weights: Path = Path("model_store/generator.safetensors")
    """generator.safetensors of a run."""
    out: Path = Path("runs/plots/neighbours.png")
    """.png."""
    samples: int = 1000
    """Samples that are searched, of seeds 0, 1, ..."""
    shown: int = 8
    """Samples on the picture: those nearest to one training picture, by either measure."""
    nearest: int = 4
    """Training pictures beside each."""
    data: str | None = None
    """What the training pictures are, as for training; what the weights say when omitted."""
    data_root: Path = Path("data")
    """Where torchvision's named data sets lie."""
    cache: Path | None = Path("data/cache")
    """Decoded pictures are kept here, by training too; None decodes each time."""
    held_out: str | None = None
    """Real pictures that were not trained on, a folder or zip, to know what is usual."""
    classifier: Path | None = None
    """The judge of avatars, whose features are used; the shipped one when omitted."""
    colours: int = 0
    """Colours in the file, 2 to 256; 0 keeps all."""

    def run(self) -> dict[str, Any]:
        """Write the picture; returns the verdict and its numbers.

        Raises:
            UsageError: a setting is out of range, or what the pictures are is unknown.
            DataError: real pictures cannot be read.
            WeightsError, FileNotFoundError: the weights cannot be read.
        """
        from training.lab.features import judge_extractor  # torchvision: takes seconds

        check_out(self.out, ".png")
        check_least(samples=(self.samples, 2), shown=(self.shown, 1), nearest=(self.nearest, 1))
        generator, info = load_generator(self.weights)
        labelled = has_labels(info) and self.data in (None, "avatars")
        judge = judge_of(self.classifier, info, self.weights) if labelled else None
        reals = load_reals(
            info, self.weights, self.data, self.data_root, self.cache, self.held_out, self.samples,
            judge.origin if judge else None,
        )  # fmt: skip
        samples = generate(generator, range(self.samples))
        extract = judge_extractor(judge, info.image_size).extract if judge else None
        near, report = examine(samples, reals, extract, self.samples)
        found = {name: of_samples for name, (of_samples, _) in near.items()}
        suspicion = np.min([nearness.relative for nearness in found.values()], axis=0)
        shown = np.argsort(suspicion, kind="stable")[: self.shown]
        picture = tiles(samples[shown], 1)
        for nearness in found.values():
            index = nearness.index[shown, : self.nearest]
            shape = (-1, *samples.shape[1:])
            neighbours = reals.trained_on[index.ravel()].reshape(shape)
            picture = side_by_side(picture, tiles(neighbours, index.shape[1]))
        save_png(self.out, picture, self.colours)
        return {
            "out": str(self.out),
            "columns": ["sample", *found],
            "seeds": shown.tolist(),
        } | report
