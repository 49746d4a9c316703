"""Which pictures these are, told from a part of them, so that a run notices when they change."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

LOOKED_AT = 4096  # pictures, however many there are


@dataclass(frozen=True)
class Identity:
    """Equal for the same pictures in the same order.

    Attributes:
        count: how many pictures.
        channels: 1 or 3.
        digest: of up to ``LOOKED_AT`` of them, evenly spread: a picture more or less moves those
            after it.
    """

    count: int
    channels: int
    digest: str

    def __str__(self) -> str:
        kind = "grey" if self.channels == 1 else "RGB"
        return f"{self.count:,} {kind} pictures (digest {self.digest})"


def identity_of(images: npt.NDArray[np.uint8]) -> Identity:
    """Of uint8 (N, H, W, C)."""
    count, channels = len(images), images.shape[-1]
    digest = hashlib.sha256()
    for index in np.linspace(0, count - 1, min(count, LOOKED_AT)).astype(np.int64):
        digest.update(images[index].tobytes())
    return Identity(count, channels, digest.hexdigest()[:16])
