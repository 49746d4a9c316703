"""Pictures from a Generator, and their grids."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from handler.latents import from_seeds
from handler.pixels import Images, compose_grid, default_columns, to_uint8
from training.data.decode import DRAWN
from training.files import atomic_path
from training.networks import Generator

Latents = npt.NDArray[np.float32]  # (n, nz)

PADDING_PX = 2
WHITE = (255, 255, 255)


def drawn_here() -> PngInfo:
    """Metadata of a PNG that keeps it from being taken for a picture to train on."""
    info = PngInfo()
    info.add_text("Software", DRAWN)
    return info


@torch.no_grad()
def draw(generator: Generator, latents: Latents) -> Images:
    """Pictures of latents, as the server would answer them.

    Args:
        generator: in eval mode.
        latents: float32 (n, nz), n >= 1.

    Returns:
        uint8 (n, H, W, C).
    """
    device = next(generator.parameters()).device
    parts = [generator(z.to(device)).float().cpu() for z in torch.from_numpy(latents).split(64)]
    return to_uint8(torch.cat(parts).contiguous().numpy())


def generate(generator: Generator, seeds: Sequence[int]) -> Images:
    """Pictures of seeds, the same each time, so that they can be compared: as ``draw``."""
    return draw(generator, from_seeds(seeds, generator.nz))


def tiles(images: Images, columns: int | None = None) -> Images:
    """A white grid, row by row: uint8 (n, H, W, C) -> uint8 (grid H, grid W, C)."""
    return compose_grid(images, columns or default_columns(len(images)), PADDING_PX, WHITE)


def as_image(picture: Images) -> Image.Image:
    """uint8 (H, W, 1 or 3) as a grey or an RGB image."""
    return Image.fromarray(picture.squeeze(-1) if picture.shape[-1] == 1 else picture)


def save_grid(path: Path, images: Images) -> None:
    """Write uint8 (N, H, W, C) as one PNG grid, atomically."""
    with atomic_path(path) as beside:
        as_image(tiles(images)).save(beside, "PNG", pnginfo=drawn_here())
