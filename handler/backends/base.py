"""What every backend offers, and what they share."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from handler.hardware import processors
from handler.latents import Latents
from handler.pixels import Images, grey_levels
from handler.settings import Settings

if TYPE_CHECKING:
    from torch import Tensor


class Backend(Protocol):
    """What runs the network: (N, nz) float32 -> (N, H, W, C) uint8, N >= 1."""

    name: str
    device: str
    precision: str
    fallback: bool  # a GPU was meant, and the CPU is used
    nz: int
    image_shape: tuple[int, int, int]  # (H, W, C), px

    def __call__(self, latents: Latents) -> Images: ...

    def free_memory(self) -> None:
        """Give cached memory of the device back, after it ran out."""


class Slices:
    """Cuts a batch for the processors; each slice is one single-threaded forward pass.

    Args:
        threads: slices that run side by side; 0 is one a processor.
        initializer: what each thread does first.
    """

    def __init__(self, threads: int, initializer: Callable[[], None] | None = None) -> None:
        self.count = threads or processors()
        self._pool = ThreadPoolExecutor(self.count, "forward", initializer=initializer)

    def run(self, forward: Callable[[Latents], Images], latents: Latents) -> Images:
        """The images of all latents, in their order."""
        parts = np.array_split(latents, min(self.count, len(latents)))
        return np.concatenate(list(self._pool.map(forward, parts)))


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


def need_fallback(settings: Settings, gpu_id: int, reason: str) -> None:
    """Raises RuntimeError when a GPU cannot be used and the CPU is not allowed in its place."""
    if not settings.allow_cpu_fallback:
        raise RuntimeError(
            f"this worker was given GPU {gpu_id}, but {reason}; mend the driver, or set "
            "allow_cpu_fallback: true in model-config.yaml"
        )
