"""The adversarial losses, on D's raw outputs, and what keeps the Discriminator in check.

Losses on logits keep their gradient where sigmoid + BCELoss loses it: with a fake logit of
17 or more sigmoid rounds to 1 in float32 and its gradient is exactly 0.

| loss | D minimises | G minimises | source |
|---|---|---|---|
| non-saturating | BCE(real, 1) + BCE(fake, 0) | BCE(fake, 1) | arXiv:1406.2661 |
| hinge | E max(0, 1 - real) + E max(0, 1 + fake) | -E fake | arXiv:1705.02894 |
| lsgan | E (real - 1)^2 / 2 + E fake^2 / 2 | E (fake - 1)^2 / 2 | arXiv:1611.04076 |
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Loss = Literal["non-saturating", "hinge", "lsgan"]
# The raw output above which D takes a picture for a real one.
BOUNDARY: dict[Loss, float] = {"non-saturating": 0.0, "hinge": 0.0, "lsgan": 0.5}


def loss_real(outputs: Tensor, loss: Loss, smoothing: float = 0.0) -> Tensor:
    """What D minimises on real pictures.

    Args:
        outputs: D's raw outputs, (N,) float.
        loss: which of the table above.
        smoothing: of non-saturating: the target is 1 minus this (arXiv:1606.03498).

    Returns:
        scalar, the mean.
    """
    if loss == "hinge":
        return F.relu(1.0 - outputs).mean()
    if loss == "lsgan":
        return (outputs - 1.0).square().mean() / 2
    return F.binary_cross_entropy_with_logits(outputs, torch.full_like(outputs, 1.0 - smoothing))


def loss_fake(outputs: Tensor, loss: Loss) -> Tensor:
    """What D minimises on generated pictures; outputs (N,) -> scalar, the mean."""
    if loss == "hinge":
        return F.relu(1.0 + outputs).mean()
    if loss == "lsgan":
        return outputs.square().mean() / 2
    return F.binary_cross_entropy_with_logits(outputs, torch.zeros_like(outputs))


def loss_generator(outputs: Tensor, loss: Loss) -> Tensor:
    """What G minimises; D's raw outputs on generated pictures (N,) -> scalar, the mean."""
    if loss == "hinge":
        return -outputs.mean()
    if loss == "lsgan":
        return (outputs - 1.0).square().mean() / 2
    return F.binary_cross_entropy_with_logits(outputs, torch.ones_like(outputs))


def opinion(outputs: Tensor, loss: Loss) -> Tensor:
    """What is reported as D(x): the mean probability of being real, where there is one.

    Only non-saturating makes D's output a logit. For hinge and lsgan it is the mean raw output,
    with the decision at 0 and at 0.5 (``BOUNDARY``).
    """
    return (outputs.sigmoid() if loss == "non-saturating" else outputs).mean()


def r1_penalty(discriminator: nn.Module, real: Tensor) -> Tensor:
    """|grad_x D(x)|^2 of each real picture (Mescheder et al., arXiv:1801.04406, eq. 9).

    Args:
        real: (N, C, H, W) float32; N may be 0.

    Returns:
        (N,); multiply the mean by gamma / 2.
    """
    real = real.detach().requires_grad_(True)
    (gradient,) = torch.autograd.grad(discriminator(real).sum(), real, create_graph=True)
    penalties: Tensor = gradient.square().sum(dim=(1, 2, 3))
    return penalties
