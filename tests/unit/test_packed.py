"""The packed network: exact reshaping of the layers, pixels, sameness, and what it refuses."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from export.fold import fold_batchnorm
from handler.backends.packed import PackedNetwork, as_convolution, interleave, layers_of
from handler.images import to_uint8
from handler.latents import from_seeds
from training.networks import Generator, new_generator

pytestmark = pytest.mark.unit


def folded(nz: int, ngf: int, channels: int, image_size: int) -> Generator:
    torch.manual_seed(0)
    network = new_generator(nz, ngf, channels, image_size)
    with torch.inference_mode():
        network(torch.randn(16, nz))  # BatchNorm statistics that are not the initial ones
    return fold_batchnorm(network.eval())


@pytest.mark.parametrize(("channels_in", "channels_out", "side"), [(1, 1, 1), (5, 3, 4), (8, 2, 7)])
def test_a_transposed_convolution_is_an_ordinary_one(
    channels_in: int, channels_out: int, side: int
) -> None:
    """Exact: whole numbers small enough that float64 rounds nothing."""
    rng = torch.Generator().manual_seed(1)
    weight = torch.randint(-9, 9, (channels_in, channels_out, 4, 4), generator=rng).double()
    pictures = torch.randint(-9, 9, (2, channels_in, side, side), generator=rng).double()
    wanted = F.conv_transpose2d(pictures, weight, stride=2, padding=1)
    found = interleave(F.conv2d(pictures, as_convolution(weight), padding=1))
    assert torch.equal(found, wanted)
    assert wanted.abs().max() > 0


@pytest.mark.parametrize(("channels", "image_size"), [(3, 32), (1, 64), (3, 128)])
@pytest.mark.parametrize("count", [1, 3, 8])
def test_pixels_are_those_of_the_network(channels: int, image_size: int, count: int) -> None:
    generator = folded(8, 8, channels, image_size)
    packed = PackedNetwork(layers_of(generator.named_parameters(), "x"), torch.float32, 4)
    latents = from_seeds(range(count), 8)
    with torch.inference_mode():
        wanted = to_uint8(generator(torch.from_numpy(latents)).numpy())
        found = packed(torch.from_numpy(latents))
    assert found.is_contiguous()
    assert found.shape == (count, image_size, image_size, channels)
    assert np.abs(found.numpy().astype(int) - wanted).max() <= 1
    assert wanted.std() > 0


def test_an_image_has_the_same_bits_in_any_batch() -> None:
    generator = folded(8, 16, 3, 32)
    with torch.no_grad():
        for parameter in list(generator.parameters())[-1:]:
            parameter.mul_(3e5)  # tanh becomes a step: the last bits of the floats show
    packed = PackedNetwork(layers_of(generator.named_parameters(), "x"), torch.float32, 32)
    latents = torch.from_numpy(from_seeds(range(64), 8))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as in the backend
    try:
        with torch.inference_mode():
            alone = torch.cat([packed(latents[i : i + 1]) for i in range(64)])
            for count in (2, 3, 4, 5, 7, 16, 33, 64):
                assert torch.equal(packed(latents[:count]), alone[:count]), count
    finally:
        torch.set_num_threads(threads)


def test_batchnorm_must_be_folded() -> None:
    network = new_generator(8, 8, 3, 32).eval()
    with pytest.raises(RuntimeError, match=r"generator\.pt has layers .* export it anew"):
        layers_of(network.named_parameters(), "generator.pt")


def test_names_of_a_torchscript_file_are_understood(tmp_path: Path) -> None:
    generator = folded(8, 8, 3, 32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.trace(generator, torch.zeros(2, 8)).save(str(tmp_path / "g.pt"))
        loaded = torch.jit.load(str(tmp_path / "g.pt"))
    for (weight, _), (wanted, _) in zip(
        layers_of(loaded.named_parameters(), "g.pt"),
        layers_of(generator.named_parameters(), "g"),
        strict=True,
    ):
        assert torch.equal(weight, wanted)
