"""Which pictures these are: whether they have changed, and which of them are equal."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

LOOKED_AT = 4096  # pictures, however many there are
MIDDLE = 4  # rows


@dataclass(frozen=True)
class Identity:
    """Equal for the same pictures in the same order.

    Attributes:
        count: how many pictures.
        channels: 1 or 3.
        digest: of up to ``LOOKED_AT`` of them, evenly spread: a picture more or less moves those
            after it.
        different: how many differ; None in a run of an earlier version, which did not keep
            equal ones together when it held some out.
    """

    count: int
    channels: int
    digest: str
    different: int | None = field(default=None, compare=False)

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


def first_equal(images: npt.NDArray[np.uint8]) -> npt.NDArray[np.int64]:
    """For each picture the first one with the same pixels, mostly itself.

    Args:
        images: uint8 (N, H, W, C).

    Returns:
        int64 (N,), each value at most its index.
    """
    middle = slice(images.shape[1] // 2, images.shape[1] // 2 + MIDDLE)
    result = _first_of(image[middle].tobytes() for image in images)
    # The whole picture is only looked at where its middle is not unlike all others.
    alike = np.flatnonzero(np.bincount(result, minlength=len(result))[result] > 1)
    result[:] = np.arange(len(images))
    result[alike] = alike[_first_of(digests(images[row] for row in alike))]
    return result


def digests(images: Iterable[npt.NDArray[np.uint8]]) -> Iterable[bytes]:
    """Of each picture one that no other picture has."""
    return (hashlib.blake2b(image.tobytes(), digest_size=16).digest() for image in images)


def _first_of(keys: Iterable[bytes]) -> npt.NDArray[np.int64]:
    """For each key the index of the first one equal to it."""
    seen: dict[bytes, int] = {}
    return np.array([seen.setdefault(key, index) for index, key in enumerate(keys)], np.int64)
