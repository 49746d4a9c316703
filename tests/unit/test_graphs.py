"""Buckets of recorded batch sizes, with a stand-in for the graphs that only a GPU can record."""

from __future__ import annotations

import numpy as np
import pytest

from handler.backends.base import Latents
from handler.backends.graphs import Buckets, Run, sizes_up_to
from handler.images import Images

pytestmark = pytest.mark.unit


class Recorder:
    """Records runs of one exact size; an image is filled with the first number of its latent."""

    def __init__(self) -> None:
        self.recorded: list[int] = []
        self.ran: list[int] = []

    def __call__(self, size: int) -> Run:
        self.recorded.append(size)

        def run(latents: Latents) -> Images:
            assert latents.shape == (size, 2)
            assert latents.dtype == np.float32
            self.ran.append(size)
            return np.broadcast_to(latents[:, :1, None, None].astype(np.uint8), (size, 3, 4, 1))

        return run


@pytest.mark.parametrize(
    ("most", "sizes"), [(1, [1]), (2, [1, 2]), (3, [1, 2, 3]), (64, [1, 2, 4, 8, 16, 32, 64]),
                        (100, [1, 2, 4, 8, 16, 32, 64, 100])]
)  # fmt: skip
def test_sizes(most: int, sizes: list[int]) -> None:
    assert sizes_up_to(most) == sizes


def test_the_largest_is_recorded_first() -> None:
    recorder = Recorder()
    Buckets(8, recorder)
    assert recorder.recorded == [8, 4, 2, 1]


@pytest.mark.parametrize("count", range(1, 13))
def test_each_batch_runs_in_the_smallest_bucket_that_holds_it(count: int) -> None:
    recorder = Recorder()
    buckets = Buckets(12, recorder)
    latents = np.array([[i + 1, 0] for i in range(count)], np.float32)
    images = buckets(latents)
    assert images[:, 0, 0, 0].tolist() == list(range(1, count + 1))
    assert images.shape == (count, 3, 4, 1)
    (size,) = recorder.ran
    assert size == min(s for s in buckets.sizes if s >= count)


def test_what_cannot_be_recorded_is_passed_on() -> None:
    def refuse(size: int) -> Run:
        raise RuntimeError(f"no graph of {size}")

    with pytest.raises(RuntimeError, match="no graph of 4"):
        Buckets(4, refuse)
