"""Pictures from wherever --data says: odd, damaged and hostile folders and zips, and the report."""

from __future__ import annotations

import os
import re
import shutil
import socket
import stat
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from handler import moving, png
from tests.support.odd_pictures import (
    SPEC,
    UNUSABLE,
    USABLE,
    check_odd_pictures,
    encode,
    plain,
    reasons_of,
)
from training.config import TrainConfig
from training.data import cache as store
from training.data import sources
from training.data.decode import DataError, Pictures, Skipped
from training.data.sources import load, load_folder, load_zip, report, show_name
from training.files import LOCK
from training.lab.latent_plots import Walk
from training.lab.run_plots import Curves
from training.samples import save_grid


def test_odd_folder_and_its_zip(odd_folder: Path, odd_zip: Path) -> None:
    in_folder, zipped = load_folder(odd_folder, SPEC), load_zip(odd_zip, SPEC)
    check_odd_pictures(in_folder)
    check_odd_pictures(zipped)
    np.testing.assert_array_equal(in_folder.images, zipped.images)
    for workers in (1, 5):
        other = load_folder(odd_folder, replace(SPEC, workers=workers))
        np.testing.assert_array_equal(in_folder.images, other.images)
        assert in_folder.skipped == other.skipped


def test_many_pictures_are_not_kept_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, decoded: list[int]
) -> None:
    """Over several rounds of decoding, unusable ones between them, each is decoded once."""
    monkeypatch.setattr(store, "PER_THREAD", 3)
    monkeypatch.setattr(store, "ROWS", 4)
    for i in range(25):
        content = b"" if i % 4 == 1 else encode(Image.new("L", (40, 40), 10 * i))
        (tmp_path / f"{i:02}.png").write_bytes(content)
    pictures = load_folder(tmp_path, SPEC)
    expected = [10 * i for i in range(25) if i % 4 != 1]
    assert pictures.images.shape == (len(expected), 32, 32, 1)
    assert pictures.images[:, 5, 5, 0].tolist() == expected
    assert (pictures.images == pictures.images[:, :1, :1]).all()
    assert len(decoded) == 25
    base: Any = pictures.images
    while not isinstance(base, np.memmap):
        base = base.base
        assert base is not None, "not memory-mapped"


def write_mixed(root: Path) -> Path:
    """Three pictures, runs, a cache, and what commands have drawn."""
    for i in range(3):
        Image.new("RGB", (40, 40), (90 * i, 0, 9)).save(root / f"{i}.png")
    for run in ("a/run", "old"):
        (root / run / "samples").mkdir(parents=True)
        for name in ("config.json", "pictures.json", "stats.jsonl"):
            (root / run / name).write_text("{}")
        (root / run / "samples" / "real.png").write_bytes(plain())
    image = np.zeros((32, 32, 3), np.uint8)
    save_grid(root / "grid.png", image[None])
    (root / "served.png").write_bytes(png.encode(image, "{}", small=True))
    recipe = '{"model":"dcgan","weights_sha256":"0","request":{"seed":1}}'
    for kind in ("apng", "gif", "webp"):
        served = moving.encode(kind, image[None], recipe, fps=9, loop=0, small=True)
        (root / f"served.{kind}").write_bytes(served)
    Walk(out=root / "walk.png", colours=2).save_png(image)
    Walk(out=root / "walk.gif").save_gif([image, image + 9], 50, hold=False)
    figure_of = root / "a" / "figure"
    figure_of.mkdir()
    (figure_of / "config.json").write_text(TrainConfig().to_json())
    (figure_of / "stats.jsonl").write_text('{"step": 1, "loss_d": 1.0, "loss_g": 2.0}\n')
    Curves(run_folder=figure_of, out=root / "curves.png").run()
    return root


@pytest.mark.parametrize("cache", [".", "cache"])
def test_what_the_project_wrote_itself_is_no_picture(tmp_path: Path, cache: str) -> None:
    """Between the pictures lie runs and drawings, and the cache of this very folder."""
    root = write_mixed(tmp_path)
    expected = {
        "a/run": sources.A_RUN, "old": sources.A_RUN,
        **dict.fromkeys(("grid.png", "walk.png", "walk.gif", "curves.png"),
                        "drawn by python -m training: nothing to train on"),
        **dict.fromkeys([f"served.{kind}" for kind in ("png", "apng", "gif", "webp")],
                        "drawn by a model that is served: nothing to train on"),
        **dict.fromkeys([f"a/figure/{name}" for name in ("config.json", "stats.jsonl")],
                        "not a picture"),
    }  # fmt: skip
    for _ in range(2):
        pictures = load_folder(root, replace(SPEC, cache=root / cache))
        assert len(pictures.images) == 3
        reasons = reasons_of(pictures)
        assert {name: reasons[name].split(" (")[0] for name in reasons} == expected
    assert len(list((root / cache).glob("*.u8"))) == 1  # found again: its files are no change


def test_the_lock_of_a_new_run_is_no_picture(tmp_path: Path) -> None:
    """With --out inside --data; the cache is of the pictures alone."""
    root = write_mixed(tmp_path)
    spec = replace(SPEC, cache=tmp_path / "cache")
    before = load_folder(root, spec)
    (root / "new").mkdir()
    (root / "new" / LOCK).touch()
    assert reasons_of(load_folder(root, spec)) == reasons_of(before)
    assert len(list((tmp_path / "cache").glob("*.u8"))) == 1
    assert len(list((tmp_path / "cache").glob("*.json"))) == 1


def test_backslashes_change_no_order(tmp_path: Path) -> None:
    """Of names that sort otherwise by the backslash itself."""
    (tmp_path / "there" / "a").mkdir(parents=True)
    with zipfile.ZipFile(tmp_path / "w.zip", "w") as archive:
        for name, colour in (("aB0.png", "red"), ("a/0.png", "blue")):
            Image.new("RGB", (40, 40), colour).save(tmp_path / "there" / name)
            archive.write(tmp_path / "there" / name, name.replace("/", "\\"))
            archive.infolist()[-1].filename = name.replace("/", "\\")
    assert "a\\0.png" in zipfile.ZipFile(tmp_path / "w.zip").namelist()
    np.testing.assert_array_equal(
        load_zip(tmp_path / "w.zip", SPEC).images, load_folder(tmp_path / "there", SPEC).images
    )


def test_nor_is_it_in_a_zip(tmp_path: Path) -> None:
    (tmp_path / "mixed").mkdir()
    root = write_mixed(tmp_path / "mixed")
    in_folder = load_folder(root, replace(SPEC, cache=root / "cache"))
    zipped = load_zip(Path(shutil.make_archive(str(tmp_path / "zip"), "zip", root)), SPEC)
    np.testing.assert_array_equal(in_folder.images, zipped.images)
    assert reasons_of(in_folder) == reasons_of(zipped)


def test_a_run_by_itself_holds_no_pictures(tmp_path: Path) -> None:
    root = write_mixed(tmp_path) / "old"
    zipped = Path(shutil.make_archive(str(tmp_path / "zip"), "zip", root))
    for pictures in (load_folder(root, SPEC), load_zip(zipped, SPEC)):
        assert not len(pictures.images)
        assert reasons_of(pictures) == {".": sources.A_RUN}


@pytest.mark.parametrize(
    ("coloured", "channels", "pixels"),
    [
        ([], "auto", [[50], [90]]),
        ([], "3", [[50] * 3, [90] * 3]),
        ([(90, 80, 90)], "auto", [[50] * 3, [90] * 3, [90, 80, 90]]),
        ([(255, 0, 0), (0, 255, 0)], "1", [[50], [90], [76], [150]]),  # luma by Rec. 601
    ],
)
def test_channels(tmp_path: Path, coloured: list[Any], channels: Any, pixels: list[Any]) -> None:
    """Of a grey picture, one that is grey and stored as RGB, and others."""
    Image.new("L", (40, 40), 50).save(tmp_path / "a.png")
    for number, colour in enumerate([(90, 90, 90), *coloured]):
        Image.new("RGB", (40, 40), colour).save(tmp_path / f"b{number}.png")
    images = load_folder(tmp_path, replace(SPEC, channels=channels)).images
    assert images.shape[:3] == (len(pixels), 32, 32)
    assert images[:, 0, 0].tolist() == pixels


@contextmanager
def someone_else() -> Iterator[None]:
    """Not root, who may read everything."""
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(user)


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
            pictures = load_folder(tmp_path, SPEC)
        assert len(pictures.images) == 0
        reasons = reasons_of(pictures)
        assert "no picture" in reasons["pipe.jpg"] == reasons["socket.jpg"]

    def test_links(self, tmp_path: Path) -> None:
        """To files they are read, broken ones and loops listed; the folder itself may be one."""
        root = tmp_path / "pictures"
        (root / "sub").mkdir(parents=True)
        (tmp_path / "original").write_bytes(plain())
        (root / "good.png").symlink_to(tmp_path / "original")
        (root / "bad.png").symlink_to(tmp_path / "gone")
        (root / "sub" / "up").symlink_to(root, target_is_directory=True)
        (root / "self").symlink_to("self")
        (tmp_path / "link").symlink_to("pictures")
        for folder in (root, tmp_path / "link"):
            pictures = load_folder(folder, SPEC)
            assert len(pictures.images) == 1
            reasons = reasons_of(pictures)
            assert reasons.keys() == {"bad.png", "self", "sub/up"}
            assert "not followed" in reasons["sub/up"]
            assert "broken link" in reasons["bad.png"]
            assert "broken link" in reasons["self"]

    def test_names_that_are_not_utf_8(self, tmp_path: Path) -> None:
        try:
            Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.png")).write_bytes(plain())
        except OSError:
            pytest.skip("this file system takes UTF-8 names only")
        Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.jpg")).write_bytes(b"")
        pictures = load_folder(tmp_path, SPEC)
        assert len(pictures.images) == 1
        assert pictures.skipped == [Skipped(r"\xff.jpg", "empty file (0 bytes)")]
        report(pictures).encode("utf-8")

    def test_no_permission(self) -> None:
        with tempfile.TemporaryDirectory() as name:
            Path(name).chmod(0o777)
            folder = Path(name) / "pictures"
            with someone_else():
                folder.mkdir()
                (folder / "a.png").write_bytes(plain())
                (folder / "a.png").chmod(0)
                (folder / "closed").mkdir(mode=0)
                reasons = reasons_of(load_folder(folder, SPEC))
                (folder / "closed").chmod(0o700)
        assert reasons["a.png"] == "cannot be read: Permission denied"
        assert "folder not readable" in reasons["closed"]

    def test_file_that_vanishes(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(sources, "_find", lambda _: ({"gone.png": "gone.png"}, [], 0))
        pictures = load_folder(tmp_path, SPEC)
        assert pictures.skipped == [
            Skipped("gone.png", "cannot be read: No such file or directory")
        ]

    def test_control_characters_are_shown_escaped(self) -> None:
        assert show_name("a\ud800\udc80.png") == r"a\ud800\x80.png"  # no name at all, as in JSON
        assert show_name("a\nb\x1b[31m.png") == r"a\nb\x1b[31m.png"
        assert show_name("caf\u00e9 \U0001f408.png") == "caf\u00e9 \U0001f408.png"


class TestLoad:
    """Which loader is chosen, and what is said when there is nothing to train on."""

    def load(self, data: str | Path, batch_size: int = 2) -> Pictures:
        return load(replace(SPEC, data=str(data), data_root=Path("none")), batch_size)

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

    @pytest.mark.parametrize(
        ("data", "words"),
        [
            ("avatar", r"Did you mean avatars\?"),
            ("CIFAR10", r"Did you mean cifar10\?"),
            ("celebA", r"Did you mean celeba\?"),
            ("{here}/kitten", r"Did you mean {here}/kittens\?"),
            ("xyzzy", "avatars, cifar10, celeba, fashionmnist, mnist, lsun"),
            ("{here}/a/b/c", "of that path only {here} exists"),
            ("{here}/cats.tar.gz", r"neither a folder nor a \.zip"),
            ("", "no data"), ("\0", "no data"), ("x" * 5000, "no data"),
        ],
    )  # fmt: skip
    def test_what_is_no_data(self, tmp_path: Path, data: str, words: str) -> None:
        (tmp_path / "kittens").mkdir()
        (tmp_path / "cats.tar.gz").write_bytes(b"\x1f\x8b")
        with pytest.raises(DataError, match=words.format(here=tmp_path)):
            self.load(data.format(here=tmp_path))

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

    def test_what_is_worth_a_word_about_those_that_are_used(self, tmp_path: Path) -> None:
        for side in (8, 20, 32, 40):
            Image.new("RGB", (side, 50), (side, 0, 0)).save(tmp_path / f"{side}.png")
        _, small = report(load_folder(tmp_path, SPEC)).split("\n")
        assert small.startswith("warning: 2 of them are smaller than that, the smallest 8 px")
        assert "--image-size" in small

    @pytest.mark.parametrize(("visible", "words"), [
        (0, r": 0 files found, 0 of them .*\. All 2 files or folders were passed over as hidden"),
        (1, r": 1 files found, .*give another folder.*\. 2 files or folders were passed over"),
    ])  # fmt: skip
    def test_hidden_files_are_counted_where_too_little_is_left(
        self, tmp_path: Path, visible: int, words: str
    ) -> None:
        for name in [".a.png", "__MACOSX/b.png", "c.png"][: 2 + visible]:
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).write_bytes(plain())
        with pytest.raises(DataError, match=words):
            TestLoad().load(tmp_path)

    def test_nothing_left_out(self) -> None:
        pictures = Pictures(np.zeros((2, 32, 32, 3), np.uint8), "cats")
        assert report(pictures) == "2 pictures, 32 x 32 px, RGB, from cats"


def zipped(path: Path, *members: tuple[str | zipfile.ZipInfo, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return path


class TestZip:
    def test_declared_size_is_limited(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(sources, "MAX_MEMBER_BYTES", 2 * 2**20)
        members = ("bomb.png", bytes(2 * 2**20 + 1)), ("good.png", plain())
        pictures = load_zip(zipped(tmp_path / "bomb.zip", *members), SPEC)
        assert len(pictures.images) == 1
        assert reasons_of(pictures) == {"bomb.png": "more than 2 MiB when unpacked"}

    def test_size_that_is_lied_about(self, tmp_path: Path) -> None:
        """A member that unpacks to more than it says is cut there, and its sum is wrong."""
        path = zipped(tmp_path / "liar.zip", ("liar.png", bytes(1_000_000)))
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
        names = ("a.png", "b.png", "c.png")
        path = zipped(tmp_path / "locked.zip", *((name, plain()) for name in names))
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
        path = zipped(tmp_path / "windows.zip", (name, plain()), ("folder\\", b""))
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

    def test_what_is_no_zip(self, odd_zip: Path) -> None:
        cut = odd_zip.read_bytes()[:-100]
        for content in (b"", b"PK\x03\x04 nothing", b"<html>quota", cut):
            odd_zip.write_bytes(content)
            with pytest.raises(DataError, match=r"odd\.zip cannot be read as a zip"):
                load_zip(odd_zip, SPEC)

    def test_path_tricks_write_nothing(self, tmp_path: Path) -> None:
        """Members are read, never unpacked; what a link names is not read either."""
        path, secret = tmp_path / "inside" / "evil.zip", tmp_path / "secret.png"
        path.parent.mkdir()
        secret.write_bytes(plain())
        link = zipfile.ZipInfo("link.png")
        link.create_system, link.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
        names = ("../up.png", f"{tmp_path}/absolute.png", "a/../../b.png", "C:\\c.png")
        zipped(path, *((name, plain()) for name in names), (link, os.fsencode(secret)))
        pictures = load_zip(path, SPEC)
        assert len(pictures.images) == 4
        assert list(reasons_of(pictures)) == ["link.png"]
        assert sorted(tmp_path.rglob("*")) == [path.parent, path, secret]
