"""The packed network: exact reshaping of the layers, pixels, sameness, and what it refuses."""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from deploy.server import ROOT
from export.models import fold_batchnorm
from handler.backends.packed import (
    PackedBackend,
    PackedNetwork,
    as_convolution,
    interleave,
    interleave_pixels,
)
from handler.backends.torch_gpu import ConvolutionNetwork
from handler.backends.torchscript import layers_of
from handler.latents import from_seeds
from handler.settings import Limits, Settings
from tests.support.tiny_models import (
    Clipped,
    right,
    save_torchscript,
    tiny_card,
    vivid,
)
from training.networks import LatentLaw, new_generator
from training.weights import load_generator


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


@pytest.mark.parametrize("kind", [PackedNetwork, partial(ConvolutionNetwork, device="cpu")])
@pytest.mark.parametrize(
    ("channels", "image_size", "latent"),
    [(3, 32, "normal"), (1, 64, "uniform"), (3, 128, "normal"), (3, 32, "uniform")],
)
@pytest.mark.parametrize("count", [1, 3, 8])
def test_pixels_are_those_of_the_network(
    kind: Any, channels: int, image_size: int, latent: LatentLaw, count: int
) -> None:
    """Here, and of the layers for GPUs."""
    generator = vivid(channels=channels, image_size=image_size, latent=latent)
    network = kind(layers_of(generator.named_parameters(), "x"), torch.float32)
    latents = from_seeds(range(count), 8)
    with torch.inference_mode():
        found = np.asarray(network(torch.from_numpy(latents)))
    wanted = right(generator, latents)
    assert found.flags.c_contiguous
    assert found.dtype == np.uint8
    assert found.shape == wanted.shape == (count, image_size, image_size, channels)
    assert np.abs(found - wanted).max() <= 1
    assert wanted.std() > 20


def test_pixels_are_interleaved_as_layers_are() -> None:
    phases = torch.randint(0, 256, (3, 12, 5, 8), dtype=torch.uint8)
    wanted = interleave(phases).permute(0, 2, 3, 1).numpy()
    found = interleave_pixels(phases.permute(0, 2, 3, 1).contiguous().numpy())
    assert found.flags.c_contiguous
    np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_an_image_has_the_same_bits_in_any_batch(dtype: torch.dtype) -> None:
    """With the shipped weights: kernels are chosen by size, and small networks get other ones."""
    if dtype is torch.bfloat16 and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        pytest.skip("oneDNN has no bfloat16 on this processor")
    generator, _ = load_generator(ROOT / "model_store" / "generator.safetensors")
    generator = fold_batchnorm(generator)
    packed = PackedNetwork(layers_of(generator.named_parameters(), "x"), dtype)
    latents = torch.from_numpy(from_seeds(range(64), generator.nz))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as in the backend
    try:
        with torch.inference_mode():
            alone = np.concatenate([packed(latents[i : i + 1]) for i in range(64)])
            for count in (*range(2, 34), 48, 64):
                np.testing.assert_array_equal(packed(latents[:count]), alone[:count], str(count))
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("latent", ["normal", "uniform"])
def test_the_backend_is_compared_with_its_file(tmp_path: Path, latent: LatentLaw) -> None:
    generator = vivid(latent=latent)
    settings = Settings(limits=Limits(max_batch_images=4))
    for network, name in ((generator, "right.pt"), (Clipped(generator), "more.pt")):
        save_torchscript(network, tmp_path / name)
    backend = PackedBackend(tmp_path / "right.pt", tiny_card(), settings, "float32")
    latents = from_seeds(range(3), 8)
    assert np.abs(backend(latents) - right(generator, latents)).max() <= 1
    with pytest.raises(RuntimeError, match=r"differs from more\.pt by .* grey levels"):
        PackedBackend(tmp_path / "more.pt", tiny_card(), settings, "float32")


def test_batchnorm_must_be_folded() -> None:
    network = new_generator(8, 8, 3, 32).eval()
    with pytest.raises(RuntimeError, match=r"generator\.pt has layers .* export it anew"):
        layers_of(network.named_parameters(), "generator.pt")
