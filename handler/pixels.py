"""Pixels: the one rule from [-1, 1] to grey levels, and the grid that holds the tiles."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from torch import Tensor

Images = npt.NDArray[np.uint8]  # (N, H, W, C), C = 1 (grey) or 3 (RGB)

Floats = TypeVar("Floats", npt.NDArray[np.float32], "Tensor")


def grey_levels(values: Floats, out: Floats | None = None) -> Floats:
    """The rule: -1 -> 0, 1 -> 255, rounded half to even, clipped; the same bits from both kinds.

    Args:
        values: float32 of any shape, nominally in [-1, 1]: an array, or a tensor on any device.
        out: what the result goes into, ``values`` itself for one; new memory when left out.

    Returns:
        whole numbers 0 to 255, float32.
    """
    if isinstance(values, np.ndarray):
        library: Any = np
    else:
        import torch as library
    levels: Floats = library.multiply(values, 127.5, out=out)
    levels += 127.5
    library.round(levels, out=levels)
    library.clip(levels, 0, 255, out=levels)
    return levels


def to_uint8(pictures: npt.NDArray[np.float32]) -> Images:
    """Generator output to pixels, by the rule of ``grey_levels``.

    Args:
        pictures: float32 (N, C, H, W), nominally in [-1, 1].

    Returns:
        uint8 (N, H, W, C), C-contiguous.
    """
    levels = grey_levels(pictures)
    count, channels, height, width = pictures.shape
    pixels = np.empty((count, height, width, channels), np.uint8)
    for channel in range(channels):  # five times as fast as one transposed copy
        pixels[..., channel] = levels[:, channel]
    return pixels


def default_columns(count: int) -> int:
    """Columns of the squarest grid: ceil(sqrt(count))."""
    return math.isqrt(count - 1) + 1


def grid_size(count: int, columns: int, padding: int, tile_px: tuple[int, int]) -> tuple[int, int]:
    """Height and width in px of a grid: tiles, and padding between them and around."""
    rows = -(-count // columns)
    height, width = tile_px
    return rows * (height + padding) + padding, columns * (width + padding) + padding


def compose_grid(
    images: Images, columns: int, padding: int, background: tuple[int, int, int]
) -> Images:
    """Lay tiles out row by row.

    Args:
        images: uint8 (N, H, W, C), N >= 1.
        columns: tiles in a row, >= 1; never more columns than tiles are drawn.
        padding: px between tiles and around the grid.
        background: RGB of padding and empty cells; its mean for grey images.

    Returns:
        uint8 (grid height, grid width, C), C-contiguous; the tile itself where it is the grid.
    """
    count, height, width, channels = images.shape
    if count == 1 and padding == 0:
        return np.ascontiguousarray(images[0])
    columns = min(columns, count)
    grid_height, grid_width = grid_size(count, columns, padding, (height, width))
    fill = background if channels == 3 else (round(sum(background) / 3),)
    grid = np.empty((grid_height, grid_width, channels), np.uint8)
    grid.reshape(grid_height, -1)[:] = np.tile(np.array(fill, np.uint8), grid_width)  # row by row
    rows, inner = -(-count // columns), grid[padding:, padding:]
    cells = inner.reshape(rows, height + padding, columns, width + padding, channels)
    tiles = cells[:, :height, :, :width].swapaxes(1, 2)  # (rows, columns, H, W, C), a view
    full = count // columns
    tiles[:full] = images[: full * columns].reshape(full, columns, height, width, channels)
    if full < rows:
        tiles[full, : count - full * columns] = images[full * columns :]
    return grid
