"""Distances on known sets, whose numbers are called FID; MS-SSIM beside another implementation."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

from handler.pixels import Images
from training.lab import distances
from training.lab.commands import UsageError
from training.lab.distances import (
    frechet_distance,
    inception_extractor,
    kernel_distance,
    mean_pair_similarity,
    ms_ssim,
    precision_recall,
)


def normal(count: int, mean: float, std: float, seed: int) -> distances.Features:
    rng = np.random.default_rng(seed)
    return (mean + std * rng.standard_normal((count, 4))).astype(np.float32)


def test_frechet_distance_of_gaussians() -> None:
    """d^2 = |m1 - m2|^2 + sum (s1 - s2)^2 for diagonal covariances."""
    found = frechet_distance(normal(20_000, 0, 1, 0), normal(20_000, 2, 3, 1))
    assert found == pytest.approx(4 * 2**2 + 4 * 2**2, rel=0.03)
    assert frechet_distance(normal(100, 0, 1, 0), normal(100, 0, 1, 0)) == pytest.approx(
        0, abs=1e-6
    )


@pytest.mark.parametrize("count", [8, 20])
def test_distances_of_fewer_pictures_than_dimensions_are_numbers(count: int) -> None:
    """Covariances have no inverse then, and roots of their product tend to be complex."""
    few, others = (
        np.random.default_rng(seed).normal(seed, 1.0, (count, 64)).astype(np.float32)
        for seed in (0, 1)
    )
    for distance in (frechet_distance, kernel_distance):
        for pair in ((few, others), (few, few)):
            found = distance(*pair)
            assert isinstance(found, float)
            assert np.isfinite(found)


def test_kernel_distance_by_definition() -> None:
    a, b = normal(60, 0, 1, 0).astype(float), normal(60, 0.5, 1, 1).astype(float)

    def kernel(x: np.ndarray, y: np.ndarray) -> np.ndarray:  # type: ignore[type-arg]
        return (x @ y.T / 4 + 1) ** 3

    within = [(kernel(x, x).sum() - np.trace(kernel(x, x))) / (60 * 59) for x in (a, b)]
    direct = within[0] + within[1] - 2 * kernel(a, b).mean()
    found = kernel_distance(a.astype(np.float32), b.astype(np.float32))
    assert found == pytest.approx(direct, rel=1e-3)


def test_kernel_distance_of_one_distribution_is_about_zero() -> None:
    one = kernel_distance(normal(300, 0, 1, 0), normal(300, 0, 1, 1))
    other = kernel_distance(normal(300, 0, 1, 0), normal(300, 0.5, 1, 1))
    assert abs(one) < 0.1 * other


def test_precision_and_recall_tell_dropped_modes_from_rubbish() -> None:
    left, right = normal(200, -20, 1, 0), normal(200, 20, 1, 1)
    real = np.concatenate([left, right])
    precision, recall = precision_recall(normal(400, -20, 1, 2), real)
    assert precision > 0.8  # all samples are good,
    assert recall < 0.6  # but half of the reals are missing
    rubbish = np.concatenate([normal(200, -20, 1, 3), normal(200, 20, 1, 4), normal(400, 90, 1, 5)])
    precision, recall = precision_recall(rubbish, real)
    assert precision < 0.6
    assert recall > 0.8


@pytest.fixture(scope="module")
def inception_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A state dict of the right shapes, with random numbers: the real file is a download."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("inception") / "weights.pth"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "torch_fidelity.feature_extractor_inceptionv3.load_state_dict_from_url",
            lambda *_args, **_kwargs: {},
        )
        patch.setattr(FeatureExtractorInceptionV3, "load_state_dict", lambda *_: None)
        network = FeatureExtractorInceptionV3("inception-v3-compat", ["2048"])
    torch.save(network.state_dict(), path)
    return path


def test_other_weights_are_not_the_inception_of_fid(inception_file: Path) -> None:
    extractor = inception_extractor(inception_file)
    assert not extractor.is_inception
    assert "other weights" in extractor.name
    images = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), np.uint8)
    found = extractor.extract(images)
    assert found.shape == (3, 2048)
    grey = np.repeat(images[:1, ..., :1], 3, axis=3)
    assert np.allclose(extractor.extract(images[:1, ..., :1]), extractor.extract(grey), atol=1e-4)


def test_the_file_of_fid_is_known_by_its_digest(
    inception_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = distances._digest_of_state_dict(inception_file)
    monkeypatch.setattr(distances, "INCEPTION_SHA256", digest)
    assert inception_extractor(inception_file).is_inception


def test_files_that_are_no_inception_are_refused(tmp_path: Path) -> None:
    (tmp_path / "text.pth").write_text("<html>")
    torch.save({"a": torch.zeros(1)}, tmp_path / "other.pth")
    torch.save([1], tmp_path / "list.pth")
    for name, words in (
        ("absent", "cannot be read"),
        ("text", "cannot be read"),
        ("other", "is no Inception v3"),
        ("list", "is no state dict"),
    ):
        with pytest.raises(UsageError, match=rf"{name}\.pth {words}"):
            inception_extractor(tmp_path / f"{name}.pth")


def test_nothing_in_a_weights_file_is_executed(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return Path.touch, (tmp_path / "executed",)  # type: ignore[return-value]

    torch.save({"a": Trap()}, tmp_path / "trap.pth")
    with pytest.raises(UsageError, match="cannot be read"):
        inception_extractor(tmp_path / "trap.pth")
    assert not (tmp_path / "executed").exists()


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
