"""The linear probe of D against planted features, and the command on a tiny run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.support.tiny_runs import TINY, printed, refused, untrained
from training.lab import probe
from training.lab.probe import classify, features_of
from training.networks import Discriminator


def test_planted_classes_are_found_and_noise_is_not() -> None:
    rng = np.random.default_rng(0)
    colour, nothing = rng.integers(0, 3, 300), rng.integers(0, 2, 300)
    features = torch.from_numpy(rng.standard_normal((300, 60))).float()
    features[np.arange(300), colour] += 6
    labels = {"colour": colour[:200], "nothing": nothing[:200]}
    found = classify(features[:200], labels, features[200:])
    assert (found["colour"] == colour[200:]).mean() > 0.95
    assert 0.3 < (found["nothing"] == nothing[200:]).mean() < 0.7


def test_features_are_the_activations_pooled_and_do_not_depend_on_the_batch() -> None:
    network = Discriminator(ndf=2, channels=3, image_size=32).eval()
    images = np.random.default_rng(0).integers(0, 256, (300, 32, 32, 3), np.uint8)
    features = features_of(network, images)
    assert features.shape == (300, 16 * (2 + 4 + 8))
    first = network.layers[:2](torch.from_numpy(images[:1]).permute(0, 3, 1, 2) / 127.5 - 1)
    assert features[0, 0] == pytest.approx(first[0, 0, :4, :4].max().item(), abs=1e-5)
    assert torch.allclose(features_of(network, images[299:]), features[299:], atol=1e-5)
    assert features_of(None, images[:2]).shape == (2, 32 * 32 * 3)


def test_the_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = replace(TINY, data="avatars")
    untrained(tmp_path, config)
    monkeypatch.setattr(probe, "TESTED", 50)
    found = printed(capsys, "probe --labels 20 60", checkpoint=tmp_path)
    assert set(found["accuracy"]) == {"learned", "untrained", "pixels"}
    pixels = found["accuracy"]["pixels"]
    assert pixels["60"]["body"] > 2 * found["chance"]["body"]
    assert pixels["60"]["mean"] > pixels["20"]["mean"]
    (tmp_path / "config.json").write_text(replace(config, data="photos").to_json())
    assert "only RGB avatars have labels" in refused(capsys, "probe", checkpoint=tmp_path)
