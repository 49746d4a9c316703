"""What every backend offers, what they share, and how the images of a batch are made by one."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Literal, Protocol

import numpy as np

from handler.hardware import is_out_of_memory, processors
from handler.latents import Latents
from handler.pixels import Images, grey_levels
from handler.settings import Card, Settings

if TYPE_CHECKING:
    from torch import Tensor


Warned = Literal["fallback", "precision", "graphs"]
"""A GPU was meant and the CPU is used; a wider precision is used than was meant; a GPU runs kernel
by kernel."""


class Backend(Protocol):
    """What runs the network: (N, nz) float32 -> (N, H, W, C) uint8, N >= 1.

    What it returns is C-contiguous, and nothing writes into it later.
    """

    name: str
    device: str
    precision: str
    warnings: dict[Warned, str]  # what is not as it was meant, each in a sentence
    nz: int
    image_shape: tuple[int, int, int]  # (H, W, C), px

    def __call__(self, latents: Latents) -> Images: ...

    def free_memory(self) -> None:
        """Give cached memory of the device back, after it ran out."""


class CpuBackend:
    """Cuts a batch for the processors; each slice is one single-threaded ``_forward``.

    Args:
        card: what the model file holds.
        settings: threads, as many slices run side by side; 0 is one a processor.
        initializer: what each thread does first.
    """

    device = "cpu"

    def __init__(
        self,
        card: Card,
        settings: Settings,
        precision: str,
        initializer: Callable[[], None] | None = None,
    ) -> None:
        self.nz, self.image_shape, self.precision = card.nz, card.image_shape, precision
        self.warnings: dict[Warned, str] = {}
        self._threads = settings.threads or processors()
        self._pool = ThreadPoolExecutor(self._threads, "forward", initializer=initializer)

    def __call__(self, latents: Latents) -> Images:
        parts = np.array_split(latents, min(self._threads, len(latents)))
        return np.concatenate(list(self._pool.map(self._forward, parts)))

    def _forward(self, latents: Latents) -> Images:
        raise NotImplementedError

    def free_memory(self) -> None:
        """Nothing to give back: torch caches none of a CPU, and ONNX Runtime's arena shrinks with
        the session only."""


def to_pixels(pictures: Tensor) -> Tensor:
    """``handler.pixels.to_uint8`` on the tensor's own device, so that one byte a pixel moves.

    Args:
        pictures: float (N, C, H, W), nominally in [-1, 1].

    Returns:
        uint8 (N, H, W, C), contiguous.
    """
    return grey_levels(pictures.float()).byte().permute(0, 2, 3, 1).contiguous()


def need_file(path: Path) -> None:
    """Raises RuntimeError when the archive lacks a model file."""
    if not path.is_file():
        raise RuntimeError(f"the archive has no {path.name}; pack it or choose the other backend")


def generate(
    backend: Backend,
    latents: Sequence[Latents],
    max_batch_images: int,
    deadline: float = math.inf,
) -> list[Images | None]:
    """One array of images a request; None for those that were not finished in time.

    On the CPU an image has the same bits whatever else is in its batch; ``handler.backends``
    says how that comes about.

    Args:
        latents: one float32 (n, nz) a request, n >= 1.
        max_batch_images: most images in one call of the backend.
        deadline: on the clock of ``perf_counter``; no pass is begun after it.

    Returns:
        One uint8 (n, H, W, C) a request, C-contiguous, in the order of the requests, which is
        also that in which they are made; views of what the passes gave.

    Raises:
        Whatever the backend raises, memory that runs out only for a single image; then no
        request has images.
    """
    if not latents:
        return []
    flat = np.concatenate(latents)
    passes: list[Images] = []
    for begin in range(0, len(flat), max_batch_images):
        if perf_counter() >= deadline:
            break
        passes.append(_within_memory(backend, flat[begin : begin + max_batch_images]))
    if not passes:
        return [None] * len(latents)
    images = np.concatenate(passes) if len(passes) > 1 else passes[0]
    ends = list(itertools.accumulate(map(len, latents)))
    return [
        images[end - len(rows) : end] if end <= len(images) else None
        for rows, end in zip(latents, ends, strict=True)
    ]


def seconds_per_image(backend: Backend, count: int) -> float:
    """What one image takes in a pass of ``count``, s; of a backend that is warm."""
    latents = np.zeros((count, backend.nz), np.float32)
    began = perf_counter()
    backend(latents)
    return (perf_counter() - began) / count


def _within_memory(backend: Backend, latents: Latents) -> Images:
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
