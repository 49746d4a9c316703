"""Many pictures decoded by threads into one array that lies on disk, not in memory.

The array is memory-mapped from a temporary file that has no name: it takes
``N * image_size**2 * 3`` bytes there (200,000 pictures of 64 px: 2.5 GB) and vanishes with
the process. Point TMPDIR at another disk to put it there.
"""

from __future__ import annotations

import errno
import logging
import os
import tempfile
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal, TypeVar

import numpy as np
import numpy.typing as npt
from PIL import Image

from training.data.pictures import DataError, Skipped, UnusablePictureError

Channels = Literal["auto", "1", "3"]
Decoded = tuple[npt.NDArray[np.uint8], bool]
T = TypeVar("T")

PER_THREAD = 32  # pictures decoded before they are written: bounds what waits in memory
PROGRESS_EVERY = 10_000
ROWS = 256  # pictures converted at once

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Store:
    """What came of a list of candidates.

    Attributes:
        images: uint8 (N, H, W, C), memory-mapped, in the order of the candidates.
        kept: int64 (N,), which candidate each picture is.
        skipped: the candidates left out.
    """

    images: npt.NDArray[np.uint8]
    kept: npt.NDArray[np.int64]
    skipped: list[Skipped]


def decode_all(
    candidates: Sequence[T],
    decode_one: Callable[[T], Decoded],
    name_of: Callable[[T], str],
    *,
    image_size: int,
    channels: Channels,
    workers: int,
) -> Store:
    """Decode each candidate once.

    Args:
        candidates: what ``decode_one`` takes.
        decode_one: gives uint8 RGB (image_size, image_size, 3) and whether it is grey, or
            raises UnusablePictureError; called by several threads at once.
        name_of: the candidate as it is shown to people.
        image_size: height and width, px.
        channels: ``auto`` is 1 when every usable picture is grey, else 3.
        workers: threads.

    Raises:
        DataError: the temporary file does not fit on its disk.
    """

    def attempt(candidate: T) -> Decoded | str:
        try:
            return decode_one(candidate)
        except UnusablePictureError as error:
            return str(error)

    store = _allocate((len(candidates), image_size, image_size, 3))
    kept: list[int] = []
    skipped: list[Skipped] = []
    all_grey = True
    step = PER_THREAD * workers
    # Pillow warns of odd EXIF and of sizes that are checked here. The filters belong to the
    # process, so they are set once around the threads, not in each of them.
    with warnings.catch_warnings(), ThreadPoolExecutor(workers) as pool:
        warnings.simplefilter("ignore")
        for start in range(0, len(candidates), step):
            some = candidates[start : start + step]
            for index, result in enumerate(pool.map(attempt, some), start):
                if isinstance(result, str):
                    skipped.append(Skipped(name_of(candidates[index]), result))
                    continue
                store[len(kept)], is_grey = result
                all_grey = all_grey and is_grey
                kept.append(index)
            if start // PROGRESS_EVERY != (start + step) // PROGRESS_EVERY:
                log.info("%d of %d files read", start + len(some), len(candidates))
    images = store[: len(kept)]
    if channels == "1" or (channels == "auto" and all_grey and kept):
        images = to_grey(images)
    return Store(images, np.array(kept, np.int64), skipped)


def to_grey(images: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """RGB (N, H, W, 3) to luma (N, H, W, 1), Rec. 601, both uint8.

    The luma is written over the beginning of ``images``, which must be contiguous: a second
    array of that size may not fit.
    """
    count, height, width, _ = images.shape
    luma = images.reshape(-1)[: count * height * width].reshape(count, height, width, 1)
    for start in range(0, count, ROWS):
        rows = images[start : start + ROWS].reshape(-1, width, 3)
        # Copied out before writing, and written only over rows already read.
        grey = np.array(Image.fromarray(rows).convert("L"), np.uint8)
        luma[start : start + ROWS] = grey.reshape(-1, height, width, 1)
    return luma


def _allocate(shape: tuple[int, int, int, int]) -> npt.NDArray[np.uint8]:
    size_bytes = int(np.prod(shape))
    if size_bytes == 0:  # nothing can be mapped
        return np.empty(shape, np.uint8)
    with tempfile.TemporaryFile() as file:  # the mapping outlives the closed file
        try:
            if hasattr(os, "posix_fallocate"):  # a full disk is an error here, later a SIGBUS
                os.posix_fallocate(file.fileno(), 0, size_bytes)
            else:
                file.truncate(size_bytes)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EFBIG, errno.EDQUOT):
                raise
            raise DataError(
                f"{shape[0]:,} pictures of {shape[1]} px need {size_bytes / 1e9:.1f} GB in "
                f"{tempfile.gettempdir()}: {error.strerror}. Free some, or set TMPDIR to a "
                "folder on a larger disk"
            ) from None
        return np.asarray(np.memmap(file, np.uint8, "r+", shape=shape))
