"""What is measured of a run at each grid of samples."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from training.data.batches import Split, to_pictures
from training.data.pictures import Pictures
from training.ema import recalibrate
from training.health import overfitting
from training.metrics import pairwise_diversity
from training.samples import generate, save_grid
from training.sliced import sliced_wasserstein_by_scale
from training.step import Trainer

PREVIEW_CALIBRATION = 512  # images that measure BatchNorm's statistics for a preview
PREVIEW_SEEDS = range(64)
DISTANCE_SEEDS = range(128)  # images compared with as many real ones
DIVERSITY_PICTURES = 256


class Checks:
    """Compares a run's samples and its Discriminator's opinions with its pictures.

    The same latents and the same pictures, chosen by the run's seed, each time: what differs
    between two checks is the networks alone.

    Args:
        pictures: all of the run.
        split: which of them it trains on.
        trainer: the run's networks.
    """

    def __init__(self, pictures: Pictures, split: Split, trainer: Trainer) -> None:
        self.images, self.held_out, self.trainer = pictures.images, split.held_out, trainer
        rng = np.random.default_rng(trainer.config.seed)
        self.trained_on = rng.permutation(split.train)
        self.real_diversity = pairwise_diversity(
            self.images[np.sort(self.trained_on[:DIVERSITY_PICTURES])]
        )

    def look_at_samples(self, path: Path) -> tuple[float, float]:
        """Write the grid of samples.

        Returns:
            diversity: of its tiles (``metrics.pairwise_diversity``).
            distance: mean over the scales of the sliced Wasserstein distance between samples and
                real pictures, times 1000: finer textures, edges and shapes, but neither
                composition nor copies count in it.
        """
        generator = recalibrate(self.trainer.ema.generator, PREVIEW_CALIBRATION)
        images = generate(generator, DISTANCE_SEEDS)
        tiles = images[: len(PREVIEW_SEEDS)]
        save_grid(path, tiles)
        real = self.images[np.sort(self.trained_on[: len(images)])]
        distances = sliced_wasserstein_by_scale(images[: len(real)], real)
        return pairwise_diversity(tiles), float(np.mean(list(distances.values())))

    def overfitting(self, step: int) -> float | None:
        """How far D knows its pictures by heart, see ``health.overfitting``; all processes.

        Known and unknown pictures share batches, so that BatchNorm treats them alike.
        """
        known: list[float] = []
        unknown: list[float] = []
        generated: list[float] = []
        size = self.trainer.config.batch_size
        for start in range(0, len(self.held_out), size // 2):
            unseen = self.held_out[start : start + size // 2]
            seen = self.trained_on[start : start + size - len(unseen)]
            real = to_pictures(self.images[np.append(unseen, seen)], self.trainer.device)
            on_real, on_fake = (outputs.tolist() for outputs in self.trainer.outputs(real, step))
            unknown += on_real[: len(unseen)]
            known += on_real[len(unseen) :]
            generated += on_fake
        return overfitting(known, unknown, generated) if unknown else None
