"""What is done to a picture, real or generated, before the Discriminator sees it.

Differentiable, so that the Generator learns through it, and the same kind for real and
generated pictures, so that it does not leak into the samples (DiffAugment: Zhao et al.,
arXiv:2006.10738; instance noise: Sonderby et al., arXiv:1610.04490).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from training.draws import StepDraws


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
