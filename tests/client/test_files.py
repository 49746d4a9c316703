"""A file is written whole or not at all."""

from __future__ import annotations

import resource
from pathlib import Path

import pytest

from client.files import write


def test_a_file_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    """An error of the system that names no file, as that of a full disk, gets its name."""
    path = tmp_path / "new" / "grid.png"
    write(path, b"old")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, limits[1]))
    try:
        with pytest.raises(OSError, match=r"File too large: '.*/new/grid\.png'"):
            write(path, bytes(100))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_bytes() == b"old"
    assert list(path.parent.iterdir()) == [path]
