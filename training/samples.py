"""Pictures from a Generator: the same latents each time, so that grids can be compared."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from handler.latents import from_seeds
from handler.pixels import Images, compose_grid, default_columns, to_uint8
from training.data.decode import DRAWN
from training.files import atomic_path
from training.networks import Generator

WHITE = (255, 255, 255)


def drawn_here() -> PngInfo:
    """Metadata of a PNG that keeps it from being taken for a picture to train on."""
    info = PngInfo()
    info.add_text("Software", DRAWN)
    return info


@torch.no_grad()
def generate(generator: Generator, seeds: range, batch_size: int = 64) -> Images:
    """Images of the given seeds, as the server would answer them.

    Args:
        generator: in eval mode.
        seeds: one an image.

    Returns:
        uint8 (N, H, W, C).
    """
    device = next(generator.parameters()).device
    latents = torch.from_numpy(from_seeds(seeds, generator.nz))
    batches = [generator(part.to(device)).float().cpu() for part in latents.split(batch_size)]
    return to_uint8(np.ascontiguousarray(torch.cat(batches).numpy()))


def save_grid(path: Path, images: Images, columns: int | None = None) -> None:
    """Write uint8 (N, H, W, C) as one PNG grid, atomically."""
    grid = compose_grid(images, columns or default_columns(len(images)), 2, WHITE)
    with atomic_path(path) as beside:
        picture = Image.fromarray(grid.squeeze(-1) if grid.shape[-1] == 1 else grid)
        picture.save(beside, "PNG", pnginfo=drawn_here())
