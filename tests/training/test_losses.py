"""Losses against numbers worked out by hand, and the gradient that BCELoss would lose."""

from __future__ import annotations

import math
from typing import get_args

import pytest
import torch
from torch import Tensor

from training.distributed import World
from training.losses import (
    BOUNDARY,
    Loss,
    StepDraws,
    add_instance_noise,
    diff_augment,
    loss_fake,
    loss_generator,
    loss_real,
    opinion,
    r1_penalty,
)

CPU = torch.device("cpu")
HALVES = [2.0, -1.0]  # D's outputs below; sigmoid 0.880797 and 0.268941
# Loss of each of the two outputs, and its derivative, before the mean:
#   BCE to 1: softplus(-x), -sigmoid(-x)         BCE to 0: softplus(x), sigmoid(x)
BY_HAND: dict[tuple[str, Loss], tuple[list[float], list[float]]] = {
    ("real", "non-saturating"): ([0.126928, 1.313262], [-0.119203, -0.731059]),
    ("fake", "non-saturating"): ([2.126928, 0.313262], [0.880797, 0.268941]),
    ("generator", "non-saturating"): ([0.126928, 1.313262], [-0.119203, -0.731059]),
    ("real", "hinge"): ([0.0, 2.0], [0.0, -1.0]),
    ("fake", "hinge"): ([3.0, 0.0], [1.0, 0.0]),
    ("generator", "hinge"): ([-2.0, 1.0], [-1.0, -1.0]),
    ("real", "lsgan"): ([0.5, 2.0], [1.0, -2.0]),
    ("fake", "lsgan"): ([2.0, 0.5], [2.0, -1.0]),
    ("generator", "lsgan"): ([0.5, 2.0], [1.0, -2.0]),
}
FUNCTIONS = {"real": loss_real, "fake": loss_fake, "generator": loss_generator}


@pytest.mark.parametrize(("side", "loss"), BY_HAND)
def test_value_and_gradient_by_hand(side: str, loss: Loss) -> None:
    outputs = torch.tensor(HALVES, requires_grad=True)
    value: Tensor = FUNCTIONS[side](outputs, loss)
    value.backward()
    values, derivatives = BY_HAND[side, loss]
    assert value.item() == pytest.approx(sum(values) / 2, abs=1e-5)
    assert outputs.grad is not None
    assert outputs.grad.tolist() == pytest.approx([d / 2 for d in derivatives], abs=1e-5)


def test_every_loss_has_been_worked_out() -> None:
    assert {loss for _, loss in BY_HAND} == set(get_args(Loss)) == set(BOUNDARY)


def test_smoothed_labels_by_hand() -> None:
    outputs = torch.tensor(HALVES, requires_grad=True)
    value = loss_real(outputs, "non-saturating", 0.1)
    value.backward()
    # 0.9 BCE to 1 + 0.1 BCE to 0
    assert value.item() == pytest.approx((0.326928 + 1.213262) / 2, abs=1e-5)
    assert outputs.grad is not None
    assert outputs.grad.tolist() == pytest.approx(
        [(0.880797 - 0.9) / 2, (0.268941 - 0.9) / 2], abs=1e-5
    )


def test_opinion_is_a_probability_only_where_there_is_one() -> None:
    outputs = torch.tensor(HALVES)
    assert opinion(outputs, "non-saturating").item() == pytest.approx(0.574869, abs=1e-5)
    assert opinion(outputs, "hinge").item() == opinion(outputs, "lsgan").item() == 0.5


def test_gradient_survives_a_discriminator_that_has_won() -> None:
    logit = torch.tensor([30.0], requires_grad=True)
    loss_fake(logit, "non-saturating").backward()
    assert logit.grad is not None
    assert logit.grad.item() == pytest.approx(1.0)
    losing = torch.tensor([-110.0], requires_grad=True)
    loss_generator(losing, "non-saturating").backward()
    assert losing.grad is not None
    assert losing.grad.item() == pytest.approx(-1.0)
    # What the tutorial's Sigmoid followed by BCELoss makes of the same logits:
    lost = torch.tensor([30.0], requires_grad=True)
    torch.nn.functional.binary_cross_entropy(lost.sigmoid(), torch.zeros(1)).backward()
    assert lost.grad is not None
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
    assert pictures.grad is not None
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
