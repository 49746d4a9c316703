"""Pictures larger than the Generator was trained for, from a map of latents.

The Generator has no fully connected layer, so a map (nz, h, w) in the place of one latent is a
larger picture; soumith/dcgan.torch does so under the name ``imsize``. One latent starts a 4 x 4
block of the first feature maps, so latents ``spacing`` = 4 apart in the map start blocks side by
side, which is what the Generator was trained on; below 4 the blocks overlap and add up.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from handler.latents import MAX_SEED, from_seeds, walk
from handler.pixels import Images, to_uint8
from training.lab.canvas import MAX_PX, Latents, save_png
from training.lab.usage import UsageError, check_least, check_out
from training.networks import Generator
from training.weights import load_generator

START_PX = 4  # height and width of the first feature maps of one latent


@dataclass(frozen=True)
class EnlargeConfig:
    """One large picture whose latents blend from corner to corner."""

    weights: Path = Path("model_store/generator.safetensors")
    """generator.safetensors of a run."""
    out: Path = Path("runs/plots/enlarge.png")
    """.png."""
    seeds: tuple[int, int, int, int] = (7, 26, 6, 37)
    """Top left, top right, bottom left, bottom right."""
    rows: int = 6
    """Latents from top to bottom."""
    columns: int = 6
    """Latents from left to right."""
    spacing: Literal[1, 2, 3, 4] = 4
    """Distance of latents in the map; 4 is side by side, less overlaps."""
    colours: int = 0
    """Colours in the file, 2 to 256; 0 keeps all."""

    def run(self) -> dict[str, Any]:
        """Write the picture; returns its size and that of the map.

        Raises:
            UsageError: a setting is out of range.
            WeightsError, FileNotFoundError: the weights cannot be read.
        """
        check_out(self.out, ".png")
        check_least(rows=(self.rows, 2), columns=(self.columns, 2))
        if any(not 0 <= seed <= MAX_SEED for seed in self.seeds):
            raise UsageError(f"--seeds are {self.seeds}; give whole numbers, 0 to {MAX_SEED}")
        generator, _ = load_generator(self.weights)
        scale = generator.image_size // START_PX
        height, width = (
            ((count - 1) * self.spacing + START_PX) * scale for count in (self.rows, self.columns)
        )
        if max(height, width) > MAX_PX:
            raise UsageError(
                f"the picture would be {width} x {height} px, {MAX_PX} is the most; lower --rows, "
                "--columns or --spacing"
            )
        corners = from_seeds(self.seeds, generator.nz)
        latents = latent_map(blend(corners, self.rows, self.columns), self.spacing)
        picture = large_picture(generator, latents)
        save_png(self.out, picture, self.colours)
        return {
            "out": str(self.out),
            "latent_map": latents.shape,
            "picture_px": {"width": picture.shape[1], "height": picture.shape[0]},
        }


def blend(corners: Latents, rows: int, columns: int) -> Latents:
    """Latents between four corners, slerp along the sides and then across.

    Args:
        corners: float32 (4, nz): top left, top right, bottom left, bottom right.

    Returns:
        float32 (rows, columns, nz).
    """
    left = walk(corners[[0, 2]], rows, "slerp")
    right = walk(corners[[1, 3]], rows, "slerp")
    across = [walk(np.stack(ends), columns, "slerp") for ends in zip(left, right, strict=True)]
    return np.stack(across)


def latent_map(latents: Latents, spacing: int) -> Latents:
    """Spread latents over a map, zeros between them.

    Args:
        latents: float32 (rows, columns, nz).

    Returns:
        float32 (nz, (rows - 1) * spacing + 1, (columns - 1) * spacing + 1).
    """
    rows, columns, nz = latents.shape
    spread = np.zeros((nz, (rows - 1) * spacing + 1, (columns - 1) * spacing + 1), np.float32)
    spread[:, ::spacing, ::spacing] = latents.transpose(2, 0, 1)
    return spread


@torch.no_grad()
def large_picture(generator: Generator, latents: Latents) -> Images:
    """A map float32 (nz, h, w) -> uint8 ((h + 3) * image_size / 4, (w + 3) * ..., C)."""
    picture: Images = to_uint8(generator.layers(torch.from_numpy(latents)[None]).numpy())[0]
    return picture
