"""The diversity number: its unit, its zero, and that it does not depend on chance."""

from __future__ import annotations

import numpy as np
import pytest

from training.health import pairwise_diversity


@pytest.mark.parametrize("count", [2, 3, 4, 7, 64])
def test_all_the_same_is_zero(count: int) -> None:
    assert pairwise_diversity(np.full((count, 8, 8, 3), 200, np.uint8)) == 0.0


@pytest.mark.parametrize("count", [2, 3, 4, 5, 6, 12])
def test_one_that_differs_is_noticed_wherever_it_is(count: int) -> None:
    for position in range(count):
        images = np.zeros((count, 4, 4, 1), np.uint8)
        images[position] = 255
        assert pairwise_diversity(images) == pytest.approx(2 * 2 / count)


def test_black_and_white_differ_by_the_whole_range() -> None:
    images = np.zeros((2, 4, 4, 3), np.uint8)
    images[1] = 255
    assert pairwise_diversity(images) == 2.0


@pytest.mark.parametrize("period", [2, 3, 4, 6])
def test_repetition_is_not_sameness(period: int) -> None:
    images = np.zeros((12, 4, 4, 1), np.uint8)
    images[::period] = 255
    assert pairwise_diversity(images) > 0.1


def test_noise_has_the_expected_difference() -> None:
    """Two independent uniform values on [-1, 1] differ by 2/3 on average."""
    images = np.random.default_rng(0).integers(0, 256, (64, 32, 32, 3), np.uint8)
    assert pairwise_diversity(images) == pytest.approx(2 / 3, abs=0.01)


def test_one_picture_is_refused() -> None:
    with pytest.raises(ValueError, match="2 or more"):
        pairwise_diversity(np.zeros((1, 4, 4, 3), np.uint8))
