"""A service whose network is a stand-in: tiles of one colour, and failures on demand."""

import io
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from handler.pixels import Images
from handler.replies import Reply
from handler.service import Service
from handler.settings import Card
from handler.wire import Headers

NZ = 4
FACTS = {
    "model": "dcgan",
    "version": "1.2",
    "weights_sha256": "ab" * 32,
    "nz": NZ,
    "image_size": 64,
    "channels": 3,
}
CARD = Card.model_validate({**FACTS, "trained_on": "cats"})
POISON = 66.0


class Fake:
    """Tiles of one colour, from the latent; a latent that starts with POISON breaks a batch."""

    name, device, nz, image_shape = "fake", "cpu", NZ, (64, 64, 3)
    precision, warnings = "float32", {}  # type: ignore[var-annotated]

    def __init__(self, fits: int = 1000) -> None:
        self.calls = 0
        self.freed = 0
        self.fits = fits  # images that the memory has room for

    def free_memory(self) -> None:
        self.freed += 1

    def __call__(self, latents: npt.NDArray[np.float32]) -> Images:
        self.calls += 1
        if len(latents) > self.fits:
            raise RuntimeError("CUDA out of memory. Tried to allocate 2 GiB")
        if (latents[:, 0] == POISON).any():
            raise RuntimeError("a secret detail")
        levels = (latents[:, : self.image_shape[2]] * 40 + 128).clip(0, 255).astype(np.uint8)
        return np.broadcast_to(levels[:, None, None], (len(latents), *self.image_shape)).copy()


def one(service: Service, fields: dict[str, Any], headers: dict[str, Any] | None = None) -> Reply:
    (reply,) = service.handle([{"body": fields}], [Headers(headers or {})])
    return reply


def pixels(reply: Reply) -> npt.NDArray[np.uint8]:
    return np.asarray(Image.open(io.BytesIO(reply.body)))
