"""Real pictures beside generated ones, as many of each, none chosen by hand."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from handler.images import Images, default_columns
from training.data import load
from training.data.avatars import load_avatars
from training.samples import generate
from training.seeing.canvas import (
    SeeingError,
    check_least,
    check_out,
    save_png,
    side_by_side,
    tiles,
)
from training.weights import WeightsInfo, load_generator


@dataclass(frozen=True)
class CompareConfig:
    """Real pictures on the left, samples of seeds 0, 1, ... on the right."""

    weights: Path = Path("model_store/generator.safetensors")
    """generator.safetensors of a run."""
    out: Path = Path("runs/seeing/compare.png")
    """.png."""
    data: str | None = None
    """What the real pictures are, as for training; what the weights say when omitted."""
    data_root: Path = Path("data")
    """Where torchvision's named data sets lie."""
    count: int = 64
    """Pictures of each."""
    seed: int = 0
    """Chooses the real pictures."""
    colours: int = 0
    """Colours in the file, 2 to 256; 0 keeps all."""

    def run(self) -> dict[str, Any]:
        """Write the picture; returns what is on it.

        Raises:
            SeeingError: a setting is out of range, or there are too few real pictures.
            DataError: the real pictures cannot be read.
            WeightsError, FileNotFoundError: the weights cannot be read.
        """
        check_out(self.out, ".png")
        check_least(count=(self.count, 1), seed=(self.seed, 0))
        generator, info = load_generator(self.weights)
        pictures, source = self._real(info)
        if len(pictures) < self.count:
            raise SeeingError(f"{source} has {len(pictures)} pictures; lower --count to that")
        chosen = np.random.default_rng(self.seed).choice(len(pictures), self.count, replace=False)
        columns = default_columns(self.count)
        made = generate(generator, range(self.count))
        save_png(
            self.out,
            side_by_side(tiles(pictures[chosen], columns), tiles(made, columns)),
            self.colours,
        )
        return {"out": str(self.out), "left": f"{self.count} of {source}", "right": "generated"}

    def _real(self, info: WeightsInfo) -> tuple[Images, str]:
        made = info.provenance
        data = self.data or made.get("data")
        if not isinstance(data, str):
            raise SeeingError(f"{self.weights} does not say what it was trained on; give --data")
        background = made.get("background", "#ffffff")
        if data == "avatars" and info.channels == 3 and "pictures" in made:
            pictures = load_avatars(
                info.image_size, background, int(made["seed"]), int(made["pictures"])
            )
        else:
            pictures = load(
                data, data_root=self.data_root, image_size=info.image_size,
                channels="1" if info.channels == 1 else "3", background=background,
                seed=int(made.get("seed", 0)), workers=2, batch_size=1,
            )  # fmt: skip
        return pictures.images, pictures.source
