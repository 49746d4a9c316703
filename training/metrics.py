"""Numbers that say how pictures differ, cheap enough for every sample grid."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


def pairwise_diversity(images: npt.NDArray[np.uint8]) -> float:
    """Mean absolute difference of pictures from one another; 0 when all are the same.

    Picture i is compared with i + s (mod N) for the shifts s = 1, N // 3 and N // 2: no
    picture meets itself, every one is used equally, and nothing is random. Several shifts,
    so that pictures which repeat with one of these periods do not look all the same.

    Args:
        images: uint8 (N, H, W, C), N >= 2.

    Returns:
        in units of the [-1, 1] range, so 0 to 2.

    Raises:
        ValueError: fewer than two pictures.
    """
    count = len(images)
    if count < 2:
        raise ValueError(f"{count} pictures have no pairwise difference; give 2 or more")
    signed = np.asarray(images, np.int16)
    shifts = sorted({1, count // 3, count // 2} - {0})
    differences = [np.abs(signed - np.roll(signed, -s, axis=0)).mean() for s in shifts]
    return float(np.mean(differences)) * 2.0 / 255.0
