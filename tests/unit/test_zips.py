"""Zips that are odd, damaged or hostile."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest
from odd_pictures import (
    SETTINGS,
    plain,
    reasons_of,
    write_odd_zip,
)

from training.data import DataError, folders
from training.data.folders import load_zip

pytestmark = pytest.mark.unit


@pytest.fixture
def odd_zip(tmp_path: Path) -> Path:
    return write_odd_zip(tmp_path / "odd.zip")


class TestZip:
    def test_declared_size_is_limited(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(folders, "MAX_MEMBER_BYTES", 2 * 2**20)
        path = tmp_path / "bomb.zip"
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("bomb.png", bytes(2 * 2**20 + 1))
            archive.writestr("good.png", plain())
        pictures = load_zip(path, **SETTINGS)
        assert len(pictures.images) == 1
        assert reasons_of(pictures) == {"bomb.png": "more than 2 MiB when unpacked"}

    def test_size_that_is_lied_about(self, tmp_path: Path) -> None:
        """A member that unpacks to more than it says is cut there, and its sum is wrong."""
        path = tmp_path / "liar.zip"
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("liar.png", bytes(1_000_000))
        honest = (1_000_000).to_bytes(4, "little")
        path.write_bytes(path.read_bytes().replace(honest, (100).to_bytes(4, "little")))
        assert "damaged" in reasons_of(load_zip(path, **SETTINGS))["liar.png"]

    def test_encrypted_member(self, tmp_path: Path) -> None:
        path = tmp_path / "secret.zip"
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("secret.png", plain())
        content = bytearray(path.read_bytes())
        content[content.index(b"PK\x01\x02") + 8] |= 1  # the flag in the central directory
        path.write_bytes(content)
        assert "encrypted" in reasons_of(load_zip(path, **SETTINGS))["secret.png"]

    def test_damaged_member(self, tmp_path: Path) -> None:
        path = tmp_path / "bad.zip"
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("bad.bmp", plain((1, 2, 3), "BMP"))
            archive.writestr("good.bmp", plain((4, 5, 6), "BMP"))
        path.write_bytes(path.read_bytes().replace(bytes((3, 2, 1)) * 5, bytes(15), 1))
        pictures = load_zip(path, **SETTINGS)
        assert pictures.images[:, 0, 0].tolist() == [[4, 5, 6]]
        assert "CRC" in reasons_of(pictures)["bad.bmp"]

    @pytest.mark.parametrize("content", [b"", b"PK\x03\x04 nothing", b"<html>quota"])
    def test_what_is_no_zip(self, tmp_path: Path, content: bytes) -> None:
        path = tmp_path / "not.zip"
        path.write_bytes(content)
        with pytest.raises(DataError, match="cannot be read as a zip"):
            load_zip(path, **SETTINGS)

    def test_cut_zip(self, odd_zip: Path) -> None:
        odd_zip.write_bytes(odd_zip.read_bytes()[:-100])
        with pytest.raises(DataError, match=r"odd\.zip cannot be read as a zip"):
            load_zip(odd_zip, **SETTINGS)

    def test_path_tricks_write_nothing(self, tmp_path: Path) -> None:
        path = tmp_path / "inside" / "evil.zip"
        path.parent.mkdir()
        with zipfile.ZipFile(path, "w") as archive:
            for name in ("../up.png", "/absolute.png", "a/../../b.png", "C:\\c.png"):
                archive.writestr(name, plain())
        assert len(load_zip(path, **SETTINGS).images) == 4
        assert [p.name for p in tmp_path.rglob("*")] == ["inside", "evil.zip"]
