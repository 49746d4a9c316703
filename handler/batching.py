"""The images of all requests of a TorchServe batch as few, bounded forward passes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from handler.backends import Backend
from handler.images import Images


def generate(
    backend: Backend, latents: Sequence[npt.NDArray[np.float32]], max_batch_images: int
) -> list[Images]:
    """One array of images a request.

    On the CPU an image has the same bits whatever else is in its batch; ``handler.backends``
    says how that comes about.

    Args:
        backend: runs the network.
        latents: one float32 (n, nz) a request, n >= 1.
        max_batch_images: most images in one call of the backend.

    Returns:
        One uint8 (n, H, W, C) a request, C-contiguous, in the order of the requests.

    Raises:
        Whatever the backend raises; then no request has images.
    """
    if not latents:
        return []
    flat = np.concatenate(latents)
    images = np.empty((len(flat), *backend.image_shape), np.uint8)
    for start in range(0, len(flat), max_batch_images):
        batch = slice(start, start + max_batch_images)
        images[batch] = backend(flat[batch])
    ends = np.cumsum([len(rows) for rows in latents])
    return np.split(images, ends[:-1])
