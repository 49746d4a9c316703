"""What the requests of a load test ask for."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import numpy as np

Kind = Literal["image", "grid", "mix"]
GRID_IMAGES = 64
_STEP = 2 * GRID_IMAGES  # apart, so that no image of one request is in another


def bodies(kind: Kind, grid_share: float, seed: int) -> Iterator[bytes]:
    """JSON bodies without end, each with a seed of its own, so that no cache can answer.

    Args:
        kind: one image, a grid of 64, or a mix of both.
        grid_share: part of a mix that is grids, 0..1.
        seed: 0..2^32-1; the same gives the same bodies.
    """
    random = np.random.default_rng(seed)
    image_seed = int(random.integers(2**52))
    while True:
        image_seed += _STEP
        grid = kind == "grid" or (kind == "mix" and random.random() < grid_share)
        if grid:
            yield b'{"seed": %d, "num_images": %d}' % (image_seed, GRID_IMAGES)
        else:
            yield b'{"seed": %d}' % image_seed
