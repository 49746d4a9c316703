"""Files that are either whole or absent: written beside, then renamed."""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

LOCK = "run.lock"  # in a run's folder while a process writes there, or after it was killed
_PARTIAL = re.compile(r"\..*-[a-z0-9_]{8}(\.\w+)?")  # as ``atomic_path`` names files, or once did


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A path to write to; what is there becomes ``path`` if the block ends without an error.

    The data is on the disk before the rename, so neither a crash nor a full disk leaves half a
    file under the final name.

    Raises:
        OSError: the disk is full or the folder is not writable; ``path`` is unchanged.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with naming(path):
        beside = path.with_name(f".{path.stem}-{secrets.token_hex(4)}{path.suffix}")
        # Not by tempfile, whose files nobody else may read: a server's user must.
        os.close(os.open(beside, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
        try:
            yield beside
            with beside.open("rb+") as written:
                os.fsync(written.fileno())
            beside.replace(path)
        finally:
            beside.unlink(missing_ok=True)


def check_writable(path: Path) -> None:
    """Find out, before the work whose result it is to hold, that a file cannot be written.

    Raises:
        OSError: no file can be made there, or the disk takes no byte more.
    """
    path = path.absolute()
    with naming(path):
        there = next(folder for folder in path.parents if folder.exists())
        with tempfile.TemporaryFile(dir=there) as probe:
            probe.write(b"?")


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Errors of the system name ``path``: those of a full disk name no file.

    Raises:
        OSError: what was raised inside, of the same kind.
    """
    try:
        yield
    except OSError as error:
        if error.errno is None:
            raise OSError(f"{path}: {error}") from None
        if error.filename is not None and Path(error.filename).parent != path.parent:
            raise  # of another file
        raise OSError(error.errno, error.strerror, str(path)) from None


def sha256_of(path: Path) -> str:
    """Hexadecimal.

    Raises:
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def is_partial(path: Path) -> bool:
    """Whether ``atomic_path`` was writing this when its process was killed."""
    return bool(_PARTIAL.fullmatch(path.name)) and path.is_file()


def remove_partial(folder: Path) -> None:
    """Delete what ``atomic_path`` was writing below ``folder`` when its process was killed."""
    for path in folder.rglob(".*"):
        if is_partial(path):
            path.unlink(missing_ok=True)
