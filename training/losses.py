"""The adversarial losses, on logits, and what keeps the Discriminator in check.

Losses on logits keep their gradient where sigmoid + BCELoss loses it: with a fake logit of
17 or more sigmoid rounds to 1 in float32 and its gradient is exactly 0.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def loss_real(logits: Tensor, smoothing: float) -> Tensor:
    """Mean BCE of D on real pictures against the target 1 - smoothing; logits (N,)."""
    return F.binary_cross_entropy_with_logits(logits, torch.full_like(logits, 1.0 - smoothing))


def loss_fake(logits: Tensor) -> Tensor:
    """Mean BCE of D on generated pictures against the target 0; logits (N,)."""
    return F.binary_cross_entropy_with_logits(logits, torch.zeros_like(logits))


def loss_generator(logits: Tensor) -> Tensor:
    """Non-saturating loss: maximise log D(G(z)) (Goodfellow et al., arXiv:1406.2661, sec. 3)."""
    return F.binary_cross_entropy_with_logits(logits, torch.ones_like(logits))


def r1_penalty(discriminator: nn.Module, real: Tensor) -> Tensor:
    """E[|grad_x D(x)|^2] on real pictures (Mescheder et al., arXiv:1801.04406, eq. 9).

    Args:
        real: (N, C, H, W) float32.

    Returns:
        scalar; multiply by gamma / 2.
    """
    real = real.detach().requires_grad_(True)
    (gradient,) = torch.autograd.grad(discriminator(real).sum(), real, create_graph=True)
    return gradient.square().sum(dim=(1, 2, 3)).mean()
