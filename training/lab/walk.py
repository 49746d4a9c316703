"""Walking in the latent space (paper, section 6.1): small steps of z, small steps of G(z).

A Generator that had learned its training pictures by heart would jump from one to the next.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from handler.latents import MAX_SEED, Method, from_seeds, walk
from handler.pixels import Images
from training.lab.canvas import Latents, draw, save_gif, save_png, tiles
from training.lab.usage import UsageError, check_least, check_out
from training.weights import load_generator


@dataclass(frozen=True)
class WalkConfig:
    """Walk from seed to seed: a grid (.png, one row a leg) or a closed round (.gif)."""

    weights: Path = Path("model_store/generator.safetensors")
    """generator.safetensors of a run."""
    out: Path = Path("runs/plots/walk.png")
    """.png or .gif."""
    seeds: tuple[int, ...] = (1, 2, 3, 4, 5)
    """Two or more; the walk visits them in this order."""
    steps: int = 10
    """Pictures from one seed to the next, both included."""
    method: Method = "slerp"
    """slerp keeps the length of the latents; linear is the paper's."""
    frame_ms: int = 80
    """GIF: how long a picture is shown."""
    colours: int = 0
    """Colours in the file, 2 to 256; 0 keeps all, or 256 in a GIF."""

    def run(self) -> dict[str, Any]:
        """Write the picture; returns how even the steps are.

        ``largest_step`` and ``mean_step`` are mean absolute differences between neighbours on
        the path in grey levels, ``ends`` those between the two ends of a leg.

        Raises:
            UsageError: a setting is out of range.
            WeightsError, FileNotFoundError: the weights cannot be read.
        """
        check_out(self.out, ".png", ".gif")
        check_least(steps=(self.steps, 2))
        if len(self.seeds) < 2 or any(not 0 <= seed <= MAX_SEED for seed in self.seeds):
            raise UsageError(
                f"--seeds are {self.seeds}; give two or more whole numbers, 0 to {MAX_SEED}"
            )
        generator, _ = load_generator(self.weights)
        moving = self.out.suffix.lower() == ".gif"
        seeds = (*self.seeds, self.seeds[0]) if moving else self.seeds
        legs = walk_legs(from_seeds(seeds, generator.nz), self.steps, self.method)
        images = draw(generator, legs.reshape(-1, generator.nz))
        by_leg = images.reshape(len(legs), self.steps, *images.shape[1:])
        if moving:
            frames = by_leg[:, :-1].reshape(-1, *images.shape[1:])  # each seed once
            save_gif(self.out, list(frames), self.frame_ms, self.colours, hold=False)
        else:
            save_png(self.out, tiles(images, self.steps), self.colours)
        return {
            "out": str(self.out),
            "seeds": self.seeds,
            "method": self.method,
            **steps_of(by_leg),
        }


def walk_legs(keys: Latents, steps: int, method: Method) -> Latents:
    """One leg between each two neighbours: float32 (m, nz) -> (m - 1, steps, nz)."""
    return np.stack([walk(np.stack(ends), steps, method) for ends in pairwise(keys)])


def steps_of(legs: Images) -> dict[str, float]:
    """How far the pictures move: uint8 (legs, steps, H, W, C) -> grey levels."""
    signed = legs.astype(np.int16)
    moves = np.abs(np.diff(signed, axis=1)).mean(axis=(2, 3, 4))
    ends = np.abs(signed[:, -1] - signed[:, 0]).mean()
    return {
        "mean_step": round(float(moves.mean()), 2),
        "largest_step": round(float(moves.max()), 2),
        "ends": round(float(ends), 2),
    }
