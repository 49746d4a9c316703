"""Sliced Wasserstein distance: closed forms, the pyramid, and which scale sees what."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from handler.pixels import Images
from training.data.avatars import load_avatars
from training.sliced import (
    double,
    halve,
    laplacian_level,
    patches_of,
    sliced_wasserstein,
    sliced_wasserstein_by_scale,
    standardise,
)


def cats(seed: int, count: int = 64) -> Images:
    return load_avatars(64, "#c8d4e0", seed, count).images


def test_gaussians_have_a_closed_form() -> None:
    """All projections of N(0, s^2 I) are N(0, s^2); W1 to N(0, 1) is (s - 1) sqrt(2 / pi)."""
    rng = np.random.default_rng(0)
    a, b = torch.from_numpy(rng.standard_normal((2, 20_000, 5)).astype(np.float32))
    assert sliced_wasserstein(a, 3 * b, rng) == pytest.approx(2 * np.sqrt(2 / np.pi), rel=0.02)


def test_a_shift_counts_by_its_projection() -> None:
    """Moving all points by v costs |v . direction|, on average |v| E|cos|, 2 / pi in the plane."""
    rng = np.random.default_rng(0)
    a = torch.from_numpy(rng.standard_normal((1000, 2)).astype(np.float32))
    moved = a + torch.tensor([3.0, 4.0])
    assert sliced_wasserstein(a, moved, rng) == pytest.approx(5 * 2 / np.pi, rel=0.05)
    assert sliced_wasserstein(a, a.flip(0), rng) == 0


def test_the_pyramid_adds_up_to_the_picture() -> None:
    images = torch.rand(2, 3, 64, 64)
    levels = [laplacian_level(images, i) for i in range(3)]
    assert [level.shape[2] for level in levels] == [64, 32, 16]
    built = levels[2]
    for level in (levels[1], levels[0]):
        built = level + double(built)
    assert torch.allclose(built, images, atol=1e-5)


def test_halving_and_doubling_keep_an_even_grey() -> None:
    grey = torch.full((1, 1, 32, 32), 7.0)
    assert torch.allclose(halve(grey), torch.full((1, 1, 16, 16), 7.0))
    assert torch.allclose(double(grey)[:, :, 2:-2, 2:-2], torch.tensor(7.0))


def test_patches_are_parts_of_the_level() -> None:
    images = np.arange(16 * 16, dtype=np.uint8).reshape(1, 16, 16, 1)
    patches = patches_of(images, 0, np.random.default_rng(0)).numpy()
    assert patches.shape == (128, 1, 7, 7)
    assert np.array_equal(np.diff(patches[:, 0], axis=2), np.ones((128, 7, 6)))
    assert np.array_equal(np.diff(patches[:, 0], axis=1), np.full((128, 6, 7), 16))
    assert len({float(p[0, 0, 0]) for p in patches}) > 30


def test_standardised_channels() -> None:
    patches = np.random.default_rng(0).normal(5, 3, (100, 3, 7, 7)).astype(np.float32)
    found = standardise(torch.from_numpy(patches)).numpy()
    assert np.allclose(found.mean(axis=(0, 2, 3)), 0, atol=1e-4)
    assert np.allclose(found.std(axis=(0, 2, 3)), 1, atol=1e-4)


def test_each_scale_sees_its_own_damage() -> None:
    real, other = cats(1), cats(2)
    usual = sliced_wasserstein_by_scale(real, other)
    assert usual.keys() == {64, 32, 16}
    noise = np.random.default_rng(0).normal(0, 20, other.shape)
    grainy = np.clip(other + noise, 0, 255).astype(np.uint8)
    found = sliced_wasserstein_by_scale(real, grainy)
    assert found[64] > 3 * usual[64]  # grain is fine,
    assert found[16] < 2 * usual[16]  # and gone in small pictures
    blocks = other.reshape(64, 4, 16, 4, 16, 3)
    mixed = np.random.default_rng(0).permuted(blocks, axis=3).reshape(other.shape)
    found = sliced_wasserstein_by_scale(real, np.ascontiguousarray(mixed))
    assert found[16] > 2 * usual[16]  # wrong places of large parts are coarse


def test_it_is_the_same_each_time() -> None:
    a, b = cats(1, 16), cats(2, 16)
    assert sliced_wasserstein_by_scale(a, b) == sliced_wasserstein_by_scale(a, b)
