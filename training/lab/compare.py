"""Real pictures beside generated ones, as many of each, none chosen by hand."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from handler.pixels import default_columns
from training.lab.canvas import save_png, side_by_side, tiles
from training.lab.reals import training_pictures
from training.lab.usage import UsageError, check_least, check_out
from training.samples import generate
from training.weights import load_generator


@dataclass(frozen=True)
class CompareConfig:
    """Real pictures on the left, samples of seeds 0, 1, ... on the right."""

    weights: Path = Path("model_store/generator.safetensors")
    """generator.safetensors of a run."""
    out: Path = Path("runs/plots/compare.png")
    """.png."""
    data: str | None = None
    """What the real pictures are, as for training; what the weights say when omitted."""
    data_root: Path = Path("data")
    """Where torchvision's named data sets lie."""
    cache: Path | None = Path("data/cache")
    """Decoded pictures are kept here, by training too; None decodes each time."""
    count: int = 64
    """Pictures of each."""
    seed: int = 0
    """Chooses the real pictures."""
    colours: int = 0
    """Colours in the file, 2 to 256; 0 keeps all."""

    def run(self) -> dict[str, Any]:
        """Write the picture; returns what is on it.

        Raises:
            UsageError: a setting is out of range, or there are too few real pictures.
            DataError: the real pictures cannot be read.
            WeightsError, FileNotFoundError: the weights cannot be read.
        """
        check_out(self.out, ".png")
        check_least(count=(self.count, 1), seed=(self.seed, 0))
        generator, info = load_generator(self.weights)
        real = training_pictures(info, self.weights, self.data, self.data_root, self.cache)
        found = len(real.images)
        if found < self.count:
            raise UsageError(f"{real.source} has {found} pictures; lower --count to that")
        chosen = np.random.default_rng(self.seed).choice(found, self.count, replace=False)
        columns = default_columns(self.count)
        made = generate(generator, range(self.count))
        save_png(
            self.out,
            side_by_side(tiles(real.images[chosen], columns), tiles(made, columns)),
            self.colours,
        )
        return {
            "out": str(self.out),
            "left": f"{self.count} of {real.source}",
            "right": "generated",
        }
