"""The adversarial losses, on D's raw outputs, and what keeps the Discriminator in check.

Losses on logits keep their gradient where sigmoid + BCELoss loses it: with a fake logit of
17 or more sigmoid rounds to 1 in float32 and its gradient is exactly 0.

| loss | D minimises | G minimises | source |
|---|---|---|---|
| non-saturating | BCE(real, 1) + BCE(fake, 0) | BCE(fake, 1) | arXiv:1406.2661 |
| hinge | E max(0, 1 - real) + E max(0, 1 + fake) | -E fake | arXiv:1705.02894 |
| lsgan | E (real - 1)^2 / 2 + E fake^2 / 2 | E (fake - 1)^2 / 2 | arXiv:1611.04076 |
| relativistic | BCE(real - fake, 1) | BCE(fake - real, 1) | arXiv:1807.00734, 2501.05441 |

The relativistic loss compares in pairs, picture i of the batch with sample i: samples that all flee
to one side gain nothing by it, as the real pictures' outputs follow. The levels at which D has won
by a loss are in ``training.health``.

What is done to a picture before the Discriminator sees it is differentiable, so that the Generator
learns through it, and of the same kind for real and generated pictures, so that it does not leak
into the samples (DiffAugment: Zhao et al., arXiv:2006.10738; instance noise: Sonderby et al.,
arXiv:1610.04490).
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from training.distributed import ALONE, World

Loss = Literal["non-saturating", "hinge", "lsgan", "relativistic"]
LOGITS: tuple[Loss, ...] = ("non-saturating", "relativistic")  # D's opinions are probabilities


def loss_discriminator(real: Tensor, fake: Tensor, loss: Loss, smoothing: float = 0.0) -> Tensor:
    """What D minimises.

    Args:
        real, fake: D's raw outputs on real and on generated pictures, (N,) float.
        loss: which of the table above.
        smoothing: of non-saturating: the target of real pictures is 1 minus this
            (arXiv:1606.03498).

    Returns:
        scalar, the mean.
    """
    match loss:
        case "relativistic":
            return F.softplus(fake - real).mean()
        case "hinge":
            return F.relu(1.0 - real).mean() + F.relu(1.0 + fake).mean()
        case "lsgan":
            return (real - 1.0).square().mean() / 2 + fake.square().mean() / 2
        case "non-saturating":
            targets = torch.full_like(real, 1.0 - smoothing)
            on_real = F.binary_cross_entropy_with_logits(real, targets)
            return on_real + F.binary_cross_entropy_with_logits(fake, torch.zeros_like(fake))


def loss_generator(fake: Tensor, real: Tensor, loss: Loss) -> Tensor:
    """What G minimises; arguments as of ``loss_discriminator`` -> scalar, the mean.

    Only relativistic looks at ``real``.
    """
    match loss:
        case "relativistic":
            return F.softplus(real - fake).mean()
        case "hinge":
            return -fake.mean()
        case "lsgan":
            return (fake - 1.0).square().mean() / 2
        case "non-saturating":
            return F.binary_cross_entropy_with_logits(fake, torch.ones_like(fake))


def opinion(outputs: Tensor, others: Tensor, loss: Loss) -> Tensor:
    """What is reported as D(x) and D(G(z)): the mean probability of being real, where there is one.

    Of a relativistic D: of being more real than the other one of the pair. For hinge and lsgan,
    whose D gives no logit, the mean raw output, with the decision at 0 and at 0.5.

    Args:
        outputs: D's raw outputs on the pictures in question, (N,) float.
        others: those on the others, generated or real.
    """
    if loss == "relativistic":
        outputs = outputs - others
    return (outputs.sigmoid() if loss in LOGITS else outputs).mean()


def r1_penalty(discriminator: nn.Module, real: Tensor) -> Tensor:
    """|grad_x D(x)|^2 of each real picture (Mescheder et al., arXiv:1801.04406, eq. 9).

    Args:
        real: (N, C, H, W) float32; N may be 0.

    Returns:
        (N,); multiply the mean by gamma / 2.
    """
    real = real.detach().requires_grad_(True)
    (gradient,) = torch.autograd.grad(discriminator(real).sum(), real, create_graph=True)
    return gradient.square().sum(dim=(1, 2, 3))


class StepDraws:
    """Everything random in one update, from (seed, step) alone: a resumed run needs no saved state.

    They are drawn on the CPU for the whole batch, of which a process keeps its own share: what
    happens to a picture does not depend on how many devices there are, nor on their kind.

    Args:
        seed: of the run.
        step: number of the update, from 0.
        count: pictures of this process; each of the others has as many.
        world: which process this is.
        device: where the numbers are wanted.
    """

    def __init__(
        self, seed: int, step: int, count: int, device: torch.device, world: World = ALONE
    ) -> None:
        (state,) = np.random.SeedSequence([seed, step]).generate_state(1, np.uint64)
        self._rng = torch.Generator().manual_seed(int(state))
        self._total, self._share, self.device = count * world.size, world.share, device

    def normal(self, *shape: int) -> Tensor:
        """N(0, 1), float32 (count, *shape)."""
        return self._mine(torch.randn(self._total, *shape, generator=self._rng))

    def uniform(self, low: float, high: float, *shape: int) -> Tensor:
        """U(low, high), float32 (count, *shape)."""
        drawn = torch.rand(self._total, *shape, generator=self._rng)
        return self._mine(drawn * (high - low) + low)

    def integers(self, low: int, high: int, *shape: int) -> Tensor:
        """From low to high - 1, int64 (count, *shape)."""
        return self._mine(torch.randint(low, high, (self._total, *shape), generator=self._rng))

    def _mine(self, drawn: Tensor) -> Tensor:
        mine = drawn[self._share]
        if self.device.type == "cuda":  # a copy from ordinary memory would wait for the GPU
            mine = mine.contiguous().pin_memory()
        return mine.to(self.device, non_blocking=True)


def diff_augment(pictures: Tensor, draws: StepDraws) -> Tensor:
    """Random brightness, saturation, contrast, translation up to 1/8, cutout of half the side.

    Args:
        pictures: (N, C, H, W) float.
        draws: where all random choices come from.

    Returns:
        the same shape and dtype.
    """

    def uniform(low: float, high: float) -> Tensor:
        return draws.uniform(low, high, 1, 1, 1).to(pictures.dtype)

    x = pictures + uniform(-0.5, 0.5)
    mean = x.mean(dim=1, keepdim=True)
    x = (x - mean) * uniform(0.0, 2.0) + mean
    mean = x.mean(dim=(1, 2, 3), keepdim=True)
    x = (x - mean) * uniform(0.5, 1.5) + mean
    return _cutout(_translate(x, draws), draws)


def _translate(x: Tensor, draws: StepDraws) -> Tensor:
    count, _, height, width = x.shape
    most_y, most_x = height // 8, width // 8
    dy = draws.integers(-most_y, most_y + 1)
    dx = draws.integers(-most_x, most_x + 1)
    padded = F.pad(x, (most_x, most_x, most_y, most_y))
    rows = torch.arange(height, device=x.device)[None] + dy[:, None] + most_y
    columns = torch.arange(width, device=x.device)[None] + dx[:, None] + most_x
    index = torch.arange(count, device=x.device)[:, None, None]
    return padded[index, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def _cutout(x: Tensor, draws: StepDraws) -> Tensor:
    height, width = x.shape[2:]
    y0 = draws.integers(-height // 4, height * 3 // 4, 1)
    x0 = draws.integers(-width // 4, width * 3 // 4, 1)
    rows = torch.arange(height, device=x.device)[None]
    columns = torch.arange(width, device=x.device)[None]
    cut_rows = (rows >= y0) & (rows < y0 + height // 2)
    cut_columns = (columns >= x0) & (columns < x0 + width // 2)
    hole = cut_rows[:, None, :, None] & cut_columns[:, None, None, :]
    return x * (~hole).to(x.dtype)


def add_instance_noise(pictures: Tensor, std: float, draws: StepDraws) -> Tensor:
    """Gaussian noise of the given standard deviation; (N, C, H, W) float, same out."""
    return pictures + std * draws.normal(*pictures.shape[1:]).to(pictures.dtype)
