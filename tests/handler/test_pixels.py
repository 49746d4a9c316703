"""Pixels and the grid."""

import numpy as np
import pytest
import torch

from handler.backends.base import to_pixels
from handler.pixels import compose_grid, default_columns, grey_levels, grid_size, to_uint8


@pytest.mark.parametrize(
    ("value", "level"),
    [
        (-1.0, 0),
        (1.0, 255),
        (0.0, 128),  # 127.5, half to even
        (-2.0, 0),
        (2.0, 255),
        (-1 / 255, 127),
        (1 / 255, 128),
    ],
)
def test_levels(value: float, level: int) -> None:
    assert to_uint8(np.full((1, 1, 1, 1), value, np.float32)).item() == level


def test_tensors_and_arrays_have_the_same_rule() -> None:
    edges = (np.arange(-10, 266) + 0.5) / 127.5 - 1
    near = np.nextafter(edges.astype(np.float32), np.float32(9))
    values = np.concatenate([edges, near, np.random.default_rng(0).uniform(-1.1, 1.1, 5448)])
    pictures = values.astype(np.float32).reshape(2, 3, 10, 100)
    before = pictures.copy()
    pixels = to_pixels(torch.from_numpy(pictures))
    assert pixels.is_contiguous()
    assert to_uint8(pictures).flags.c_contiguous
    assert np.array_equal(pixels.numpy(), to_uint8(pictures))
    assert np.array_equal(pictures, before)  # what was given is left alone
    assert grey_levels(pictures, out=pictures) is pictures  # but where it is to be the result
    assert np.array_equal(pictures.transpose(0, 2, 3, 1), pixels.numpy())


@pytest.mark.parametrize(("count", "columns"), [(1, 1), (2, 2), (4, 2), (5, 3), (9, 3), (256, 16)])
def test_the_squarest_grid(count: int, columns: int) -> None:
    assert default_columns(count) == columns


def test_a_grid_by_hand() -> None:
    images = np.array([10, 20, 30], np.uint8).reshape(3, 1, 1, 1)
    grid = compose_grid(images, 2, 1, (0, 0, 3))
    assert grid[:, :, 0].tolist() == [
        [1, 1, 1, 1, 1],
        [1, 10, 1, 20, 1],
        [1, 1, 1, 1, 1],
        [1, 30, 1, 1, 1],
        [1, 1, 1, 1, 1],
    ]


def test_background_and_size_in_colour() -> None:
    grid = compose_grid(np.zeros((3, 4, 6, 3), np.uint8), 2, 2, (1, 2, 3))
    assert grid.shape == (*grid_size(3, 2, 2, (4, 6)), 3) == (14, 18, 3)
    assert grid[0, 0].tolist() == [1, 2, 3]
    assert grid[8:12, 10:16].reshape(-1, 3).tolist() == [[1, 2, 3]] * 24  # the empty cell


def test_a_single_image_without_padding_is_itself() -> None:
    image = np.arange(27, dtype=np.uint8).reshape(1, 3, 3, 3)
    assert np.array_equal(compose_grid(image, 8, 0, (255, 255, 255)), image[0])
