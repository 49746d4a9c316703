"""Many pictures decoded by threads into one array on disk, kept for the next run or not.

``N * image_size**2 * 3`` bytes: 200,000 pictures of 64 px are 2.5 GB. What is kept is named by
where the pictures come from and by the state of their files (name, size, time of the last
change), so a changed folder is decoded again and its earlier array deleted.
"""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import re
import tempfile
import warnings
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import IO, TypeVar

import numpy as np
import numpy.typing as npt
import PIL
from filelock import FileLock
from PIL import Image

from training.data.decode import (
    DataError,
    Decoded,
    Pictures,
    PictureSpec,
    Skipped,
    UnusablePictureError,
)
from training.files import atomic_path

LAYOUT = 5  # of the files; another number makes all of them stale
KEPT = re.compile(r"[0-9a-f]{16}(-[0-9a-f]{16})?\.(lock|json|u8|partial)")  # names of the files
FULL = (errno.ENOSPC, errno.EFBIG, errno.EDQUOT)
PER_THREAD = 32  # pictures decoded before they are written: bounds what waits in memory
PROGRESS_EVERY = 10_000
ROWS = 256  # pictures converted at once
T = TypeVar("T")

log = logging.getLogger(__name__)


Shape = tuple[int, int, int, int]
Fill = Callable[[npt.NDArray[np.uint8]], Pictures]  # decodes into an array, uses its beginning


def decode_all(
    candidates: Sequence[T],
    decode_one: Callable[[T], Decoded],
    name_of: Callable[[T], str],
    spec: PictureSpec,
    origin: Path,
    state: Iterable[str],
) -> Pictures:
    """Decode each candidate once, or not at all if an earlier run has.

    Args:
        candidates: what ``decode_one`` takes.
        decode_one: gives the picture, ``spec.image_size`` px high and wide, or raises
            UnusablePictureError; called by several threads at once.
        name_of: the candidate as it is shown to people.
        spec: how they are decoded, and where they are kept for the next run.
        origin: where they come from.
        state: what changes when they do, one text a file.

    Returns:
        memory-mapped, in the order of the candidates; ``origin`` is their source.

    Raises:
        DataError: they do not fit on the disk.
    """

    def attempt(candidate: T) -> Decoded | str:
        try:
            return decode_one(candidate)
        except UnusablePictureError as error:
            return str(error)

    def fill(store: npt.NDArray[np.uint8]) -> Pictures:
        count = 0
        skipped: list[Skipped] = []
        all_grey = True
        small_px: list[int] = []
        step = PER_THREAD * spec.workers
        # Pillow warns of odd EXIF and of sizes that are checked here. The filters belong to the
        # process, so they are set once around the threads, not in each of them.
        with warnings.catch_warnings(), ThreadPoolExecutor(spec.workers) as pool:
            warnings.simplefilter("ignore")
            for start in range(0, len(candidates), step):
                some = candidates[start : start + step]
                for index, result in enumerate(pool.map(attempt, some), start):
                    if isinstance(result, str):
                        skipped.append(Skipped(name_of(candidates[index]), result))
                        continue
                    store[count] = result.pixels
                    count += 1
                    all_grey = all_grey and result.is_grey
                    if result.side_px < spec.image_size:
                        small_px.append(result.side_px)
                if start // PROGRESS_EVERY != (start + step) // PROGRESS_EVERY:
                    log.info("%d of %d files read", start + len(some), len(candidates))
        images = store[:count]
        if spec.channels == "1" or (spec.channels == "auto" and all_grey and count):
            images = to_grey(images)
        smallest_px = min(small_px, default=0)
        return Pictures(images, str(origin), {}, skipped, len(small_px), smallest_px)

    shape = (len(candidates), spec.image_size, spec.image_size, 3)
    if spec.cache is None:
        return _decode_without_keeping(shape, fill)
    source = [str(origin.resolve()), str(spec.image_size), spec.channels, spec.background]
    pictures = Entry(spec.cache, source, state).read_or_decode(shape, fill)
    return replace(pictures, source=str(origin))


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


def _decode_without_keeping(shape: Shape, fill: Fill) -> Pictures:
    """Decode into a file that has no name and vanishes with the process; TMPDIR says where.

    Raises:
        DataError: it does not fit on its disk, or there is no folder for it.
    """
    try:
        folder = tempfile.gettempdir()
    except OSError as error:
        raise DataError(
            f"decoded pictures need a temporary folder: {error.strerror}; set TMPDIR to a folder "
            "that can be written to, or give one with --cache"
        ) from None
    with tempfile.TemporaryFile(dir=folder) as file:  # the mapping outlives the closed file
        advice = "set TMPDIR to a folder on a larger disk"
        return fill(_map(file, shape, folder, advice))


def state_of(status: os.stat_result) -> str:
    """What changes when a file does: the time is that of content, name or permissions."""
    return f"{status.st_size} {status.st_ctime_ns}"


class Entry:
    """One set of pictures in the cache.

    Args:
        folder: the cache.
        source: where the pictures come from and how they are decoded, one text a fact.
        state: what changes when the pictures do, one text a file.
    """

    def __init__(self, folder: Path, source: Iterable[str], state: Iterable[str]) -> None:
        self.folder = folder
        self._source = _digest([str(LAYOUT), PIL.__version__, *source])
        self._stem = f"{self._source}-{_digest(state)}"

    def read_or_decode(self, shape: Shape, fill: Fill) -> Pictures:
        """What an earlier run has left, or what ``fill`` decodes now.

        A process that finds another one decoding the same source waits for it.

        Raises:
            DataError: the folder cannot be written to, or is full.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with FileLock(self.folder / f"{self._source}.lock"):
                return self._read() or self._decode(shape, fill)
        except OSError as error:
            raise DataError(
                f"decoded pictures cannot be kept in {self.folder}: {error.strerror or error}; "
                "give another folder with --cache, or --cache None to decode at each start"
            ) from None

    def _read(self) -> Pictures | None:
        """What is there; ``None`` when it is incomplete, as after a full disk or a lost file."""
        try:
            facts = json.loads(self._path(".json").read_text(encoding="utf-8"))
            shape = tuple(facts["shape"])
            images = np.memmap(self._path(".u8"), np.uint8, "r", shape=shape)
            skipped = [Skipped(*pair) for pair in facts["skipped"]]
            small = facts["enlarged"], facts["smallest_px"]
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return Pictures(np.asarray(images), "", {}, skipped, *small)

    def _decode(self, shape: Shape, fill: Fill) -> Pictures:
        partial = self._path(".partial")  # of a killed process: written over, the lock is ours
        try:
            with partial.open("w+b") as file:
                advice = "give a folder on a larger disk with --cache"
                pictures = fill(_map(file, shape, str(self.folder), advice))
                if not len(pictures.images):
                    return pictures  # nothing to keep
                os.ftruncate(file.fileno(), pictures.images.nbytes)
                os.fsync(file.fileno())
            for old in self.folder.glob(f"{self._source}-*"):
                if old != partial:
                    old.unlink(missing_ok=True)
            partial.replace(self._path(".u8"))
        finally:
            partial.unlink(missing_ok=True)
        facts = {
            "shape": pictures.images.shape,
            "skipped": pictures.skipped,
            "enlarged": pictures.enlarged,
            "smallest_px": pictures.smallest_px,
        }
        with atomic_path(self._path(".json")) as beside:
            beside.write_text(json.dumps(facts), encoding="utf-8")
        return pictures

    def _path(self, suffix: str) -> Path:
        return self.folder / f"{self._stem}{suffix}"


def _digest(texts: Iterable[str]) -> str:
    digest = hashlib.sha256()
    for text in texts:
        encoded = os.fsencode(text)  # names that are not UTF-8 too
        digest.update(b"%d:%b" % (len(encoded), encoded))
    return digest.hexdigest()[:16]


def _map(file: IO[bytes], shape: Shape, folder: str, advice: str) -> npt.NDArray[np.uint8]:
    size_bytes = int(np.prod(shape))
    if size_bytes == 0:  # nothing can be mapped
        return np.empty(shape, np.uint8)
    try:
        os.posix_fallocate(file.fileno(), 0, size_bytes)  # a full disk is a SIGBUS later
    except OSError as error:
        if error.errno not in FULL:
            raise
        raise DataError(
            f"{shape[0]:,} pictures of {shape[1]} px need {size_bytes / 1e9:.1f} GB in "
            f"{folder}: {error.strerror}. Free some, or {advice}"
        ) from None
    return np.asarray(np.memmap(file, np.uint8, "r+", shape=shape))
