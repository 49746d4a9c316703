"""``python -m training evaluate``: how good the samples are, in numbers that say what they are.

Offline by default: the features are those of a classifier of the avatars, and what is measured
in them is called by its formula. FID and KID are only what torch-fidelity's Inception gives.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from training.files import atomic_path
from training.lab.table import markdown, read_result
from training.lab.usage import check_least, check_out
from training.samples import generate
from training.weights import load_generator

LEAST = 8  # samples, so that each metric is defined


@dataclass(frozen=True)
class EvaluateConfig:
    """Measure samples: distances to real pictures, diversity, copies of training pictures.

    Prints one JSON object, and a table to stderr. What needs labels or weights that are not
    there is left out, and said so.
    """

    weights: Path = Path("model_store/generator.safetensors")
    """generator.safetensors of a run."""
    samples: int = 2000
    """Generated pictures, of seeds 0, 1, ..., and at most as many real ones."""
    data: str | None = None
    """What the training pictures are, as for training; what the weights say when omitted."""
    data_root: Path = Path("data")
    """Where torchvision's named data sets lie."""
    cache: Path | None = Path("data/cache")
    """Decoded pictures are kept here, by training too; None decodes each time."""
    held_out: str | None = None
    """Real pictures that were not trained on, a folder or zip. New avatars, or part of the
    training pictures, when omitted."""
    classifier: Path | None = None
    """The judge of avatars; trained and kept here if there is none. The shipped one, or one in
    runs/judges/, when omitted."""
    inception_weights: Path | None = None
    """File of torch-fidelity's Inception weights, for FID and KID."""
    download: bool = False
    """Let torch-fidelity download these weights (96 MB), if no file is given."""
    beside: Path | None = None
    """An earlier result (JSON of this command), shown beside this one in the table."""
    markdown: Path | None = None
    """.md: write the table here, and not to stderr."""

    def run(self) -> dict[str, Any]:
        """Measure; returns all numbers, each with what it is.

        Raises:
            UsageError: a setting is out of range, or something given cannot be used.
            DataError: real pictures cannot be read.
            WeightsError, FileNotFoundError: the weights cannot be read.
        """
        check_least(samples=(self.samples, LEAST))
        if self.markdown is not None:
            check_out(self.markdown, ".md")
        earlier = read_result(self.beside) if self.beside is not None else None
        generator, info = load_generator(self.weights)
        from training.lab.measure import measure  # torchvision: seconds for all commands

        result = measure(self, generate(generator, range(self.samples)), info)
        table = markdown(result, earlier)
        if self.markdown is None:
            print(table, file=sys.stderr)
        else:
            with atomic_path(self.markdown) as beside:
                beside.write_text(table + "\n", encoding="utf-8")
        return result
