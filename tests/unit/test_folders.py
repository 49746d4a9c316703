"""A folder and a zip full of odd files: what is read, and what is said about the rest."""

from __future__ import annotations

import io
import os
import re
import socket
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from training.data import DataError, Pictures, folders, load, report, store
from training.data.folders import load_folder, load_zip, show_name
from training.data.pictures import Skipped, decode

pytestmark = pytest.mark.unit

SKY = (200, 212, 224)
SETTINGS: dict[str, Any] = {
    "image_size": 32, "channels": "auto", "background": "#c8d4e0", "workers": 2
}  # fmt: skip
NOISE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8))


def encode(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def plain(colour: tuple[int, int, int] = (9, 8, 7), kind: str = "PNG") -> bytes:
    return encode(Image.new("RGB", (40, 40), colour), kind)


def half(mode: str, left: Any, right: Any) -> Image.Image:
    image = Image.new(mode, (64, 64), left)
    image.paste(right, (32, 0, 64, 64))
    return image


def palette() -> Image.Image:
    image = half("P", 0, 1)
    image.putpalette([255, 0, 0, 0, 255, 0])
    return image


def odd_files() -> dict[str, tuple[bytes, Any]]:
    """Name -> content and what it must become: two pixels (left, right), or part of a reason."""
    exif = Image.Exif()
    exif[0x0112] = 3
    red, green = (255, 0, 0), (0, 255, 0)
    grey_16_bit = Image.fromarray(np.full((40, 40), 0x8080, np.uint16))
    frames = [Image.new("RGB", (40, 40), c) for c in (red, green)]
    more = {"save_all": True, "append_images": frames[1:]}
    cmyk = Image.new("CMYK", (40, 40), (0, 255, 255, 0))
    return {
        "animated.gif": (encode(frames[0], "GIF", **more), (red, red)),
        "animated.webp": (encode(frames[0], "WEBP", **more), (red, red)),
        "cmyk.jpg": (encode(cmyk, "JPEG"), (red, red)),
        "deep/er/nested.PNG": (plain(green), (green, green)),
        "empty.jpg": (b"", "empty file"),
        "grey16.png": (encode(grey_16_bit), ((128,) * 3, (128,) * 3)),
        "grey_alpha.png": (encode(half("LA", (0, 0), (77, 255))), (SKY, (77,) * 3)),
        "no_suffix": (plain(red), (red, red)),
        "notes.txt": (b"these are my cats\n", "not a picture"),
        "one.png": (encode(Image.new("RGB", (1, 1), green)), (green, green)),
        "page.jpg": (b"<!doctype html><html>quota exceeded", "HTML page"),
        "palette.png": (encode(palette(), transparency=0), (SKY, green)),
        "rotated.jpg": (encode(half("RGB", red, green), "JPEG", exif=exif), (green, red)),
        "truncated.jpg": (encode(NOISE, "JPEG")[:-600], "damaged: .*truncated"),
        "truncated.png": (encode(NOISE)[:-900], "damaged"),
        "wide.png": (encode(Image.new("RGB", (20_000, 4), red)), (red, red)),
        "wrong_suffix.jpg": (plain(green, "BMP"), (green, green)),
    }


USABLE = sorted(n for n, (_, wanted) in odd_files().items() if not isinstance(wanted, str))
UNUSABLE = sorted(n for n, (_, wanted) in odd_files().items() if isinstance(wanted, str))


def check_odd_pictures(pictures: Pictures) -> None:
    assert pictures.images.shape == (len(USABLE), 32, 32, 3)
    assert pictures.images.dtype == np.uint8
    for name, image in zip(USABLE, pictures.images, strict=True):
        left, right = odd_files()[name][1]
        np.testing.assert_allclose(image[16, 3], left, atol=6, err_msg=name)
        np.testing.assert_allclose(image[16, -4], right, atol=6, err_msg=name)
    skipped = reasons_of(pictures)
    assert sorted(skipped) == UNUSABLE
    for name, reason in skipped.items():
        assert re.search(odd_files()[name][1], reason), f"{name}: {reason}"


@pytest.fixture
def odd_folder(tmp_path: Path) -> Path:
    root = tmp_path / "odd"
    for name, (content, _) in odd_files().items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    for litter in (".DS_Store", "Thumbs.db", ".hidden.png", "__MACOSX/._one.png", ".git/a.png"):
        (root / litter).parent.mkdir(exist_ok=True)
        (root / litter).write_bytes(plain())
    return root


@pytest.fixture
def odd_zip(tmp_path: Path) -> Path:
    path = tmp_path / "odd.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, (content, _) in reversed(odd_files().items()):
            archive.writestr(name, content)
        for litter in (".DS_Store", "__MACOSX/._one.png", "deep/.hidden.png", "deep/"):
            archive.writestr(litter, b"" if litter.endswith("/") else plain())
    return path


def reasons_of(pictures: Pictures) -> dict[str, str]:
    return {item.name: item.reason for item in pictures.skipped}


def test_odd_folder(odd_folder: Path) -> None:
    check_odd_pictures(load_folder(odd_folder, **SETTINGS))


def test_odd_zip(odd_zip: Path) -> None:
    check_odd_pictures(load_zip(odd_zip, **SETTINGS))


@pytest.mark.parametrize("workers", [1, 5])
def test_threads_change_nothing(odd_folder: Path, workers: int) -> None:
    one = load_folder(odd_folder, **SETTINGS)
    other = load_folder(odd_folder, **{**SETTINGS, "workers": workers})
    np.testing.assert_array_equal(one.images, other.images)
    assert one.skipped == other.skipped


def test_folder_and_its_zip_are_the_same(odd_folder: Path, odd_zip: Path) -> None:
    np.testing.assert_array_equal(
        load_folder(odd_folder, **SETTINGS).images, load_zip(odd_zip, **SETTINGS).images
    )


def test_many_pictures_are_not_kept_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Over several rounds of decoding, unusable ones between them, each is decoded once."""
    monkeypatch.setattr(store, "PER_THREAD", 3)
    monkeypatch.setattr(store, "ROWS", 4)
    decoded: list[int] = []

    def count_and_decode(*arguments: Any) -> Any:
        decoded.append(1)
        return decode(*arguments)

    monkeypatch.setattr(folders, "decode", count_and_decode)
    for i in range(25):
        content = b"" if i % 4 == 1 else encode(Image.new("L", (40, 40), 10 * i))
        (tmp_path / f"{i:02}.png").write_bytes(content)
    pictures = load_folder(tmp_path, **SETTINGS)
    expected = [10 * i for i in range(25) if i % 4 != 1]
    assert pictures.images.shape == (len(expected), 32, 32, 1)
    assert pictures.images[:, 5, 5, 0].tolist() == expected
    assert (pictures.images == pictures.images[:, :1, :1]).all()
    assert len(decoded) == 25
    base: Any = pictures.images
    while not isinstance(base, np.memmap):
        base = base.base
        assert base is not None, "not memory-mapped"


class TestChannels:
    @pytest.fixture
    def grey(self, tmp_path: Path) -> Path:
        Image.new("L", (40, 40), 50).save(tmp_path / "a.png")
        Image.new("RGB", (40, 40), (90, 90, 90)).save(tmp_path / "b.png")
        return tmp_path

    def test_all_grey(self, grey: Path) -> None:
        images = load_folder(grey, **SETTINGS).images
        assert images.shape == (2, 32, 32, 1)
        assert images[:, 0, 0, 0].tolist() == [50, 90]

    def test_all_grey_made_rgb(self, grey: Path) -> None:
        images = load_folder(grey, **{**SETTINGS, "channels": "3"}).images
        assert images[:, 0, 0].tolist() == [[50] * 3, [90] * 3]

    def test_one_with_colour(self, grey: Path) -> None:
        Image.new("RGB", (40, 40), (90, 80, 90)).save(grey / "c.png")
        images = load_folder(grey, **SETTINGS).images
        assert images[:, 0, 0].tolist() == [[50] * 3, [90] * 3, [90, 80, 90]]

    def test_colour_made_grey_is_rec_601_luma(self, grey: Path) -> None:
        Image.new("RGB", (40, 40), (255, 0, 0)).save(grey / "c.png")
        Image.new("RGB", (40, 40), (0, 255, 0)).save(grey / "d.png")
        images = load_folder(grey, **{**SETTINGS, "channels": "1"}).images
        assert images.shape == (4, 32, 32, 1)
        assert images[:, 0, 0, 0].tolist() == [50, 90, 76, 150]


class TestUnusualFiles:
    """Things in a folder that are no files, or cannot be opened."""

    def test_pipes_and_sockets_are_not_opened(self, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "pipe.jpg")  # opening it would wait for ever
        with socket.socket(socket.AF_UNIX) as listener:
            here = Path.cwd()
            os.chdir(tmp_path)  # the path of a socket is limited to 107 bytes
            try:
                listener.bind("socket.jpg")
            finally:
                os.chdir(here)
            pictures = load_folder(tmp_path, **SETTINGS)
        assert len(pictures.images) == 0
        assert "named pipe" in reasons_of(pictures)["pipe.jpg"]
        assert "socket" in reasons_of(pictures)["socket.jpg"]

    def test_link_loops_are_harmless(self, tmp_path: Path) -> None:
        (tmp_path / "sub").mkdir()
        (tmp_path / "sub" / "a.png").write_bytes(plain())
        (tmp_path / "sub" / "up").symlink_to(tmp_path, target_is_directory=True)
        (tmp_path / "self").symlink_to("self")
        pictures = load_folder(tmp_path, **SETTINGS)
        assert len(pictures.images) == 1
        assert "not followed" in reasons_of(pictures)["sub/up"]
        assert "broken link" in reasons_of(pictures)["self"]

    def test_links_to_files_are_read_and_broken_ones_listed(self, tmp_path: Path) -> None:
        (tmp_path / "pictures").mkdir()
        (tmp_path / "original").write_bytes(plain())
        (tmp_path / "pictures" / "good.png").symlink_to(tmp_path / "original")
        (tmp_path / "pictures" / "bad.png").symlink_to(tmp_path / "gone")
        pictures = load_folder(tmp_path / "pictures", **SETTINGS)
        assert len(pictures.images) == 1
        assert "broken link" in reasons_of(pictures)["bad.png"]

    def test_the_folder_itself_may_be_a_link(self, tmp_path: Path) -> None:
        (tmp_path / "real").mkdir()
        (tmp_path / "real" / "a.png").write_bytes(plain())
        (tmp_path / "link").symlink_to("real")
        assert len(load_folder(tmp_path / "link", **SETTINGS).images) == 1

    def test_names_that_are_not_utf_8(self, tmp_path: Path) -> None:
        try:
            Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.png")).write_bytes(plain())
        except OSError:
            pytest.skip("this file system takes UTF-8 names only")
        Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.jpg")).write_bytes(b"")
        pictures = load_folder(tmp_path, **SETTINGS)
        assert len(pictures.images) == 1
        assert pictures.skipped == [Skipped(r"\xff.jpg", "empty file (0 bytes)")]
        report(pictures).encode("utf-8")

    @pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
    def test_no_permission(self, tmp_path: Path) -> None:
        (tmp_path / "a.png").write_bytes(plain())
        (tmp_path / "a.png").chmod(0)
        (tmp_path / "closed").mkdir(mode=0)
        reasons = reasons_of(load_folder(tmp_path, **SETTINGS))
        (tmp_path / "closed").chmod(0o700)
        assert reasons["a.png"] == "cannot be read: Permission denied"
        assert "folder not readable" in reasons["closed"]

    def test_file_that_vanishes(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(folders, "_find", lambda _: (["gone.png"], []))
        pictures = load_folder(tmp_path, **SETTINGS)
        assert pictures.skipped == [
            Skipped("gone.png", "cannot be read: No such file or directory")
        ]

    def test_control_characters_are_shown_escaped(self) -> None:
        assert show_name("a\nb\x1b[31m.png") == r"a\nb\x1b[31m.png"
        assert show_name("caf\u00e9 \U0001f408.png") == "caf\u00e9 \U0001f408.png"


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


class TestLoad:
    """Which loader is chosen, and what is said when there is nothing to train on."""

    def load(self, data: str | Path, **changes: Any) -> Pictures:
        return load(
            str(data),
            **{**SETTINGS, "data_root": Path("none"), "seed": 1, "batch_size": 2, **changes},
        )

    def test_folder_and_zip(self, odd_folder: Path, odd_zip: Path) -> None:
        for path in (odd_folder, odd_zip):
            pictures = self.load(path)
            assert len(pictures.images) == len(USABLE)
            assert pictures.source == str(path)

    def test_home_is_expanded(self, odd_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("HOME", str(odd_folder.parent))
        assert len(self.load("~/odd").images) == len(USABLE)

    def test_fewer_than_a_batch(self, odd_folder: Path) -> None:
        with pytest.raises(DataError) as caught:
            self.load(odd_folder, batch_size=128)
        text = str(caught.value)
        found = len(USABLE) + len(UNUSABLE)
        assert f"{odd_folder}: {found} files found, {len(USABLE)} of them usable" in text
        assert f"needs 128. Give more pictures, or lower --batch-size to {len(USABLE)}" in text
        assert "empty file (0 bytes) (empty.jpg)" in text

    def test_no_picture_at_all(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match=r"0 files found.*give another folder or zip"):
            self.load(tmp_path)

    def test_misspelt_names(self, tmp_path: Path) -> None:
        (tmp_path / "kittens").mkdir()
        misspelt: list[tuple[str | Path, str]] = [
            ("avatar", "avatars"),
            ("CIFAR10", "cifar10"),
            ("celebA", "celeba"),
            (tmp_path / "kitten", f"{tmp_path}/kittens"),
        ]
        for wrong, right in misspelt:
            with pytest.raises(DataError, match=rf"Did you mean {right}\?"):
                self.load(wrong)

    def test_unknown_names_list_the_known_ones(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match="avatars, cifar10, celeba, fashionmnist, mnist, lsun"):
            self.load("xyzzy")
        with pytest.raises(DataError, match=f"of that path only {tmp_path} exists"):
            self.load(tmp_path / "a" / "b" / "c")

    @pytest.mark.parametrize("data", ["", "\0", "x" * 5000])
    def test_impossible_names(self, data: str) -> None:
        with pytest.raises(DataError, match="no data"):
            self.load(data)

    def test_other_archives(self, tmp_path: Path) -> None:
        (tmp_path / "cats.tar.gz").write_bytes(b"\x1f\x8b")
        with pytest.raises(DataError, match=r"neither a folder nor a \.zip"):
            self.load(tmp_path / "cats.tar.gz")

    def test_full_disk(self, odd_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def refuse(*_: int) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, "posix_fallocate", refuse)
        with pytest.raises(DataError, match=r"GB in .*No space left.*TMPDIR"):
            self.load(odd_folder)


class TestReport:
    def test_counts_and_groups(self) -> None:
        skipped = [Skipped(f"{i}.jpg", f"damaged: {i} bytes missing") for i in range(1234)]
        skipped.append(Skipped("n" * 500, "empty file (0 bytes)"))
        lines = report(Pictures(np.zeros((2, 32, 32, 1), np.uint8), "cats", {}, skipped))
        first, second, third, fourth = lines.split("\n")
        assert first == "2 pictures, 32 x 32 px, grey, from cats"
        assert second == "1,235 left out:"
        assert third == "  1,234 x damaged: 0 bytes missing (0.jpg, 1.jpg, 2.jpg, ...)"
        assert len(fourth) < 120

    def test_number_of_lines_is_bounded(self) -> None:
        skipped = [Skipped("a", f"reason {'x' * i}") for i in range(100)]
        lines = report(Pictures(np.zeros((2, 32, 32, 3), np.uint8), "cats", {}, skipped))
        assert len(lines.split("\n")) == 10
        assert lines.endswith("93 x 93 other reasons")

    def test_nothing_left_out(self) -> None:
        pictures = Pictures(np.zeros((2, 32, 32, 3), np.uint8), "cats")
        assert report(pictures) == "2 pictures, 32 x 32 px, RGB, from cats"
