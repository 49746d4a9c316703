"""Convolutions by matrix products: torch's results, its gradients, and when they are used."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from training import networks
from training.networks import (
    FEWEST_CHANNELS,
    Discriminator,
    Double,
    DoublingConv2d,
    Generator,
    Halve,
    HalvingConv2d,
    gather,
    scatter,
)


def drawn(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(sum(shape))
    return torch.randn(*shape, generator=generator, dtype=dtype).requires_grad_()


@pytest.mark.parametrize("channels_last", [True, False])
def test_halving_is_the_convolution(channels_last: bool) -> None:
    layout = torch.channels_last if channels_last else torch.contiguous_format
    pictures, weight = drawn(2, 3, 6, 8), drawn(5, 3, 4, 4)
    ours = Halve.apply(
        pictures.contiguous(memory_format=layout), weight.contiguous(memory_format=layout)
    )
    torch.testing.assert_close(ours, F.conv2d(pictures, weight, stride=2, padding=1))


@pytest.mark.parametrize("channels_last", [True, False])
def test_doubling_is_the_transposed_convolution(channels_last: bool) -> None:
    layout = torch.channels_last if channels_last else torch.contiguous_format
    pictures, weight = drawn(2, 5, 3, 4), drawn(5, 3, 4, 4)
    ours = Double.apply(
        pictures.contiguous(memory_format=layout), weight.contiguous(memory_format=layout)
    )
    torch.testing.assert_close(ours, F.conv_transpose2d(pictures, weight, stride=2, padding=1))


@pytest.mark.parametrize(
    ("function", "shape"), [(Halve, (2, 3, 4, 6)), (Double, (2, 5, 2, 3))], ids=["halve", "double"]
)
def test_gradients_are_those_of_finite_differences(
    function: type[Halve | Double], shape: tuple[int, ...]
) -> None:
    assert torch.autograd.gradcheck(function.apply, (drawn(*shape), drawn(5, 3, 4, 4)))


@pytest.mark.parametrize("function", [Halve, Double])
def test_only_the_gradients_that_are_asked_for_are_computed(
    function: type[Halve | Double],
) -> None:
    channels = 3 if function is Halve else 5
    pictures, weight = drawn(2, channels, 4, 4), drawn(5, 3, 4, 4)
    weight.requires_grad_(False)
    function.apply(pictures, weight).sum().backward()
    assert pictures.grad is not None
    assert weight.grad is None


def test_scatter_is_the_transpose_of_gather() -> None:
    pictures, patches = drawn(2, 3, 6, 8), drawn(2 * 3 * 4, 16 * 3)
    one = (gather(pictures) * patches).sum()
    other = (pictures * scatter(patches, 2, 3, 4)).sum()
    torch.testing.assert_close(one, other)


def test_a_second_derivative_is_refused_not_wrong() -> None:
    pictures, weight = drawn(1, 3, 4, 4), drawn(5, 3, 4, 4)
    (gradient,) = torch.autograd.grad(
        Halve.apply(pictures, weight).square().sum(), pictures, create_graph=True
    )
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


def ways(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The channels of every layer that goes by products from now on."""
    taken: list[int] = []
    for name in ("Halve", "Double"):
        function = getattr(networks, name)

        class Watched:
            real = function

            @classmethod
            def apply(cls, pictures: Tensor, weight: Tensor) -> Tensor:
                taken.append(weight.shape[1])
                return cls.real.apply(pictures, weight)  # type: ignore[no-any-return]

        monkeypatch.setattr(networks, name, Watched)
    return taken


def test_only_wide_layers_in_bfloat16_go_by_products(monkeypatch: pytest.MonkeyPatch) -> None:
    taken = ways(monkeypatch)
    generator, discriminator = Generator(), Discriminator()
    latents = torch.randn(2, 100)
    discriminator(generator(latents))
    assert taken == []
    with torch.autocast("cpu", torch.bfloat16):
        discriminator(generator(latents))
    assert taken == [256, 128, 128, 256]
    assert min(taken) >= FEWEST_CHANNELS


@pytest.mark.parametrize("bias", [True, False])
def test_bfloat16_layers_agree_with_float32(bias: bool) -> None:
    torch.manual_seed(0)
    halving = HalvingConv2d(128, 128, bias=bias)
    doubling = DoublingConv2d(128, 128)
    if halving.bias is not None:
        nn.init.normal_(halving.bias)
    pictures = torch.randn(2, 128, 8, 8).contiguous(memory_format=torch.channels_last)
    for layer in (halving, doubling):
        exact = layer(pictures)
        exact.square().mean().backward()
        gradients = [p.grad.clone() for p in layer.parameters() if p.grad is not None]
        layer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            ours = layer(pictures)
        assert ours.dtype is torch.bfloat16
        ours.float().square().mean().backward()
        # bfloat16 keeps 8 bits; sums of up to four patches round once more each
        assert (ours - exact).norm() < 0.01 * exact.norm()
        for parameter, gradient in zip(layer.parameters(), gradients, strict=True):
            assert parameter.grad is not None
            assert parameter.grad.dtype is torch.float32
            assert (parameter.grad - gradient).norm() < 0.02 * gradient.norm()
