"""The generator as every peer runs it: a plain TorchScript trace in float32 and torchvision's
``save_image``, on a GPU if there is one, else on as many threads as torch takes by itself.

The peers run in environments of their own, which see torch, torchvision and Pillow of this
project's; so this module imports nothing else.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from io import BytesIO
from typing import NamedTuple

import torch
from torchvision.utils import save_image

PATH_VARIABLE = "DCGAN_TORCHSCRIPT"
MAX_BATCH_SIZE = 32  # requests
MAX_DELAY_S = 0.002
_NZ = 100


class Request(NamedTuple):
    """``num_images`` images in one grid, from one seed."""

    seed: int
    num_images: int


class Model:
    """The file that the environment variable ``DCGAN_TORCHSCRIPT`` names."""

    def __init__(self) -> None:
        self._device = "cuda" if torch.cuda.is_available() else "cpu"
        path = os.environ[PATH_VARIABLE]
        self._network = torch.jit.load(path, map_location=self._device).eval()

    def generate(self, requests: Sequence[Request]) -> list[torch.Tensor]:
        """One forward pass for all; float32 (num_images, 3, 64, 64) in [-1, 1] a request."""
        noise = [
            torch.randn(count, _NZ, generator=torch.Generator().manual_seed(seed))
            for seed, count in requests
        ]
        with torch.inference_mode():
            images = self._network(torch.cat(noise).to(self._device)).cpu()
        return list(images.split([request.num_images for request in requests]))

    def pngs(self, requests: Sequence[Request]) -> list[bytes]:
        """One PNG a request."""
        return [to_png(images) for images in self.generate(requests)]


def to_png(images: torch.Tensor) -> bytes:
    """Float (N, 3, 64, 64) in [-1, 1] as a PNG of a grid, eight in a row, 2 px apart."""
    buffer = BytesIO()
    save_image(images, buffer, format="png", normalize=True, value_range=(-1, 1))
    return buffer.getvalue()
