"""Guided backpropagation against gradients worked out by hand; strongest patches; the command."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from tests.support.generators import photos
from tests.support.tiny_runs import TINY, printed, refused, untrained
from training.lab import filters
from training.lab.filters import agreement, grey_centred
from training.networks import Discriminator


def discriminator(*, positive: bool) -> Discriminator:
    torch.manual_seed(0)
    network = Discriminator(ndf=2, channels=3, image_size=32).eval()
    if positive:
        for layer in network.layers:
            if isinstance(layer, nn.Conv2d):
                layer.weight.data.abs_()
    return network


def test_the_way_up_is_that_of_the_discriminator() -> None:
    network = discriminator(positive=False)
    pictures = torch.rand(2, 3, 32, 32) * 2 - 1
    features = filters.up_to(network, 2)
    assert torch.allclose(features(pictures), network.layers[:5](pictures))


def test_only_positive_values_and_gradients_come_down() -> None:
    #             value > 0:  yes   no   yes   no
    value = torch.tensor([2.0, -2.0, 2.0, -2.0], requires_grad=True)
    up = filters.GuidedLeakyReLU(0.2)(value)
    assert torch.allclose(up, torch.tensor([2.0, -0.4, 2.0, -0.4]))
    up.backward(torch.tensor([3.0, 3.0, -3.0, -3.0]))
    assert value.grad.tolist() == [3.0, 0.0, 0.0, 0.0]


def test_a_path_through_a_negative_weight_is_cut() -> None:
    """Response = a * leaky(x) + b * leaky(-x) for a white pixel, x = 1: guided it is max(a, 0)."""
    for a, b, expected in ((1.5, -4.0, 1.5), (-1.5, -4.0, 0.0), (2.0, 3.0, 2.0)):
        first, second = nn.Conv2d(1, 2, 1, bias=False), nn.Conv2d(2, 1, 1, bias=False)
        first.weight.data = torch.tensor([1.0, -1.0]).view(2, 1, 1, 1)
        second.weight.data = torch.tensor([a, b]).view(1, 2, 1, 1)
        leaky = filters.GuidedLeakyReLU(0.2)
        features = nn.Sequential(first, leaky, second)
        white = np.full((1, 1, 1, 1), 255, np.uint8)
        found = filters.gradients(features, white, 0, np.zeros((1, 2), np.int64))
        assert found.item() == pytest.approx(expected)


@pytest.mark.parametrize("layer", [1, 2, 3])
def test_the_receptive_field_is_where_gradients_are(layer: int) -> None:
    """Positive weights and a white picture: each pixel of the field counts, no other does."""
    features = filters.up_to(discriminator(positive=True), layer)
    white = np.full((1, 32, 32, 3), 255, np.uint8)
    field = filters.field_of(layer)
    last = 32 // 2**layer - 1
    for place in ((0, 0), (last, last), (last // 2, last)):
        found = filters.gradients(features, white, 0, np.array([place]))[0]
        expected = np.zeros((32, 32), bool)
        top, left = (field.first_px + p * field.stride_px for p in place)
        size = field.size_px
        expected[max(top, 0) : top + size, max(left, 0) : left + size] = True
        assert np.array_equal(found.max(axis=2) > 0, expected)


def test_the_strongest_patch_is_the_bright_one() -> None:
    features = filters.up_to(discriminator(positive=True), 2)
    images = np.full((300, 32, 32, 3), 127, np.uint8)  # about 0, as the padding is
    images[280, 16:20, 8:12] = 255  # beyond the first batch of 256
    images[7, 4:8, 24:28] = 160
    places = filters.strongest_places(features, images, filters=2, count=2)
    assert places.shape == (2, 2, 3)
    assert places[..., 0].tolist() == [[280, 7], [280, 7]]
    field = filters.field_of(2)
    for _, y, x in places[:, 0]:
        patch = filters.crop(images[280], field, (int(y), int(x)), 0)
        assert patch.shape == (10, 10, 3)
        assert (patch == 255).any()


def test_a_patch_at_the_edge_is_filled() -> None:
    values = np.arange(64, dtype=np.uint8).reshape(8, 8, 1)
    patch = filters.crop(values, filters.Field(-1, 2, 4), (0, 3), 99)[..., 0]
    assert patch.tolist() == [[99] * 4, [5, 6, 7, 99], [13, 14, 15, 99], [21, 22, 23, 99]]


def test_no_gradient_is_grey() -> None:
    assert grey_centred(np.array([0, 2, -1], np.float32)).tolist() == [128, 255, 64]
    assert grey_centred(np.zeros(2, np.float32)).tolist() == [128, 128]


def test_agreement_is_that_of_the_best_attribute() -> None:
    labels = {"a": np.array([0, 0, 0, 1]), "b": np.array([0, 1, 2, 3])}
    assert agreement(np.array([[0, 1, 2, 3], [0, 1, 2, 2]]), labels) == (0.75 + 1) / 2


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run's folder with settings, pictures and the checkpoint of an untrained pair."""
    reals = photos(tmp_path / "reals", 6)
    config = replace(TINY, data=str(reals), ndf=4, batch_size=2, cache=tmp_path / "cache")
    return untrained(tmp_path / "run", config)


def test_the_command_draws_both_halves(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "f.png"
    found = printed(capsys, "filters", checkpoint=run, out=out)
    assert found["checkpoint"].endswith("step_00000003.pt")
    assert found["patch_px"] == 22
    assert found["labels_agree"] is None
    pixels = np.asarray(Image.open(out))
    assert pixels.shape == (6 * 24 + 2, 2 * (8 * 24 + 2) + 16, 3)
    left, right = pixels[:, :194], pixels[:, -194:]
    assert not np.array_equal(left, right)
    assert left[2:24, 98:120].std() > 1  # a gradient, not plain grey


def test_unusable_checkpoints_are_told(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = run / "checkpoints" / "step_00000003.pt"
    settings = (run / "config.json").read_text()
    (run / "config.json").write_text(settings.replace('"ndf": 4', '"ndf": 8'))
    assert "does not fit the settings of its run" in refused(capsys, "filters", checkpoint=file)

    (run / "config.json").write_text("[]")
    said = refused(capsys, "filters", checkpoint=file)
    assert "config.json holds list; a JSON object is needed" in said

    (run / "config.json").write_text(settings)
    file.write_bytes(b"no checkpoint")
    assert "not a checkpoint of a run" in refused(capsys, "filters", checkpoint=file)
