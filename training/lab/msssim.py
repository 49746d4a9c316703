"""Multi-scale structural similarity (Wang, Simoncelli and Bovik, 2003): 1 is the same picture.

Between samples it tells how alike they are: real pictures of one kind have a low mean, a
collapsed Generator a high one (Odena et al., arXiv:1610.09585, section 4.2).
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from handler.pixels import Images

WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # of the scales, the finest first
WINDOW_PX = 11
SIGMA_PX = 1.5
C1, C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
LEAST_PX = 32  # below, the coarsest scale would have one pixel


def mean_pair_similarity(images: Images) -> float:
    """Mean MS-SSIM of the pictures 0 and 1, 2 and 3, and so on.

    Args:
        images: uint8 (N, H, W, C), N >= 2, H and W >= LEAST_PX.
    """
    pairs = len(images) // 2
    found = [
        ms_ssim(images[start : min(start + 256, 2 * pairs) : 2],
                images[start + 1 : min(start + 256, 2 * pairs) : 2])
        for start in range(0, 2 * pairs, 256)
    ]  # fmt: skip
    return float(np.concatenate(found).mean())


def ms_ssim(a: Images, b: Images) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    """Similarity of picture i of ``a`` to picture i of ``b``.

    Maps smaller than the window get one of their own size, with a sigma in proportion, so that
    small pictures have five scales too.

    Args:
        a, b: uint8 (N, H, W, C), H and W >= LEAST_PX.

    Returns:
        float32 (N,), at most 1.

    Raises:
        ValueError: too small.
    """
    if min(a.shape[1:3]) < LEAST_PX:
        raise ValueError(f"pictures of {a.shape[1:3]} px; MS-SSIM needs {LEAST_PX} px")
    one, other = (
        torch.from_numpy(np.ascontiguousarray(x)).permute(0, 3, 1, 2).float() for x in (a, b)
    )
    product = torch.ones(len(a))
    for scale, weight in enumerate(WEIGHTS):
        luminance, structure = _ssim_parts(one, other)
        coarsest = scale == len(WEIGHTS) - 1
        value = (luminance * structure if coarsest else structure).mean(dim=(1, 2, 3))
        product *= value.clamp(min=0) ** weight
        one, other = F.avg_pool2d(one, 2), F.avg_pool2d(other, 2)
    return product.numpy()


def _ssim_parts(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """The two factors of SSIM, as maps: luminance, and contrast times structure."""
    mean_a, mean_b = _window(a), _window(b)
    var_a = _window(a * a) - mean_a**2
    var_b = _window(b * b) - mean_b**2
    covariance = _window(a * b) - mean_a * mean_b
    luminance = (2 * mean_a * mean_b + C1) / (mean_a**2 + mean_b**2 + C1)
    return luminance, (2 * covariance + C2) / (var_a + var_b + C2)


def _window(maps: Tensor) -> Tensor:
    channels = maps.shape[1]
    size = min(WINDOW_PX, maps.shape[2], maps.shape[3])
    places = torch.arange(size) - (size - 1) / 2
    weights = torch.exp(-(places**2) / (2 * (SIGMA_PX * size / WINDOW_PX) ** 2))
    weights = weights / weights.sum()
    across = F.conv2d(maps, weights.expand(channels, 1, 1, size), groups=channels)
    return F.conv2d(across, weights[:, None].expand(channels, 1, size, 1), groups=channels)
