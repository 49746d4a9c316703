"""The networks of the paper: shapes, layers, counts, initial weights, products of matrices."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from training import networks
from training.losses import loss_discriminator
from training.networks import (
    FEWEST_CHANNELS,
    IMAGE_SIZES,
    Discriminator,
    Double,
    DoublingConv2d,
    Generator,
    GroupLogits,
    Halve,
    HalvingConv2d,
    gather,
    new_generator,
    scatter,
)

pytestmark = [pytest.mark.usefixtures("quick")]


def test_parameter_counts_of_the_tutorial() -> None:
    for network, count in ((Generator(), 3_576_704), (Discriminator(), 2_765_568)):
        assert sum(parameter.numel() for parameter in network.parameters()) == count


@pytest.mark.parametrize("image_size", IMAGE_SIZES)
@pytest.mark.parametrize("channels", [1, 3])
def test_every_size_and_channel_count(image_size: int, channels: int) -> None:
    generator = Generator(nz=7, ngf=2, channels=channels, image_size=image_size)
    pictures = generator(torch.randn(2, 7))
    assert pictures.shape == (2, channels, image_size, image_size)
    assert pictures.abs().max() <= 1
    logits = Discriminator(2, channels, image_size)(pictures)
    assert logits.shape == (2,)


def test_feature_maps_double_from_4_px_to_64() -> None:
    value, shapes = torch.zeros(2, 100, 1, 1), []
    for layer in Generator().layers:
        value = layer(value)
        if isinstance(layer, nn.ConvTranspose2d):
            shapes.append(tuple(value.shape[1:]))
    assert shapes == [(512, 4, 4), (256, 8, 8), (128, 16, 16), (64, 32, 32), (3, 64, 64)]


@pytest.mark.parametrize(("size", "channels"), [(48, 3), (0, 3), (512, 3), (64, 2), (64, 4)])
def test_unsupported_geometry_names_what_is_allowed(size: int, channels: int) -> None:
    with pytest.raises(ValueError, match=r"32, 64, 128, 256|1 \(grey\) or 3"):
        Generator(image_size=size, channels=channels)


def test_architecture_guidelines() -> None:
    """Paper, section 3: no pooling, no hidden linear layer, where BatchNorm and which ReLU."""
    for network in (Generator(), Discriminator()):
        kinds = [type(m).__name__ for m in network.modules()]
        assert not any("Pool" in kind or kind == "Linear" for kind in kinds)
        convolutions = [
            m for m in network.modules() if isinstance(m, nn.Conv2d | nn.ConvTranspose2d)
        ]
        assert all(m.bias is None and m.kernel_size == (4, 4) for m in convolutions)
    generator, discriminator = list(Generator().layers), list(Discriminator().layers)
    assert isinstance(generator[-1], nn.Tanh)
    assert isinstance(generator[-2], nn.ConvTranspose2d)  # no BatchNorm on G's output
    assert isinstance(discriminator[1], nn.LeakyReLU)  # none on D's input layer
    assert sum(isinstance(m, nn.BatchNorm2d) for m in generator) == 4
    assert sum(isinstance(m, nn.BatchNorm2d) for m in discriminator) == 3
    assert all(m.negative_slope == 0.2 for m in discriminator if isinstance(m, nn.LeakyReLU))
    assert isinstance(discriminator[-1], nn.Conv2d)  # logits: no Sigmoid


@pytest.mark.parametrize("norm", ["batch", "spectral", "none"])
def test_initial_weights_are_drawn_with_std_0_02(norm: str) -> None:
    torch.manual_seed(0)
    discriminator = Discriminator(norm=norm)  # type: ignore[arg-type]
    tensors = dict(discriminator.named_parameters())
    suffix = "parametrizations.weight.original" if norm == "spectral" else "weight"
    for index in (0, 2, 3):  # whichever of them are convolutions
        weight = tensors.get(f"layers.{index}.{suffix}")
        if weight is not None and weight.ndim == 4:
            assert weight.std().item() == pytest.approx(0.02, rel=0.05)
            assert abs(weight.mean().item()) < 0.001
    generator = new_generator(100, 64, 3, 64)
    gains = torch.cat([m.weight for m in generator.modules() if isinstance(m, nn.BatchNorm2d)])
    assert gains.mean().item() == pytest.approx(1.0, abs=0.01)
    assert gains.std().item() == pytest.approx(0.02, rel=0.2)


def test_the_deviations_of_a_group_are_added_to_its_logits() -> None:
    """Pictures 0 and 2 are one group, 1 and 3 the other; of each feature its mean counts."""
    last = GroupLogits(2, group=2)
    torch.nn.init.ones_(last.weight)
    features = torch.zeros(4, 2, 4, 4)
    features[:, 0] = torch.tensor([0.0, 1.0, 6.0, 1.0])[:, None, None]
    features[2, 1, 0, 0] = 16.0  # a mean of 1
    alone = [0.0, 16.0, 96.0 + 16.0, 16.0]
    with torch.no_grad():
        assert last(features).flatten().tolist() == alone  # nothing is compared at first
        last.deviation_weight.copy_(torch.tensor([1.0, 100.0]))
        compared = (last(features).flatten() - torch.tensor(alone)).tolist()
        assert compared == pytest.approx([53.0, 0.0101, 53.0, 0.0101], rel=1e-3)
        # 4 pictures are no groups of 3: one group of all.
        last.group = 3
        last.deviation_weight.copy_(torch.tensor([1.0, 0.0]))
        compared = (last(features).flatten() - torch.tensor(alone)).tolist()
        assert compared == pytest.approx([5.5**0.5] * 4)


def taught(discriminator: Discriminator, real: Tensor, fake: Tensor) -> None:
    """60 updates of D on always the same pictures."""
    adam = torch.optim.Adam(discriminator.parameters(), 0.01, (0.5, 0.999))
    for _ in range(60):
        adam.zero_grad()
        loss = loss_discriminator(discriminator(real), discriminator(fake), "hinge")
        loss.backward()  # type: ignore[no-untyped-call]
        adam.step()


def test_a_group_shows_what_no_picture_shows() -> None:
    """Real: two pictures in equal parts. Generated: only one of the two, which is real as well."""
    torch.manual_seed(0)
    kinds = torch.rand(2, 1, 32, 32) * 2 - 1
    real, collapsed = kinds.repeat(4, 1, 1, 1), kinds[:1].repeat(8, 1, 1, 1)
    gap = {}
    for group in (0, 8):
        discriminator = Discriminator(4, 1, 32, "none", group)
        taught(discriminator, real, collapsed)
        with torch.no_grad():
            gap[group] = float(discriminator(real)[0] - discriminator(collapsed)[0])
    assert gap[0] == pytest.approx(0.0, abs=1e-5)  # the same picture
    assert gap[8] > 1.0


@pytest.mark.parametrize("norm", ["batch", "spectral", "none"])
def test_a_grey_picture_is_told_apart_from_real_ones(norm: str) -> None:
    """A network of convolutions without biases says 0 to it, whatever it learns."""
    torch.manual_seed(0)
    discriminator = Discriminator(4, 1, 32, norm)  # type: ignore[arg-type]
    real, grey = torch.rand(8, 1, 32, 32) * 2 - 1, torch.zeros(8, 1, 32, 32)
    taught(discriminator, real, grey)
    assert discriminator(grey).max() < -0.5
    assert discriminator(real).min() > 0.5


def drawn(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(sum(shape))
    return torch.randn(*shape, generator=generator, dtype=dtype).requires_grad_()


# The channels that come in, for a kernel (5, 3, 4, 4).
WAYS = pytest.mark.parametrize(("function", "channels"), [(Halve, 3), (Double, 5)])


@WAYS
@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
def test_products_are_the_convolution(
    function: type[Halve | Double], channels: int, layout: torch.memory_format
) -> None:
    given = [drawn(2, channels, 6, 8), drawn(5, 3, 4, 4)]
    ours = function.apply(*(each.contiguous(memory_format=layout) for each in given))
    convolution = F.conv2d if function is Halve else F.conv_transpose2d
    torch.testing.assert_close(ours, convolution(*given, stride=2, padding=1))


@WAYS
def test_gradients_are_those_of_finite_differences_and_only_those_asked_for(
    function: type[Halve | Double], channels: int
) -> None:
    pictures, weight = drawn(2, channels, 4, 6), drawn(5, 3, 4, 4)
    assert torch.autograd.gradcheck(function.apply, (pictures, weight))
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


def test_only_wide_layers_in_bfloat16_go_by_products(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[int] = []  # the channels of the larger pictures

    def watched_gather(pictures: Tensor) -> Tensor:
        taken.append(pictures.shape[1])
        return gather(pictures)

    def watched_scatter(patches: Tensor, *size: int) -> Tensor:
        taken.append(patches.shape[1] // 16)
        return scatter(patches, *size)

    monkeypatch.setattr(networks, "gather", watched_gather)
    monkeypatch.setattr(networks, "scatter", watched_scatter)
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
            assert parameter.grad.dtype is torch.float32
            assert (parameter.grad - gradient).norm() < 0.02 * gradient.norm()
