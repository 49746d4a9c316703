"""Nearest training pictures of samples, in pixels and in features, in bounded memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from handler.pixels import Images

Vectors = npt.NDArray[np.float32]  # (N, dimensions)

NEIGHBOURS = 50
REDUCED_PX = 16
SHIFTS = range(-2, 3)  # in 64ths of the picture, both ways
_BLOCK = 4096  # training pictures at once


@dataclass(frozen=True, eq=False)
class Nearness:
    """How near pictures are to the training pictures.

    Attributes:
        distances: float32 (N, k), to the nearest k training pictures, the nearest first.
        index: int64 (N, k), which those are.
    """

    distances: Vectors
    index: npt.NDArray[np.int64]

    def part(self, first: int, end: int) -> Nearness:
        """Pictures ``first`` to ``end``, the latter excluded."""
        return Nearness(self.distances[first:end], self.index[first:end])

    @property
    def relative(self) -> Vectors:
        """Distance to the nearest over the mean distance to the nearest k; 0 for a copy."""
        mean = self.distances.mean(axis=1)
        result: Vectors = self.distances[:, 0] / np.maximum(mean, np.finfo(np.float32).tiny)
        return result


def nearness(
    pictures: Sequence[Vectors], trained_on: Iterable[Vectors],
    rows: npt.NDArray[np.int64] | None = None, neighbours: int = NEIGHBOURS,
) -> Nearness:  # fmt: skip
    """Nearest training pictures by Euclidean distance.

    Args:
        pictures: variants of N pictures, such as shifted ones; the nearest variant counts.
        trained_on: blocks of the training pictures.
        rows: int64 (N,), which training picture each is itself, so that it is not its own
            neighbour; -1 for one that is none.
        neighbours: how many to look for; all others if there are fewer.
    """
    count, start = len(pictures[0]), 0
    best = np.full((count, 0), np.inf, np.float32)
    index = np.zeros((count, 0), np.int64)
    lengths = [np.square(variant).sum(axis=1)[:, None] for variant in pictures]
    for block in trained_on:
        squares = np.square(block).sum(axis=1)
        found = np.full((count, len(block)), np.inf, np.float32)
        for variant, length in zip(pictures, lengths, strict=True):
            np.minimum(found, length - 2 * (variant @ block.T) + squares, out=found)
        if rows is not None:
            inside = np.flatnonzero((rows >= start) & (rows < start + len(block)))
            found[inside, rows[inside] - start] = np.inf
        best = np.concatenate([best, found], axis=1)
        index = np.concatenate(
            [index, np.broadcast_to(np.arange(start, start + len(block)), found.shape)], axis=1
        )
        kept = np.argpartition(best, min(neighbours, best.shape[1]) - 1, axis=1)[:, :neighbours]
        best = np.take_along_axis(best, kept, axis=1)
        index = np.take_along_axis(index, kept, axis=1)
        start += len(block)
    neighbours = min(neighbours, start - (rows is not None and bool((rows >= 0).any())))
    order = np.argsort(best, axis=1, kind="stable")[:, :neighbours]
    distances = np.sqrt(np.maximum(np.take_along_axis(best, order, axis=1), 0))
    return Nearness(distances, np.take_along_axis(index, order, axis=1))


def pixels(images: Images) -> Vectors:
    """All pixels: uint8 (N, H, W, C) -> float32 (N, H * W * C), grey levels."""
    return images.reshape(len(images), -1).astype(np.float32)


def reduced(images: Images) -> Vectors:
    """Means over blocks, REDUCED_PX of them a side, in which grain is gone."""
    count, height, width, channels = images.shape
    shape = (count, REDUCED_PX, height // REDUCED_PX, REDUCED_PX, width // REDUCED_PX, channels)
    means: Vectors = images.reshape(shape).mean(axis=(2, 4), dtype=np.float32)
    return means.reshape(count, -1)


def shifted(images: Images) -> list[Vectors]:
    """``reduced`` of the pictures, moved by each pair of SHIFTS; edges are repeated."""
    size = images.shape[1]
    steps = sorted({round(step * size / 64) for step in SHIFTS})
    most = max(steps)
    wide = np.pad(images, ((0, 0), (most, most), (most, most), (0, 0)), mode="edge")
    return [
        reduced(np.ascontiguousarray(wide[:, most + y : most + y + size, most + x :][:, :, :size]))
        for y in steps
        for x in steps
    ]


def blocks(images: Images, rows: npt.NDArray[np.int64]) -> Iterator[Images]:
    """These pictures, copied, at most _BLOCK at once: the rest stays on the disk."""
    return (images[rows[start : start + _BLOCK]] for start in range(0, len(rows), _BLOCK))
