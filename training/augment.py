"""What is done to a picture, real or generated, before the Discriminator sees it.

Differentiable, so that the Generator learns through it, and the same kind for real and
generated pictures, so that it does not leak into the samples (DiffAugment: Zhao et al.,
arXiv:2006.10738; instance noise: Sonderby et al., arXiv:1610.04490).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def diff_augment(pictures: Tensor, rng: torch.Generator) -> Tensor:
    """Random brightness, saturation, contrast, translation up to 1/8, cutout of half the side.

    Args:
        pictures: (N, C, H, W) float.
        rng: CPU generator that all random choices are drawn from.

    Returns:
        the same shape and dtype.
    """
    count = pictures.shape[0]
    device, dtype = pictures.device, pictures.dtype

    def uniform(low: float, high: float) -> Tensor:
        drawn = torch.rand(count, 1, 1, 1, generator=rng) * (high - low) + low
        return drawn.to(device, dtype)

    x = pictures + uniform(-0.5, 0.5)
    mean = x.mean(dim=1, keepdim=True)
    x = (x - mean) * uniform(0.0, 2.0) + mean
    mean = x.mean(dim=(1, 2, 3), keepdim=True)
    x = (x - mean) * uniform(0.5, 1.5) + mean
    return _cutout(_translate(x, rng), rng)


def _translate(x: Tensor, rng: torch.Generator) -> Tensor:
    count, _, height, width = x.shape
    most_y, most_x = height // 8, width // 8
    dy = torch.randint(-most_y, most_y + 1, (count,), generator=rng)
    dx = torch.randint(-most_x, most_x + 1, (count,), generator=rng)
    padded = F.pad(x, (most_x, most_x, most_y, most_y))
    rows = (torch.arange(height)[None] + dy[:, None] + most_y).to(x.device)
    columns = (torch.arange(width)[None] + dx[:, None] + most_x).to(x.device)
    index = torch.arange(count, device=x.device)[:, None, None]
    return padded[index, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def _cutout(x: Tensor, rng: torch.Generator) -> Tensor:
    count, _, height, width = x.shape
    y0 = torch.randint(-height // 4, height * 3 // 4, (count, 1), generator=rng)
    x0 = torch.randint(-width // 4, width * 3 // 4, (count, 1), generator=rng)
    rows, columns = torch.arange(height)[None], torch.arange(width)[None]
    cut_rows = (rows >= y0) & (rows < y0 + height // 2)
    cut_columns = (columns >= x0) & (columns < x0 + width // 2)
    hole = cut_rows[:, None, :, None] & cut_columns[:, None, None, :]
    return x * (~hole).to(x.device, x.dtype)


def add_instance_noise(pictures: Tensor, std: float, rng: torch.Generator) -> Tensor:
    """Gaussian noise of the given standard deviation; (N, C, H, W) float, same out."""
    noise = torch.randn(pictures.shape, generator=rng)
    return pictures + std * noise.to(pictures.device, pictures.dtype)
