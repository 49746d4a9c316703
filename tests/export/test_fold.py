"""The folded Generator computes what the trained one does."""

import pytest
import torch
from torch import nn

from export.fold import fold_batchnorm
from training.networks import Generator, new_generator


@pytest.fixture
def generator() -> Generator:
    torch.manual_seed(0)
    made = new_generator(nz=8, ngf=4, channels=3, image_size=32)
    for layer in made.modules():
        if isinstance(layer, nn.BatchNorm2d):  # statistics and gains far from 0 and 1
            nn.init.normal_(layer.running_mean)
            nn.init.uniform_(layer.running_var, 0.1, 4.0)
            nn.init.normal_(layer.weight)
            nn.init.normal_(layer.bias)
    return made.eval()


@torch.no_grad()
def test_the_same_pictures(generator: Generator) -> None:
    latents = torch.randn(5, 8)
    before = generator(latents)
    torch.testing.assert_close(fold_batchnorm(generator)(latents), before, rtol=0, atol=2e-6)
    assert torch.equal(generator(latents), before)  # the original is left alone


def test_no_batchnorm_is_left(generator: Generator) -> None:
    layers = fold_batchnorm(generator).layers
    assert not any(isinstance(layer, nn.BatchNorm2d) for layer in layers)
    assert sum(isinstance(layer, nn.ConvTranspose2d) for layer in layers) == 4
    assert any(isinstance(layer, nn.BatchNorm2d) for layer in generator.layers)
