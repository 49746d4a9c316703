"""Losses against numbers worked out by hand, and the gradient that BCELoss would lose."""

from __future__ import annotations

import math
from typing import get_args

import pytest
import torch
from torch import Tensor

from training.distributed import CPU, World
from training.losses import (
    Loss,
    StepDraws,
    add_instance_noise,
    diff_augment,
    loss_discriminator,
    loss_generator,
    opinion,
    r1_penalty,
)

REAL, FAKE = [2.0, -1.0], [-1.0, 0.5]  # D's outputs below
# Of each loss, for the two pictures and before the mean: D's loss, its derivatives by the outputs
# on real and on generated pictures; G's loss, its derivatives by those on generated ones.
#   BCE to 1: softplus(-x), -sigmoid(-x)         BCE to 0: softplus(x), sigmoid(x)
BY_HAND: dict[Loss, tuple[list[float], ...]] = {
    "non-saturating": (
        [0.126928 + 0.313262, 1.313262 + 0.974077], [-0.119203, -0.731059], [0.268941, 0.622459],
        [1.313262, 0.474077], [-0.731059, -0.377541],
    ),
    "hinge": ([0.0, 2.0 + 1.5], [0.0, -1.0], [0.0, 1.0], [1.0, -0.5], [-1.0, -1.0]),
    "lsgan": ([0.5 + 0.5, 2.0 + 0.125], [1.0, -2.0], [-1.0, 0.5], [2.0, 0.125], [-2.0, -0.5]),
    # Of the differences, 3 and -1.5.
    "relativistic": (
        [0.048587, 1.701413], [-0.047426, -0.817574], [0.047426, 0.817574],
        [3.048587, 0.201413], [-0.952574, -0.182426],
    ),
}  # fmt: skip


def outputs(values: list[float]) -> Tensor:
    return torch.tensor(values, requires_grad=True)


def halves(values: list[float]) -> object:
    return pytest.approx([value / 2 for value in values], abs=1e-5)


@pytest.mark.parametrize("loss", BY_HAND)
def test_values_and_gradients_by_hand(loss: Loss) -> None:
    of_d, by_real, by_fake, of_g, of_g_by_fake = BY_HAND[loss]
    real, fake = outputs(REAL), outputs(FAKE)
    value = loss_discriminator(real, fake, loss)
    value.backward()
    assert value.item() == pytest.approx(sum(of_d) / 2, abs=1e-5)
    assert real.grad.tolist() == halves(by_real)
    assert fake.grad.tolist() == halves(by_fake)
    fake = outputs(FAKE)
    value = loss_generator(fake, real.detach(), loss)
    value.backward()
    assert value.item() == pytest.approx(sum(of_g) / 2, abs=1e-5)
    assert fake.grad.tolist() == halves(of_g_by_fake)


def test_every_loss_has_been_worked_out() -> None:
    assert set(BY_HAND) == set(get_args(Loss))


def test_smoothed_labels_by_hand() -> None:
    real, fake = outputs(REAL), outputs(FAKE)
    value = loss_discriminator(real, fake, "non-saturating", 0.1)
    value.backward()
    # 0.9 BCE to 1 + 0.1 BCE to 0 of real pictures; those of generated ones as ever
    assert value.item() == pytest.approx((0.326928 + 1.213262 + 0.313262 + 0.974077) / 2, abs=1e-5)
    assert real.grad.tolist() == halves([0.880797 - 0.9, 0.268941 - 0.9])


def test_opinion_is_a_probability_only_where_there_is_one() -> None:
    real, fake = torch.tensor(REAL), torch.tensor(FAKE)
    assert opinion(real, fake, "non-saturating").item() == pytest.approx(0.574869, abs=1e-5)
    assert opinion(real, fake, "relativistic").item() == pytest.approx(0.5675, abs=1e-5)
    assert opinion(fake, real, "relativistic").item() == pytest.approx(0.4325, abs=1e-5)
    assert opinion(real, fake, "hinge").item() == opinion(real, fake, "lsgan").item() == 0.5


@pytest.mark.parametrize("loss", ["non-saturating", "relativistic"])
def test_gradient_survives_a_discriminator_that_has_won(loss: Loss) -> None:
    real, fake = outputs([0.0]), outputs([30.0])
    loss_discriminator(real, fake, loss).backward()
    assert fake.grad.item() == pytest.approx(1.0)
    losing = outputs([-110.0])
    loss_generator(losing, real.detach(), loss).backward()
    assert losing.grad.item() == pytest.approx(-1.0)
    # What the tutorial's Sigmoid followed by BCELoss makes of the same logits:
    lost = torch.tensor([30.0], requires_grad=True)
    torch.nn.functional.binary_cross_entropy(lost.sigmoid(), torch.zeros(1)).backward()
    assert lost.grad.item() == 0.0


def test_r1_of_a_linear_discriminator_is_its_squared_norm() -> None:
    flat = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 1, bias=False))
    penalties = r1_penalty(flat, torch.randn(5, 3, 2, 2))
    weight = flat[1].weight
    assert penalties.tolist() == pytest.approx([weight.square().sum().item()] * 5, rel=1e-5)
    penalties.mean().backward()
    assert torch.allclose(weight.grad, 2 * weight, rtol=1e-4)


def test_augmentation_passes_gradients_and_repeats_for_a_seed() -> None:
    pictures = torch.rand(6, 3, 32, 32, requires_grad=True)
    first, again, other = (diff_augment(pictures, StepDraws(seed, 0, 6, CPU)) for seed in (4, 4, 5))
    assert first.shape == pictures.shape
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    first.sum().backward()
    assert (pictures.grad != 0).any()
    assert (first == 0).flatten(1).any(dim=1).all()  # each picture has its hole


def test_instance_noise_has_the_given_standard_deviation() -> None:
    noisy = add_instance_noise(torch.zeros(64, 3, 32, 32), 0.1, StepDraws(0, 0, 64, CPU))
    assert noisy.std().item() == pytest.approx(0.1, rel=0.02)
    assert math.isclose(noisy.mean().item(), 0.0, abs_tol=0.002)


def test_shares_of_the_random_numbers_are_those_of_the_whole() -> None:
    def draw(count: int, world: World) -> list[torch.Tensor]:
        draws = StepDraws(5, 7, count, CPU, world)
        return [draws.normal(3), draws.uniform(-1.0, 1.0, 2), draws.integers(0, 99)]

    whole = draw(6, World())
    shares = [draw(3, World(rank, 2)) for rank in range(2)]
    for i, expected in enumerate(whole):
        for rank in range(2):
            assert torch.equal(shares[rank][i], expected[rank::2])
    other = StepDraws(5, 8, 6, CPU)
    assert not torch.equal(other.normal(3), whole[0])
