"""The averaged Generator: what is sampled, saved and exported.

Parameters are averaged (Yazici et al., arXiv:1806.04498). BatchNorm's running statistics
are not averaged and not copied from the training network, whose statistics belong to other
weights: they are measured anew on the averaged weights.
"""

from __future__ import annotations

import copy

import torch
from torch import nn

from training.networks import Generator


class GeneratorEMA:
    """Exponential moving average of a Generator's parameters.

    The decay is ramped up, ``min(decay, (1 + t) / (10 + t))`` at update t, so that early
    averages are not dominated by the initial weights.
    """

    def __init__(self, generator: Generator, decay: float) -> None:
        self.decay = decay
        self.generator = copy.deepcopy(generator).requires_grad_(False)

    @torch.no_grad()
    def update(self, generator: Generator, step: int) -> None:
        """Move towards ``generator`` after its update number ``step`` (from 0)."""
        decay = min(self.decay, (1 + step) / (10 + step)) if self.decay else 0.0
        averaged: list[torch.Tensor] = list(self.generator.parameters())
        torch._foreach_lerp_(averaged, [*generator.parameters()], 1.0 - decay)


@torch.no_grad()
def recalibrate(generator: Generator, images: int, batch_size: int = 64) -> Generator:
    """A copy in eval mode whose BatchNorm statistics are measured on ``images`` random latents.

    The latents come from a fixed seed, so equal weights give an equal copy.
    """
    copied = copy.deepcopy(generator).train()
    norms = [m for m in copied.modules() if isinstance(m, nn.BatchNorm2d)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # None: plain mean over the batches
    rng = torch.Generator().manual_seed(0)
    device = next(copied.parameters()).device
    for _ in range(max(1, images // batch_size)):
        copied(torch.randn(batch_size, copied.nz, generator=rng).to(device))
    for norm in norms:
        norm.momentum = 0.1
    return copied.eval()
