"""Forward passes recorded as CUDA graphs, one for each of a few batch sizes.

A small network spends more time on launching kernels than in them; a graph launches all of
them at once (NVIDIA, "CUDA C++ Programming Guide", section "CUDA Graphs"). A graph has a fixed
shape and fixed addresses: a batch is filled up to the next recorded size and goes through
buffers that stay where they are, page-locked on the side of the host.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable
from typing import Any

import numpy as np

from handler.latents import Latents
from handler.pixels import Images

Run = Callable[[Latents], Images]


class Buckets:
    """Runs a batch by the smallest recorded size that holds it.

    Args:
        most: the largest batch, images.
        record: batch size -> what runs batches of exactly that size. Called once a size, the
            largest first, so that the others find its memory.

    Raises:
        whatever ``record`` raises.
    """

    def __init__(self, most: int, record: Callable[[int], Run]) -> None:
        self.sizes = sizes_up_to(most)
        self._runs = {size: record(size) for size in reversed(self.sizes)}

    def __call__(self, latents: Latents) -> Images:
        """The images of 1 to ``most`` latents; the fill-up is cut off again."""
        count = len(latents)
        size = self.sizes[bisect_left(self.sizes, count)]
        if size > count:
            latents = np.concatenate([latents, np.zeros((size - count, latents.shape[1]), "f4")])
        return self._runs[size](latents)[:count]


def sizes_up_to(most: int) -> list[int]:
    """Powers of two below ``most``, and ``most``: at least half of each pass is asked for."""
    return [size for size in (1 << k for k in range(most.bit_length())) if size < most] + [most]


def capture(forward: Callable[[Any], Any], count: int, nz: int, device: str, pool: Any) -> Run:
    """Record ``forward`` on a GPU for batches of ``count``.

    Args:
        forward: float32 tensor (count, nz) -> uint8 tensor (count, H, W, C), both on the device.
        device: a CUDA device.
        pool: of ``torch.cuda.graph_pool_handle()``. Graphs may share one, for no two run at a
            time and each result is copied out before the next.

    Raises:
        RuntimeError: the pass cannot be recorded.
    """
    import torch

    with torch.inference_mode():
        noise_host = torch.zeros(count, nz, pin_memory=True)
        noise = noise_host.to(device)
        # The first passes choose kernels and allocate, which a graph must not hold.
        side = torch.cuda.Stream(device)
        side.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(side):
            for _ in range(3):
                forward(noise)
        torch.cuda.current_stream(device).wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=pool):
            pixels = forward(noise)
        pixels_host = torch.empty(pixels.shape, dtype=torch.uint8, pin_memory=True)

    def run(latents: Latents) -> Images:
        with torch.inference_mode():
            noise_host.numpy()[:] = latents
            noise.copy_(noise_host, non_blocking=True)
            graph.replay()
            pixels_host.copy_(pixels, non_blocking=True)
            torch.cuda.current_stream(device).synchronize()
            return pixels_host.numpy().copy()

    return run
