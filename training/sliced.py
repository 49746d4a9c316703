"""Sliced Wasserstein distance between local patches of two sets of pictures.

By scale, on the levels of a Laplacian pyramid; needs no weights (Karras et al.,
arXiv:1710.10196, section 5, whose numbers of patches and directions are the defaults).
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from handler.pixels import Images
from training.distributed import CPU

LEAST_PX = 16  # height of the coarsest level
PATCH_PX = 7
PATCHES = 128  # a picture and level
DIRECTIONS = 512
_DIRECTIONS_AT_ONCE = 64
_BINOMIAL = torch.tensor([1.0, 4.0, 6.0, 4.0, 1.0]) / 16


def sliced_wasserstein_by_scale(
    a: Images, b: Images, device: torch.device = CPU
) -> dict[int, float]:
    """Distance of the patches of two sets, level by level.

    The finest level holds pixel-size detail, the coarsest the large shapes.

    Args:
        a, b: uint8 (N, H, W, C), as many of each, H = W a power of two from 16 on.
        device: where it is computed; patches and directions are the same ones everywhere.

    Returns:
        height of the level in px -> distance times 1000; 0 is the same distribution.
    """
    rng = np.random.default_rng(0)
    sizes = [a.shape[1] >> i for i in range(a.shape[1].bit_length()) if a.shape[1] >> i >= LEAST_PX]
    found = {}
    for level, size in enumerate(sizes):
        patches = [standardise(patches_of(images, level, rng, device)) for images in (a, b)]
        found[size] = 1000 * sliced_wasserstein(patches[0].flatten(1), patches[1].flatten(1), rng)
    return found


def sliced_wasserstein(a: Tensor, b: Tensor, rng: np.random.Generator) -> float:
    """Mean over random directions of the one-dimensional Wasserstein-1 distance.

    Args:
        a, b: float32 (n, d), on one device.
    """
    total = 0.0
    for _ in range(0, DIRECTIONS, _DIRECTIONS_AT_ONCE):
        drawn = rng.standard_normal((a.shape[1], _DIRECTIONS_AT_ONCE)).astype(np.float32)
        directions = torch.from_numpy(drawn / np.linalg.norm(drawn, axis=0)).T.to(a.device)
        one, other = (_sorted(directions @ x.T) for x in (a, b))
        total += float((one - other).abs().mean()) * _DIRECTIONS_AT_ONCE
    return total / DIRECTIONS


def _sorted(rows: Tensor) -> Tensor:
    if rows.device.type == "cpu":  # numpy's takes a fifth of the time there
        return torch.from_numpy(np.sort(rows.numpy(), axis=1))
    return rows.sort(dim=1).values


def patches_of(
    images: Images, level: int, rng: np.random.Generator, device: torch.device = CPU
) -> Tensor:
    """Random patches of one pyramid level: float32 (N * PATCHES, C, PATCH_PX, PATCH_PX)."""
    size = images.shape[1] >> level
    offsets = np.arange(PATCH_PX)
    found = []
    for start in range(0, len(images), 256):
        floats = torch.from_numpy(np.ascontiguousarray(images[start : start + 256])).float()
        maps = laplacian_level(floats.permute(0, 3, 1, 2).to(device), level)
        places = rng.integers(0, size - PATCH_PX + 1, (2, len(maps), PATCHES, 1, 1))
        index = (
            np.arange(len(maps))[:, None, None, None],
            places[0] + offsets[:, None],
            places[1] + offsets,
        )
        picture, rows, columns = (torch.from_numpy(each).to(device) for each in index)
        found.append(maps.permute(0, 2, 3, 1)[picture, rows, columns])  # (n, PATCHES, 7, 7, C)
    return torch.cat(found).flatten(0, 1).permute(0, 3, 1, 2)


def standardise(patches: Tensor) -> Tensor:
    """Mean 0 and standard deviation 1 in each channel, over all patches of the set."""
    variance, mean = torch.var_mean(patches.double(), dim=(0, 2, 3), correction=0, keepdim=True)
    return (patches - mean.float()) / variance.sqrt().float().clamp_min(1e-12)


def laplacian_level(images: Tensor, level: int) -> Tensor:
    """What one scale adds to the next coarser one (Burt and Adelson, 1983).

    Args:
        images: float32 (N, C, H, W).
        level: 0 is the finest; the coarsest, of LEAST_PX, is the small picture itself.

    Returns:
        float32 (N, C, H / 2^level, W / 2^level).
    """
    for _ in range(level):
        images = halve(images)
    return images if images.shape[2] // 2 < LEAST_PX else images - double(halve(images))


def halve(images: Tensor) -> Tensor:
    """Blur and keep every second row and column."""
    return _blur(images)[:, :, ::2, ::2]


def double(images: Tensor) -> Tensor:
    """Zeros between rows and columns, then blur: the opposite of ``halve``."""
    count, channels, height, width = images.shape
    spread = images.new_zeros(count, channels, 2 * height, 2 * width)
    spread[:, :, ::2, ::2] = images
    return 4 * _blur(spread)


def _blur(images: Tensor) -> Tensor:
    channels = images.shape[1]
    kernel = torch.outer(_BINOMIAL, _BINOMIAL).expand(channels, 1, 5, 5).to(images.device)
    return F.conv2d(F.pad(images, (2, 2, 2, 2), mode="reflect"), kernel, groups=channels)
