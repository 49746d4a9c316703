"""``generator.pt`` as TorchScript: on a CPU in slices, on a GPU from CUDA graphs.

A small network spends more time on launching kernels than in them; a graph launches all of
them at once (NVIDIA, "CUDA C++ Programming Guide", section "CUDA Graphs"). A graph has a fixed
shape and fixed addresses: a batch is filled up to the next recorded size and goes through
buffers that stay where they are, page-locked on the side of the host.
"""

from __future__ import annotations

import logging
import warnings
from bisect import bisect_left
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from handler.backends.base import Slices, need_fallback, need_file, to_pixels
from handler.latents import Latents
from handler.pixels import Images
from handler.settings import Card, Settings

logger = logging.getLogger(__name__)

Run = Callable[[Latents], Images]


class TorchScriptBackend:
    """``generator.pt``: noise (N, nz) -> (N, C, H, W) in [-1, 1].

    Args:
        path: the TorchScript file.
        card: what the file holds.
        settings: threads, largest batch, and whether a GPU may be missing.
        gpu_id: index of the GPU; None for the CPU.
        precision: float32, bfloat16 or float16.

    Raises:
        RuntimeError: the file cannot be loaded, or the GPU cannot be used.
    """

    name = "torchscript"

    def __init__(
        self, path: Path, card: Card, settings: Settings, gpu_id: int | None, precision: str
    ) -> None:
        import torch

        self._torch = torch
        self.nz, self.image_shape = card.nz, card.image_shape
        self.fallback = gpu_id is not None and not torch.cuda.is_available()
        if gpu_id is not None and self.fallback:
            need_fallback(settings, gpu_id, "torch finds no GPU")
            gpu_id = None
        self.device = "cpu" if gpu_id is None else f"cuda:{gpu_id}"
        if gpu_id is not None:
            torch.cuda.set_device(gpu_id)
            torch.backends.cuda.matmul.allow_tf32 = False
            torch.backends.cudnn.allow_tf32 = False
            torch.backends.cudnn.benchmark = True  # few batch sizes, each run many times
        network = load_torchscript(path, self.device)
        self.precision = precision
        self._dtype = getattr(torch, precision)
        layout = torch.contiguous_format if gpu_id is None else torch.channels_last
        self._network = network.to(self._dtype, memory_format=layout)
        # A thread takes its number of OpenMP threads from the first torch call it makes.
        self._slices = Slices(settings.threads, lambda: torch.set_num_threads(1))
        self._buckets = self._captured(settings) if self.device != "cpu" else None

    def __call__(self, latents: Latents) -> Images:
        if self._buckets is not None:
            return self._buckets(latents)
        if self.device == "cpu":
            return self._slices.run(self._forward, latents)
        return self._forward(latents)

    def free_memory(self) -> None:
        if self.device != "cpu":
            self._torch.cuda.empty_cache()

    def _forward(self, latents: Latents) -> Images:
        with self._torch.inference_mode():
            noise = self._torch.from_numpy(latents).to(self.device, self._dtype)
            pixels: Images = to_pixels(self._network(noise)).cpu().numpy()
        return pixels

    def _captured(self, settings: Settings) -> Buckets | None:
        """CUDA graphs of the forward pass; None, and a warning, where it cannot be captured."""

        def pixels(noise: Any) -> Any:
            return to_pixels(self._network(noise.to(self._dtype)))

        try:
            pool = self._torch.cuda.graph_pool_handle()
            return Buckets(
                settings.limits.max_batch_images,
                lambda count: capture(pixels, count, self.nz, self.device, pool),
            )
        except RuntimeError as error:
            logger.warning("no CUDA graphs, the GPU runs kernel by kernel: %s", error)
            return None


def load_torchscript(path: Path, device: str) -> Any:
    """A ``torch.jit.ScriptModule`` in eval mode on the device.

    Raises:
        RuntimeError: the file is missing or is not a TorchScript file.
    """
    import torch

    need_file(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # torch.jit is deprecated: known
            return torch.jit.load(str(path), map_location=device).eval()
    except (RuntimeError, ValueError) as error:
        raise RuntimeError(f"{path.name} is not a TorchScript file: {error}") from error


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
