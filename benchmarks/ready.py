"""Ours without the network: a backend that has its images already.

The entry of an archive that ``benchmarks.servers.without_network`` makes: all else in it is the
shipped handler. ``benchmarks.ceiling`` drives the same backend in one process.
"""

from __future__ import annotations

from typing import Any

from handler.backends import choose
from handler.backends.base import Backend
from handler.dcgan_handler import DcganHandler
from handler.latents import Latents, from_seeds
from handler.pixels import Images

_MOST = 64  # different images
_handler = DcganHandler()
_open_backend = choose.open_backend


class Ready:
    """Copies images that were made before.

    Args:
        of: made them, and is what this one calls itself.
    """

    def __init__(self, of: Backend) -> None:
        self.name, self.device, self.precision, self.warnings = (
            of.name,
            of.device,
            of.precision,
            of.warnings,
        )
        self.nz, self.image_shape = of.nz, of.image_shape
        self._images = of(from_seeds(range(_MOST), of.nz))

    def __call__(self, latents: Latents) -> Images:
        """uint8 (N, H, W, C), N at most 64, whatever the latents are."""
        return self._images[: len(latents)].copy()

    def free_memory(self) -> None:
        """Nothing is held."""


def handle(data: list[dict[str, Any]] | None, context: Any) -> list[bytes] | None:
    """What TorchServe calls; without data to load the model."""
    if data is not None:
        return _handler.handle(data, context)
    choose.open_backend = lambda *asked: Ready(_open_backend(*asked))
    _handler.initialize(context)
    return None
