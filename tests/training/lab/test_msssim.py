"""MS-SSIM against the values of another implementation, and its limits."""

from __future__ import annotations

import numpy as np
import pytest

from handler.pixels import Images
from training.lab.msssim import mean_pair_similarity, ms_ssim


def waves(size: int) -> Images:
    y, x = np.mgrid[:size, :size]
    return (127.5 + 60 * np.sin(x / 7) + 60 * np.cos(y / 11)).astype(np.uint8)[..., None]


def disturbed(image: Images, amount: int) -> Images:
    noise = np.random.default_rng(0).integers(-amount, amount + 1, image.shape)
    return np.clip(image.astype(int) + noise, 0, 255).astype(np.uint8)


def test_values_of_another_implementation() -> None:
    """pytorch-msssim 1.0.0 on grey pictures, which it takes from 161 px on."""
    image = waves(192)
    others = np.stack([disturbed(image, 20), disturbed(image, 80), np.roll(image, 3, axis=0)])
    found = ms_ssim(np.stack([image] * 3), others)
    assert found == pytest.approx([0.967297, 0.780788, 0.983613], abs=2e-5)


@pytest.mark.parametrize("size", [32, 64, 128])
def test_the_same_is_one_and_noise_lowers_it(size: int) -> None:
    image = np.repeat(waves(size), 3, axis=2)
    levels = np.stack([image, disturbed(image, 20), disturbed(image, 80)])
    found = ms_ssim(np.stack([image] * 3), levels)
    assert found[0] == pytest.approx(1, abs=1e-5)
    assert 1 > found[1] > found[2] > 0


def test_the_opposite_has_no_likeness() -> None:
    image = waves(64)
    assert ms_ssim(image[None], 255 - image[None])[0] == 0


def test_pairs_are_neighbours() -> None:
    a, b = waves(64), disturbed(waves(64), 80)
    images = np.stack([a, a, b, b, a])  # the last one has no partner
    assert mean_pair_similarity(images) == pytest.approx(1, abs=1e-5)
    mixed = mean_pair_similarity(np.stack([a, b, a, a]))
    assert mixed == pytest.approx((ms_ssim(a[None], b[None])[0] + 1) / 2, abs=1e-5)


def test_pairs_stay_pairs_in_large_sets() -> None:
    images = np.repeat(np.stack([waves(32), disturbed(waves(32), 80)]), 150, axis=0)
    assert mean_pair_similarity(images) == pytest.approx(1, abs=1e-5)


def test_too_small_pictures_are_refused() -> None:
    with pytest.raises(ValueError, match="32 px"):
        ms_ssim(waves(16)[None], waves(16)[None])
