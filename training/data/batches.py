"""Which pictures these are, which of them are trained on, and in which order they come."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from training.data.decode import Pictures
from training.distributed import ALONE, CPU, World

HELD_OUT_PART = 8  # at most one picture in so many is held out


@dataclass(frozen=True)
class Split:
    """Indices of pictures, int64, in ascending order; every picture is in one of the two."""

    train: npt.NDArray[np.int64]
    held_out: npt.NDArray[np.int64]


def split(equal: npt.NDArray[np.int64], held_out: int, batch_size: int, seed: int) -> Split:
    """Choose the pictures to hold out: the same ones for the same arguments.

    Equal pictures are on one side: one that is trained on was not held out from D.

    Args:
        equal: int64 (N,), for each picture the first one equal to it (``Pictures.first_equal``).
        held_out: how many different ones to hold out, if that leaves seven eighths of all and
            one batch to train on.
        batch_size: pictures of a batch.
        seed: chooses them.
    """
    count = len(equal)
    firsts, sizes = np.unique(equal, return_counts=True)
    room = max(0, min(-(-count // HELD_OUT_PART), count - batch_size))
    most = min(held_out, -(-len(firsts) // HELD_OUT_PART), room)
    chosen = []
    for number in np.random.default_rng([seed, count]).choice(len(firsts), most, replace=False):
        if sizes[number] <= room:
            chosen.append(firsts[number])
            room -= sizes[number]
    out = np.isin(equal, chosen)
    return Split(np.flatnonzero(~out), np.flatnonzero(out))


def batches(
    images: npt.NDArray[np.uint8],
    chosen: npt.NDArray[np.int64],
    batch_size: int,
    seed: int,
    first_step: int,
    world: World = ALONE,
) -> Iterator[npt.NDArray[np.uint8]]:
    """Real batches without end: each epoch a new order, the incomplete last batch dropped.

    The order follows from (seed, epoch), so a run that starts at ``first_step`` sees what an
    uninterrupted one would see from there. The next batch is gathered while this one is used.

    Args:
        images: uint8 (N, H, W, C).
        chosen: which of them to use, at least ``batch_size``.
        batch_size: of all processes together.
        world: the process whose share of each batch is wanted.

    Yields:
        uint8 (batch_size / world.size, H, W, C), in an order of chance: any part of a batch is
        drawn as fairly as the batch.
    """
    steps = _orders(chosen, batch_size, seed, first_step)

    def gather() -> npt.NDArray[np.uint8]:
        rows = next(steps)[world.share]
        in_file = np.argsort(rows)  # neighbours are read together
        gathered = np.empty((len(rows), *images.shape[1:]), np.uint8)
        gathered[in_file] = images[rows[in_file]]
        return gathered

    with ThreadPoolExecutor(1, thread_name_prefix="batches") as pool:
        coming = pool.submit(gather)
        while True:
            batch = coming.result()
            coming = pool.submit(gather)
            yield batch


def _orders(
    chosen: npt.NDArray[np.int64], batch_size: int, seed: int, first_step: int
) -> Iterator[npt.NDArray[np.int64]]:
    per_epoch = len(chosen) // batch_size
    epoch, position = divmod(first_step, per_epoch)
    while True:
        order = chosen[np.random.default_rng([seed, epoch]).permutation(len(chosen))]
        for batch in range(position, per_epoch):
            yield order[batch * batch_size : (batch + 1) * batch_size]
        epoch, position = epoch + 1, 0


def to_pictures(images: npt.NDArray[np.uint8], device: torch.device = CPU) -> Tensor:
    """uint8 (N, H, W, C) -> float32 (N, C, H, W) in [-1, 1] on the device, channels last.

    The bytes travel, not the floats, and a GPU is not waited for.
    """
    tensor = torch.from_numpy(np.ascontiguousarray(images))
    if device.type == "cuda":
        tensor = tensor.pin_memory()
    pictures = tensor.to(device, non_blocking=True).permute(0, 3, 1, 2).to(torch.float32)
    return pictures.div_(127.5).sub_(1.0)


def in_parts(images: npt.NDArray[np.uint8]) -> Iterator[Tensor]:
    """As ``to_pictures``, 256 at a time."""
    return (to_pictures(images[start : start + 256]) for start in range(0, len(images), 256))


LOOKED_AT = 4096  # pictures, however many there are
MIDDLE = 4  # rows


@dataclass(frozen=True)
class Identity:
    """Equal for the same pictures in the same order; ``different``: how many differ."""

    count: int
    channels: int
    digest: str
    different: int

    def __str__(self) -> str:
        kind = "grey" if self.channels == 1 else "RGB"
        return f"{self.count:,} {kind} pictures (digest {self.digest})"


def identity_of(pictures: Pictures) -> Identity:
    """Of the pictures of a run."""
    count, *_, channels = pictures.images.shape
    return Identity(count, channels, digest_of(pictures.images), pictures.different)


def digest_of(images: npt.NDArray[np.uint8]) -> str:
    """Of up to ``LOOKED_AT`` pictures, evenly spread: one more or less moves those after it.

    Args:
        images: uint8 (N, H, W, C).
    """
    digest = hashlib.sha256()
    for index in np.linspace(0, len(images) - 1, min(len(images), LOOKED_AT)).astype(np.int64):
        digest.update(images[index].tobytes())
    return digest.hexdigest()[:16]


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
