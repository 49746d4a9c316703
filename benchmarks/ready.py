"""Ours without the network: a backend that has its images already.

The entry of an archive that ``benchmarks.servers.without_network`` makes: all else in it is the
shipped handler. ``benchmarks.compare`` drives the same backend in one process.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from handler.backends import choose
from handler.backends.base import Backend
from handler.dcgan_handler import DcganHandler
from handler.latents import Latents, from_seeds
from handler.pixels import Images

_MOST = 64  # different images
_handler = DcganHandler()
_open_backend = choose.open_backend


class Changed:
    """A backend that runs something else: latents, float32 (N, nz), to uint8 (N, H, W, C)."""

    def __init__(self, of: Backend, run: Callable[[Latents], Images]) -> None:
        self.name, self.device, self.precision = of.name, of.device, of.precision
        self.warnings, self.nz, self.image_shape = of.warnings, of.nz, of.image_shape
        self.free_memory, self._run = of.free_memory, run

    def __call__(self, latents: Latents) -> Images:
        return self._run(latents)


def ready(backend: Backend) -> Changed:
    """Copies images that this backend has made before, N at most 64, whatever the latents are."""
    images = backend(from_seeds(range(_MOST), backend.nz))
    return Changed(backend, lambda latents: images[: len(latents)].copy())


def handle(data: list[dict[str, Any]] | None, context: Any) -> list[bytes] | None:
    """What TorchServe calls; without data to load the model."""
    if data is not None:
        return _handler.handle(data, context)
    choose.open_backend = lambda *asked: ready(_open_backend(*asked))
    _handler.initialize(context)
    return None
