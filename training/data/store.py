"""Many pictures decoded by threads into one array that lies on disk, not in memory."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Literal, TypeVar

import numpy as np
import numpy.typing as npt
from PIL import Image

from training.data.cache import Entry, Store, decode_without_keeping
from training.data.pictures import Decoded, Remarks, Skipped, UnusablePictureError

Channels = Literal["auto", "1", "3"]
T = TypeVar("T")

PER_THREAD = 32  # pictures decoded before they are written: bounds what waits in memory
PROGRESS_EVERY = 10_000
ROWS = 256  # pictures converted at once

log = logging.getLogger(__name__)


def decode_all(
    candidates: Sequence[T],
    decode_one: Callable[[T], Decoded],
    name_of: Callable[[T], str],
    *,
    image_size: int,
    channels: Channels,
    workers: int,
    entry: Entry | None,
) -> Store:
    """Decode each candidate once, or not at all if an earlier run has.

    Args:
        candidates: what ``decode_one`` takes.
        decode_one: gives the picture, ``image_size`` px high and wide, or raises
            UnusablePictureError; called by several threads at once.
        name_of: the candidate as it is shown to people.
        image_size: height and width, px.
        channels: ``auto`` is 1 when every usable picture is grey, else 3.
        workers: threads.
        entry: where the pictures are kept for the next run; None does not keep them.

    Raises:
        DataError: they do not fit on the disk.
    """

    def attempt(candidate: T) -> Decoded | str:
        try:
            return decode_one(candidate)
        except UnusablePictureError as error:
            return str(error)

    def fill(store: npt.NDArray[np.uint8]) -> Store:
        return _fill(store, candidates, attempt, name_of, channels, workers)

    shape = (len(candidates), image_size, image_size, 3)
    return entry.read_or_decode(shape, fill) if entry else decode_without_keeping(shape, fill)


def _fill(
    store: npt.NDArray[np.uint8],
    candidates: Sequence[T],
    attempt: Callable[[T], Decoded | str],
    name_of: Callable[[T], str],
    channels: Channels,
    workers: int,
) -> Store:
    kept: list[int] = []
    skipped: list[Skipped] = []
    all_grey = True
    bare, small_px = 0, list[int]()
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
                store[len(kept)] = result.pixels
                all_grey = all_grey and result.is_grey
                bare += result.bare
                if result.side_px < store.shape[1]:
                    small_px.append(result.side_px)
                kept.append(index)
            if start // PROGRESS_EVERY != (start + step) // PROGRESS_EVERY:
                log.info("%d of %d files read", start + len(some), len(candidates))
    images = store[: len(kept)]
    if channels == "1" or (channels == "auto" and all_grey and kept):
        images = to_grey(images)
    remarks = Remarks(len(small_px), min(small_px, default=0), bare)
    return Store(images, np.array(kept, np.int64), skipped, remarks)


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
