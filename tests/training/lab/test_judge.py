"""The judge learns what is on a picture, and what it sees on samples is counted."""

from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from training.data.batches import to_pictures
from training.lab.judge import (
    AttributeClassifier,
    Judge,
    Origin,
    by_attribute,
    clean_tiles,
    fit,
    histogram_distance,
)


def test_the_judge_learns_a_colour_and_tells_it() -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 512)
    images = rng.integers(0, 60, (512, 16, 16, 3)).astype(np.uint8)
    images[..., 0] += (labels * 150).astype(np.uint8)[:, None, None]
    classifier = fit(images[:448], {"red": labels[:448]}, epochs=2, seed=0)
    seen = classifier.classify(images[448:])["red"]
    assert seen.shape == (64, 2)
    assert (seen.argmax(1) == labels[448:]).mean() > 0.95


def test_places_are_the_maps_of_every_layer_scaled_and_averaged() -> None:
    torch.manual_seed(0)
    classifier = AttributeClassifier({"hat": 2}, 3, 64, (2, 3, 4, 5)).eval()
    judge = Judge(classifier, {}, Origin(64, "#ffffff", 0, 1, (2, 3, 4, 5)))
    images = np.random.default_rng(0).integers(0, 256, (300, 64, 64, 3), np.uint8)
    found = judge.places(images)
    assert found.shape == (300, 16 * (2 + 3 + 4 + 5))
    first = classifier.features[:3](to_pictures(images[:1]))
    expected = F.avg_pool2d(first / first.norm(dim=1, keepdim=True).clamp(min=1e-12), 8)
    assert np.allclose(found[0, :32], expected.detach().flatten().numpy(), atol=1e-5)
    assert np.allclose(judge.places(images[299:]), found[299:], atol=1e-5)


def sure_of(classes: list[int], surely: list[bool]) -> np.ndarray[Any, np.dtype[np.float32]]:
    seen = np.full((len(classes), 4), 0.1, np.float32)
    seen[np.arange(len(classes)), classes] = np.where(surely, 0.95, 0.7)
    return seen


def test_histograms() -> None:
    a, b = sure_of([0, 0, 1, 1], [True] * 4), sure_of([0, 0, 0, 2], [True] * 4)
    assert histogram_distance(a, a) == 0
    assert histogram_distance(a, b) == 0.5


def test_the_classes_that_are_farthest_from_their_share() -> None:
    labels = np.array([0, 0, 1, 1, 2, 2, 3, 3])
    real = sure_of(labels.tolist(), [True] * 8)
    samples = sure_of([0, 0, 0, 3], [True] * 4)
    found = by_attribute({"fur": samples}, {"fur": real}, {"fur": labels})["fur"]
    assert found["most_too_often"] == {
        "class": 0,
        "share_of_samples": 0.75,
        "share_of_real": 0.25,
    }
    assert found["most_too_seldom"] == {
        "class": 1,
        "share_of_samples": 0.0,
        "share_of_real": 0.25,
    }


def test_tiles_are_clean_as_real_pictures_are() -> None:
    real = {"eyes": sure_of([0] * 100, [True] * 100), "fur": sure_of([0] * 100, [False] * 100)}
    samples = {
        "eyes": sure_of([1] * 80, [True] * 60 + [False] * 20),
        "fur": sure_of([1] * 80, [False] * 80),
    }
    usual = np.arange(100, dtype=np.float32)
    distances = np.repeat(np.array([50, 500], np.float32), 40)
    found = clean_tiles(samples, real, distances, usual)
    assert found["recognised_by"] == ["eyes"]  # fur is not even recognised on real pictures
    assert found["of"] == 64
    assert found["recognised"] == {"tiles": 60, "share_of_samples": 0.75, "share_of_real": 1.0}
    assert found["near_real"] == {"tiles": 40, "share_of_samples": 0.5, "share_of_real": 0.99}
