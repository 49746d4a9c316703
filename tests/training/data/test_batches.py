"""Which pictures a run sees, in which order, and which of the chance that goes with them."""

from __future__ import annotations

from itertools import chain

import numpy as np
import pytest

from training.data.batches import batches, split, to_pictures
from training.distributed import World

IMAGES = np.arange(22, dtype=np.uint8)[:, None, None, None] * np.ones((1, 2, 2, 3), np.uint8)
ALL = np.arange(22)


def first_pixels(batch: np.ndarray) -> list[int]:
    return batch[:, 0, 0, 0].tolist()


def test_batches_continue_where_they_stopped() -> None:
    whole = batches(IMAGES, ALL, 4, seed=3, first_step=0)
    expected = [next(whole) for _ in range(13)]  # five batches an epoch: two epochs and a bit
    late = batches(IMAGES, ALL, 4, seed=3, first_step=7)
    np.testing.assert_array_equal(next(late), expected[7])
    first, second = (first_pixels(np.concatenate(part)) for part in (expected[:5], expected[5:10]))
    assert len(set(first)) == 20  # no picture twice in an epoch, the incomplete batch dropped
    assert first != second


def test_processes_share_each_batch() -> None:
    whole = batches(IMAGES, ALL, 6, seed=3, first_step=0)
    shares = [batches(IMAGES, ALL, 6, 3, 0, World(rank, 3)) for rank in range(3)]
    for _ in range(5):
        together = [first_pixels(next(share)) for share in shares]
        assert [len(some) for some in together] == [2, 2, 2]
        batch = first_pixels(next(whole))
        assert sorted(chain.from_iterable(together)) == sorted(batch)
        # R1 takes the first half of the batch: of each share the beginning.
        assert sorted(some[0] for some in together) == sorted(batch[:3])


def test_every_place_of_a_batch_is_drawn_from_all_pictures() -> None:
    """Folders are often sorted by class, and R1 takes the first half of a batch only."""
    source = batches(IMAGES, ALL, 4, seed=3, first_step=0)
    taken = np.array([first_pixels(next(source)) for _ in range(500)])
    for place in taken.T:  # 500 draws of 22 pictures: 23 of each, give or take 5
        counts = np.bincount(place, minlength=22)
        assert counts.min() > 5
        assert counts.max() < 50


def test_an_error_while_gathering_is_raised() -> None:
    source = batches(IMAGES, np.arange(30), 30, seed=0, first_step=0)
    with pytest.raises(IndexError):
        next(source)


def test_pictures_are_scaled_to_minus_one_to_one() -> None:
    pictures = to_pictures(np.array([0, 51, 255], np.uint8).reshape(1, 1, 1, 3))
    assert pictures.shape == (1, 3, 1, 1)
    assert pictures.flatten().tolist() == pytest.approx([-1.0, -0.6, 1.0])


@pytest.mark.parametrize(
    ("count", "wanted", "batch_size", "held_out"),
    [(20_000, 256, 32, 256), (100, 256, 32, 13), (4, 256, 2, 1), (33, 256, 32, 1), (32, 256, 32, 0),
     (100, 0, 32, 0), (100, 5, 32, 5)],
)  # fmt: skip
def test_held_out_pictures(count: int, wanted: int, batch_size: int, held_out: int) -> None:
    parts = split(np.arange(count), wanted, batch_size, seed=1)
    assert len(parts.held_out) == held_out
    assert sorted([*parts.train, *parts.held_out]) == list(range(count))
    again = split(np.arange(count), wanted, batch_size, seed=1)
    np.testing.assert_array_equal(parts.held_out, again.held_out)


@pytest.mark.parametrize(
    ("sizes", "held_out"),
    [([2] * 600, 150),  # an eighth of 600 different ones
     ([500], 0), ([100] * 12, 100), ([901, *[1] * 99], 13), ([1, 1, 1, 1, 2], 1)],
)  # fmt: skip
def test_equal_pictures_are_on_one_side(sizes: list[int], held_out: int) -> None:
    equal = np.repeat(np.cumsum([0, *sizes[:-1]]), sizes)
    for seed in range(20):
        parts = split(equal, 256, 2, seed)
        assert not set(equal[parts.train]) & set(equal[parts.held_out])
        assert sorted([*parts.train, *parts.held_out]) == list(range(len(equal)))
        assert len(parts.held_out) in (held_out, held_out - 1)


def test_held_out_pictures_come_from_everywhere() -> None:
    """Folders are often sorted by class: the last ones would be of one kind."""
    chosen = split(np.arange(1000), 100, 10, seed=0).held_out
    assert np.histogram(chosen, bins=4, range=(0, 1000))[0].min() >= 10
