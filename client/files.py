"""Files that are either whole or as before."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from boltons.fileutils import atomic_save


@contextmanager
def whole(path: Path) -> Iterator[BinaryIO]:
    """A file to write, in a folder that is made; renamed to ``path`` when all went well.

    Raises:
        OSError: it cannot be; the error names the file, where that of a full disk names none.
    """
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_save(path, part_file=part.name, overwrite_part=True) as file:
            yield file
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        part.unlink(missing_ok=True)  # atomic_save leaves it where its last bytes find no room


def write(path: Path, data: bytes) -> None:
    """The same for bytes that are there."""
    with whole(path) as file:
        file.write(data)
