"""Pixels: the one rule from [-1, 1] to grey levels, and the grid that holds the tiles."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

Images = npt.NDArray[np.uint8]  # (N, H, W, C), C = 1 (grey) or 3 (RGB)


def to_uint8(pictures: npt.NDArray[np.float32]) -> Images:
    """Generator output to pixels: -1 -> 0, 1 -> 255, rounded half to even, clipped.

    Args:
        pictures: float32 (N, C, H, W), nominally in [-1, 1].

    Returns:
        uint8 (N, H, W, C), C-contiguous.
    """
    levels = np.clip(np.rint(pictures * np.float32(127.5) + np.float32(127.5)), 0, 255)
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
    for i in range(count):
        top = padding + i // columns * (height + padding)
        left = padding + i % columns * (width + padding)
        grid[top : top + height, left : left + width] = images[i]
    return grid
