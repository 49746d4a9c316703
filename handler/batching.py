"""The images of all requests of a TorchServe batch as few, bounded forward passes."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from time import perf_counter

import numpy as np
import numpy.typing as npt

from handler.backends import Backend
from handler.pixels import Images


def generate(
    backend: Backend,
    latents: Sequence[npt.NDArray[np.float32]],
    max_batch_images: int,
    deadline: float = math.inf,
) -> list[Images | None]:
    """One array of images a request; None for those that were not finished in time.

    On the CPU an image has the same bits whatever else is in its batch; ``handler.backends``
    says how that comes about.

    Args:
        backend: runs the network.
        latents: one float32 (n, nz) a request, n >= 1.
        max_batch_images: most images in one call of the backend.
        deadline: on the clock of ``perf_counter``; no pass is begun after it.

    Returns:
        One uint8 (n, H, W, C) a request, C-contiguous, in the order of the requests, which is
        also that in which they are made.

    Raises:
        Whatever the backend raises, memory that runs out only for a single image; then no
        request has images.
    """
    if not latents:
        return []
    flat = np.concatenate(latents)
    images = np.empty((len(flat), *backend.image_shape), np.uint8)
    done = 0
    while done < len(flat) and perf_counter() < deadline:
        batch = slice(done, done + max_batch_images)
        images[batch] = _within_memory(backend, flat[batch])
        done = min(batch.stop, len(flat))
    ends = np.cumsum([len(rows) for rows in latents])
    parts = np.split(images, ends[:-1])
    return [part if end <= done else None for part, end in zip(parts, ends, strict=True)]


def seconds_per_image(backend: Backend, count: int) -> float:
    """What one image takes in a pass of ``count``, s; of a backend that is warm."""
    latents = np.zeros((count, backend.nz), np.float32)
    began = perf_counter()
    backend(latents)
    return (perf_counter() - began) / count


def rounds(weights: Sequence[int], most: int) -> list[slice]:
    """Neighbours put together up to a weight of ``most``; what weighs more goes alone.

    Args:
        weights: of the things to be put together, each >= 1.
        most: >= 1.
    """
    slices: list[slice] = []
    total = 0
    for i, weight in enumerate(weights):
        total += weight
        if i and total <= most:
            slices[-1] = slice(slices[-1].start, i + 1)
        else:
            slices.append(slice(i, i + 1))
            total = weight
    return slices


def equal_shares(weights: Sequence[int], parts: int) -> list[slice]:
    """Neighbours put together into at most ``parts`` slices of about equal weight, none empty.

    Args:
        weights: of the things to be shared, each >= 1.
        parts: >= 1.
    """
    total, ends = sum(weights), np.cumsum(weights)
    middles = ends - np.asarray(weights) / 2
    bounds = np.searchsorted(middles, [total * k / parts for k in range(parts + 1)])
    return [slice(a, b) for a, b in itertools.pairwise(bounds) if a < b]


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception of torch, ONNX Runtime or Python says that memory ran out."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    # ONNX Runtime has no class of its own for it, nor has torch on the CPU; cuBLAS and cuDNN
    # tell their status, and C++ the name of its exception. oneDNN does not say why it cannot
    # make or run a kernel; what it cannot do at all has shown in the warm-up.
    words = (
        "out of memory", "failed to allocate memory", "can't allocate memory",
        "status_alloc_failed", "bad_alloc",
        "could not create a primitive", "could not execute a primitive",
    )  # fmt: skip
    return isinstance(error, Exception) and any(word in str(error).lower() for word in words)


def _within_memory(backend: Backend, latents: npt.NDArray[np.float32]) -> Images:
    """A forward pass; in halves, down to single images, where the whole does not fit."""
    try:
        return backend(latents)
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        backend.free_memory()
        if len(latents) == 1:
            raise
    middle = len(latents) // 2
    return np.concatenate(
        [_within_memory(backend, p) for p in (latents[:middle], latents[middle:])]
    )
