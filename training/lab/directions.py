"""What the Generator does with its latent: the directions that change most, and how many count.

The first layer is linear in the latent, so the directions to which it answers most strongly are
eigenvectors of its weights (Shen and Zhou, arXiv:2007.06600, section 3.1); BatchNorm after it,
which is a fixed scale in a trained network, is part of these weights here.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from handler.latents import MAX_SEED, from_seeds
from training.lab.canvas import Latents, draw, rows_of, save_png
from training.lab.usage import UsageError, check_least, check_out
from training.networks import Generator
from training.weights import load_generator


@dataclass(frozen=True)
class DirectionsConfig:
    """One row a direction of the latent: the same picture, moved along it from - to +."""

    weights: Path = Path("model_store/generator.safetensors")
    """generator.safetensors of a run."""
    out: Path = Path("runs/plots/directions.png")
    """.png."""
    seed: int = 0
    """Seed of the latent in the middle column."""
    directions: int = 8
    """The strongest so many, and one row more: a random direction."""
    steps: int = 9
    """Pictures in a row."""
    reach: float = 4.0
    """Distance of the first and the last picture from the middle one, as latents have it."""
    colours: int = 0
    """Colours in the file, 2 to 256; 0 keeps all."""

    def run(self) -> dict[str, Any]:
        """Write the picture; returns how strong the directions are.

        ``effective_dimensions`` is the participation ratio (sum e)^2 / sum e^2 of the strengths
        e: nz if all directions count the same, 1 if only one does. ``pixel_change`` is the
        mean absolute change of pictures, in grey levels, for a step of length 1 along each
        direction, over 64 latents.

        Raises:
            UsageError: a setting is out of range.
            WeightsError, FileNotFoundError: the weights cannot be read.
        """
        check_out(self.out, ".png")
        check_least(directions=(self.directions, 1), steps=(self.steps, 2))
        if not 0 <= self.seed <= MAX_SEED:
            raise UsageError(f"--seed is {self.seed}; give 0 to {MAX_SEED}")
        generator, _ = load_generator(self.weights)
        strengths, vectors = strongest_directions(generator)
        count = min(self.directions, generator.nz)
        shown = np.concatenate([vectors[:count], random_direction(generator.nz)[None]])
        places = np.linspace(-self.reach, self.reach, self.steps, dtype=np.float32)[:, None]
        middle = from_seeds([self.seed], generator.nz)
        save_png(
            self.out, rows_of([draw(generator, middle + places * d) for d in shown]), self.colours
        )
        changes = [pixel_change(generator, direction) for direction in shown]
        return {
            "out": str(self.out),
            "seed": self.seed,
            "nz": generator.nz,
            "effective_dimensions": round(float(strengths.sum() ** 2 / (strengths**2).sum()), 1),
            "share_of_strength": [round(float(s / strengths.sum()), 4) for s in strengths[:count]],
            "pixel_change": {"directions": changes[:-1], "random": changes[-1]},
        }


def strongest_directions(generator: Generator) -> tuple[npt.NDArray[np.float64], Latents]:
    """Unit vectors by how much the first layer answers to them, the strongest first.

    Returns:
        squared lengths of the answers, float64 (nz,), and the directions, float32 (nz, nz).
    """
    projection = next(m for m in generator.layers if isinstance(m, torch.nn.ConvTranspose2d))
    norm = next(m for m in generator.layers if isinstance(m, torch.nn.BatchNorm2d))
    variance = torch.ones(1) if norm.running_var is None else norm.running_var
    scale = norm.weight.detach() / torch.sqrt(variance + norm.eps)
    weights = (projection.weight.detach() * scale[:, None, None]).double()  # (nz, maps, 4, 4)
    flat = weights.flatten(1).numpy()
    values, vectors = np.linalg.eigh(flat @ flat.T)
    return values[::-1], np.ascontiguousarray(vectors[:, ::-1].T, dtype=np.float32)


def random_direction(nz: int) -> Latents:
    """A unit vector, the same each time: float32 (nz,)."""
    drawn = np.random.default_rng(0).standard_normal(nz)
    return (drawn / np.linalg.norm(drawn)).astype(np.float32)


def pixel_change(generator: Generator, direction: Latents) -> float:
    """Mean absolute change in grey levels for a step of length 1, over the seeds 0 to 63."""
    start = from_seeds(range(64), generator.nz)
    before, after = (draw(generator, z).astype(np.int16) for z in (start, start + direction))
    return round(float(np.abs(after - before).mean()), 2)
