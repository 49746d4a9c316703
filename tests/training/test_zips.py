"""Zips that are odd, damaged or hostile."""

from __future__ import annotations

import re
import zipfile
from pathlib import Path

import pytest

from tests.support.odd_pictures import (
    SPEC,
    plain,
    reasons_of,
    write_odd_zip,
)
from training.data import sources
from training.data.decode import DataError
from training.data.sources import load_zip


@pytest.fixture
def odd_zip(tmp_path: Path) -> Path:
    return write_odd_zip(tmp_path / "odd.zip")


class TestZip:
    def test_declared_size_is_limited(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(sources, "MAX_MEMBER_BYTES", 2 * 2**20)
        path = tmp_path / "bomb.zip"
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("bomb.png", bytes(2 * 2**20 + 1))
            archive.writestr("good.png", plain())
        pictures = load_zip(path, SPEC)
        assert len(pictures.images) == 1
        assert reasons_of(pictures) == {"bomb.png": "more than 2 MiB when unpacked"}

    def test_size_that_is_lied_about(self, tmp_path: Path) -> None:
        """A member that unpacks to more than it says is cut there, and its sum is wrong."""
        path = tmp_path / "liar.zip"
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("liar.png", bytes(1_000_000))
        honest = (1_000_000).to_bytes(4, "little")
        path.write_bytes(path.read_bytes().replace(honest, (100).to_bytes(4, "little")))
        assert "damaged" in reasons_of(load_zip(path, SPEC))["liar.png"]

    @pytest.mark.parametrize(
        ("field", "value", "reason"),
        [
            (8, 1, "encrypted; pack it without a password"),  # the flags
            (10, 99, "encrypted; pack it without a password"),  # the method
            (10, 9, "packed by Deflate64, .*pack it by Deflate or give the folder"),
            (10, 93, "packed by Zstandard"),
            (10, 95, "packed by XZ"),
            (10, 98, "packed by PPMd"),
            (10, 77, "packed by method 77"),
        ],
    )
    def test_members_that_cannot_be_unpacked(
        self, tmp_path: Path, field: int, value: int, reason: str
    ) -> None:
        """Said once for all of them, and for each only where others can be read."""
        path = tmp_path / "locked.zip"
        with zipfile.ZipFile(path, "w") as archive:
            for name in ("a.png", "b.png", "c.png"):
                archive.writestr(name, plain())
        content = bytearray(path.read_bytes())
        entries = [found.start() for found in re.finditer(b"PK\1\2", content)]
        for count, at in enumerate(entries, 1):  # in the central directory
            content[at + field] = value
            path.write_bytes(content)
            if count == 2:
                pictures = load_zip(path, SPEC)
                assert len(pictures.images) == 1
                assert all(re.match(reason, each.reason) for each in pictures.skipped)
                assert len(pictures.skipped) == 2
        with pytest.raises(DataError, match=rf"locked\.zip: all 3 files in it are {reason}"):
            load_zip(path, SPEC)

    @pytest.mark.parametrize(
        "name",
        ["__MACOSX\\._a.png", "a\\.hidden\\b.png", ".hidden\\b.png", "a\\Desktop.ini",
         "__macosx/a.png", "a/@eaDir/b.png", "a/.b.png"],
    )  # fmt: skip
    def test_hidden_members_are_no_pictures(self, tmp_path: Path, name: str) -> None:
        path = tmp_path / "windows.zip"
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr(name, plain())
            archive.writestr("folder\\", b"")
        alone = load_zip(path, SPEC)
        assert (len(alone.images), alone.skipped, alone.hidden) == (0, [], 1)
        with zipfile.ZipFile(path, "a") as archive:
            archive.writestr("folder\\good.png", plain())
        assert len(load_zip(path, SPEC).images) == 1

    def test_damaged_member(self, tmp_path: Path) -> None:
        path = tmp_path / "bad.zip"
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("bad.bmp", plain((1, 2, 3), "BMP"))
            archive.writestr("good.bmp", plain((4, 5, 6), "BMP"))
        path.write_bytes(path.read_bytes().replace(bytes((3, 2, 1)) * 5, bytes(15), 1))
        pictures = load_zip(path, SPEC)
        assert pictures.images[:, 0, 0].tolist() == [[4, 5, 6]]
        assert "CRC" in reasons_of(pictures)["bad.bmp"]

    @pytest.mark.parametrize("content", [b"", b"PK\x03\x04 nothing", b"<html>quota"])
    def test_what_is_no_zip(self, tmp_path: Path, content: bytes) -> None:
        path = tmp_path / "not.zip"
        path.write_bytes(content)
        with pytest.raises(DataError, match="cannot be read as a zip"):
            load_zip(path, SPEC)

    def test_cut_zip(self, odd_zip: Path) -> None:
        odd_zip.write_bytes(odd_zip.read_bytes()[:-100])
        with pytest.raises(DataError, match=r"odd\.zip cannot be read as a zip"):
            load_zip(odd_zip, SPEC)

    def test_path_tricks_write_nothing(self, tmp_path: Path) -> None:
        path = tmp_path / "inside" / "evil.zip"
        path.parent.mkdir()
        with zipfile.ZipFile(path, "w") as archive:
            for name in ("../up.png", "/absolute.png", "a/../../b.png", "C:\\c.png", "./d.png"):
                archive.writestr(name, plain())
        assert len(load_zip(path, SPEC).images) == 5
        assert [p.name for p in tmp_path.rglob("*")] == ["inside", "evil.zip"]
