"""The measures: nearest neighbours against a direct computation, the judge on easy cases."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from training.classifier import classify, fit
from training.evaluate import main, nearest_distances
from training.networks import new_generator
from training.weights import save_generator

pytestmark = pytest.mark.unit


def test_nearest_distances_by_definition() -> None:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (5, 8, 8, 3), dtype=np.uint8)
    reference = rng.integers(0, 256, (2100, 8, 8, 3), dtype=np.uint8)
    reference[2075] = images[3]  # a copy, in the second block
    distances, index = nearest_distances(images, reference)
    direct = np.sqrt(
        np.square(images[:, None].astype(float) - reference[None]).mean(axis=(2, 3, 4))
    )
    assert np.allclose(distances, direct.min(1), atol=0.05)
    assert index.tolist() == direct.argmin(1).tolist()
    assert index[3] == 2075


def test_the_judge_learns_a_colour_and_tells_it() -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 512)
    images = rng.integers(0, 60, (512, 16, 16, 3)).astype(np.uint8)
    images[..., 0] += (labels * 150).astype(np.uint8)[:, None, None]
    classifier = fit(images[:448], {"red": labels[:448]}, epochs=2, seed=0)
    told = classify(classifier, images[448:])["red"]
    assert told.shape == (64, 2)
    assert (told.argmax(1) == labels[448:]).mean() > 0.95


def test_weights_of_other_pictures_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.manual_seed(0)
    save_generator(tmp_path / "g.safetensors", new_generator(6, 2, 3, 32), {"data": "photos"})
    assert main(["--weights", str(tmp_path / "g.safetensors")]) == 2
    assert "trained on 'photos'" in capsys.readouterr().err


def test_the_report_of_tiny_weights(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(0)
    made = {"data": "avatars", "pictures": 256, "seed": 999, "background": "#c8d4e0"}
    save_generator(tmp_path / "g.safetensors", new_generator(6, 2, 3, 32), made)
    code = main(
        ["--weights", str(tmp_path / "g.safetensors"), "--samples", "32", "--epochs", "1",
         "--neighbours", str(tmp_path / "n.png")]
    )  # fmt: skip
    assert code == 0
    report = json.loads(capsys.readouterr().out)
    assert report["attributes"]["body"]["classes"] == 15
    # An untrained Generator: no variety, no likeness to any one picture.
    assert report["diversity"]["generated"] < 0.1 * report["diversity"]["real"]
    assert report["nearest_training_picture_rmse"]["generated"]["minimum"] > 10
    assert report["attributes"]["body"]["classes_seen"] <= 3
    assert (tmp_path / "n.png").is_file()
