"""The backend for processors with units for bfloat16: the network straight on oneDNN.

The operators of ``packed_network`` have no documentation of their own, so ``handler.backends``
tries the backend once and takes ONNX Runtime when it fails.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from handler.backends.base import Slices, need_fallback, to_pixels
from handler.backends.packed_network import PackedNetwork, layers_of
from handler.backends.torchscript import load_torchscript
from handler.latents import Latents, from_seeds
from handler.pixels import Images
from handler.settings import Card, Settings

_MOST_GREY_LEVELS = 2.0  # in the mean; bfloat16 stays below a half


class PackedBackend:
    """The weights of ``generator.pt``, run by oneDNN on a CPU.

    Args:
        path: the TorchScript file, with BatchNorm folded.
        card: what the file holds.
        settings: threads, largest batch, and whether a GPU may be missing.
        gpu_id: of a GPU that torch cannot see; None when none was meant.
        precision: float32, or bfloat16 where the processor has it.

    Raises:
        RuntimeError: the file cannot be used, or oneDNN cannot run it on this processor.
    """

    name = "packed"
    device = "cpu"

    def __init__(
        self, path: Path, card: Card, settings: Settings, gpu_id: int | None, precision: str
    ) -> None:
        import torch

        self._torch = torch
        self.fallback = gpu_id is not None
        if gpu_id is not None:
            need_fallback(settings, gpu_id, "torch finds no GPU")
        self.nz, self.image_shape, self.precision = card.nz, card.image_shape, precision
        if precision == "bfloat16" and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
            raise RuntimeError(
                "oneDNN has no bfloat16 on this processor; use precision: float32 (or auto)"
            )
        self._slices = Slices(settings.threads, lambda: torch.set_num_threads(1))
        network = load_torchscript(path, "cpu")
        layers = layers_of(network.named_parameters(), path.name)
        self._network = PackedNetwork(layers, getattr(torch, precision))
        self._compare(network, path.name)

    def __call__(self, latents: Latents) -> Images:
        return self._slices.run(self._forward, latents)

    def free_memory(self) -> None:
        """Nothing to give back: memory of a CPU is not cached."""

    def _compare(self, network: Any, file: str) -> None:
        """Refuse a file that is more than the layers which were taken from it."""
        latents = self._torch.from_numpy(from_seeds(range(4), self.nz))
        with self._torch.inference_mode():
            wanted, found = to_pixels(network(latents)).numpy(), self._network(latents)
        if found.shape != wanted.shape:
            return  # the warm-up says what is wrong
        difference = np.abs(found.astype(np.int16) - wanted).mean()
        if difference > _MOST_GREY_LEVELS:
            raise RuntimeError(
                f"the packed network differs from {file} by {difference:.1f} grey levels in the "
                f"mean (allowed {_MOST_GREY_LEVELS:g}); use backend: torchscript"
            )

    def _forward(self, latents: Latents) -> Images:
        with self._torch.inference_mode():
            return self._network(self._torch.from_numpy(latents))
