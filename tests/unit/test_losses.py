"""Losses against their definitions, and the gradient that BCELoss would lose."""

import math

import pytest
import torch

from training.augment import add_instance_noise, diff_augment
from training.losses import loss_fake, loss_generator, loss_real, r1_penalty

pytestmark = pytest.mark.unit


def test_values_by_definition() -> None:
    logits = torch.tensor([0.3, -1.2])
    p = logits.sigmoid()
    assert loss_real(logits, 0.0).item() == pytest.approx(-p.log().mean().item(), rel=1e-5)
    assert loss_fake(logits).item() == pytest.approx(-(1 - p).log().mean().item(), rel=1e-5)
    assert loss_generator(logits).item() == pytest.approx(-p.log().mean().item(), rel=1e-5)
    smoothed = -(0.9 * p.log() + 0.1 * (1 - p).log()).mean().item()
    assert loss_real(logits, 0.1).item() == pytest.approx(smoothed, rel=1e-5)


def test_gradient_survives_a_discriminator_that_has_won() -> None:
    logit = torch.tensor([30.0], requires_grad=True)
    loss_fake(logit).backward()
    assert logit.grad is not None
    assert logit.grad.item() == pytest.approx(1.0)
    losing = torch.tensor([-110.0], requires_grad=True)
    loss_generator(losing).backward()
    assert losing.grad is not None
    assert losing.grad.item() == pytest.approx(-1.0)
    # What the tutorial's Sigmoid followed by BCELoss makes of the same logits:
    lost = torch.tensor([30.0], requires_grad=True)
    torch.nn.functional.binary_cross_entropy(lost.sigmoid(), torch.zeros(1)).backward()
    assert lost.grad is not None
    assert lost.grad.item() == 0.0


def test_r1_of_a_linear_discriminator_is_its_squared_norm() -> None:
    flat = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 1, bias=False))
    penalty = r1_penalty(flat, torch.randn(5, 3, 2, 2))
    weight = flat[1].weight
    assert penalty.item() == pytest.approx(weight.square().sum().item(), rel=1e-5)
    penalty.backward()
    assert torch.allclose(weight.grad, 2 * weight, rtol=1e-4)


def test_augmentation_passes_gradients_and_repeats_for_a_seed() -> None:
    pictures = torch.rand(6, 3, 32, 32, requires_grad=True)
    first = diff_augment(pictures, torch.Generator().manual_seed(4))
    again = diff_augment(pictures, torch.Generator().manual_seed(4))
    other = diff_augment(pictures, torch.Generator().manual_seed(5))
    assert first.shape == pictures.shape
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    first.sum().backward()
    assert pictures.grad is not None
    assert (pictures.grad != 0).any()
    assert (first == 0).flatten(1).any(dim=1).all()  # each picture has its hole


def test_instance_noise_has_the_given_standard_deviation() -> None:
    noisy = add_instance_noise(torch.zeros(64, 3, 32, 32), 0.1, torch.Generator().manual_seed(0))
    assert noisy.std().item() == pytest.approx(0.1, rel=0.02)
    assert math.isclose(noisy.mean().item(), 0.0, abs_tol=0.002)
