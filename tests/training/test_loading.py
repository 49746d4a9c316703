"""Which loader is chosen, what is said when there is nothing to train on, and the report."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.support.odd_pictures import (
    SPEC,
    UNUSABLE,
    USABLE,
    encode,
    plain,
)
from training.data.decode import DataError, Pictures, Skipped
from training.data.sources import load, load_folder, report


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

    def test_what_is_worth_a_word_about_those_that_are_used(self, tmp_path: Path) -> None:
        for side in (8, 20, 32, 40):
            Image.new("RGB", (side, 50), (side, 0, 0)).save(tmp_path / f"{side}.png")
        spoilt = encode(Image.new("RGB", (40, 40)), "WEBP", exif=b"junk" * 10)
        (tmp_path / "spoilt").write_bytes(spoilt)
        _, small, bare = report(load_folder(tmp_path, SPEC)).split("\n")
        assert small.startswith("warning: 2 of them are smaller than that, the smallest 8 px")
        assert "--image-size" in small
        assert bare.startswith("of 1 only the pixels could be read")

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
