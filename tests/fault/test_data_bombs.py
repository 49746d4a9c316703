"""Zips of pictures that want to write elsewhere or to fill the memory."""

from __future__ import annotations

import io
import stat
import struct
import zipfile
import zlib
from pathlib import Path

import pytest
from PIL import Image

from training.data import sources
from training.data.decode import PictureSpec

SPEC = PictureSpec(image_size=32, background="#000000", cache=None)


def png(width: int, height: int) -> bytes:
    """A PNG whose header says so; its pixels are few."""
    parts = [b"\x89PNG\r\n\x1a\n"]
    for kind, body in (
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)),
        (b"IDAT", zlib.compress(bytes(1000))),
        (b"IEND", b""),
    ):
        sum_of = zlib.crc32(kind + body)
        parts.append(struct.pack(">I", len(body)) + kind + body + struct.pack(">I", sum_of))
    return b"".join(parts)


def picture() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (64, 64), "#4080c0").save(buffer, "PNG")
    return buffer.getvalue()


def test_a_zip_of_pictures_writes_nothing_anywhere(tmp_path: Path) -> None:
    """Names that lead out of the folder, and a link: members are read, never unpacked."""
    inner = tmp_path / "a" / "b"
    inner.mkdir(parents=True)
    (tmp_path / "secret.png").write_bytes(picture())
    link = zipfile.ZipInfo("link.png")
    link.create_system, link.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(inner / "slip.zip", "w") as archive:
        archive.writestr("../../evil.png", picture())
        archive.writestr(str(tmp_path / "absolute-evil.png"), picture())
        archive.writestr("good.png", picture())
        archive.writestr(link, str(tmp_path / "secret.png"))
    loaded = sources.load_zip(inner / "slip.zip", SPEC)
    assert len(loaded.images) == 3
    assert [skipped.name for skipped in loaded.skipped] == ["link.png"]
    assert not list(tmp_path.rglob("*evil*"))


@pytest.mark.parametrize("side", [30_000, 100_000, 2**31 - 1])
def test_a_picture_that_says_it_is_huge(tmp_path: Path, side: int) -> None:
    with zipfile.ZipFile(tmp_path / "bomb.zip", "w") as archive:
        archive.writestr("bomb.png", png(side, side))
        archive.writestr("good.png", picture())
    loaded = sources.load_zip(tmp_path / "bomb.zip", SPEC)
    assert len(loaded.images) == 1
    assert [skipped.name for skipped in loaded.skipped] == ["bomb.png"]
