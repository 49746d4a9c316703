"""Pictures are decoded once: what is kept, when it is used, and when it is not."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.odd_pictures import (
    SPEC,
    UNUSABLE,
    USABLE,
    plain,
)
from training.data.decode import DataError, Pictures
from training.data.sources import load_folder, load_zip


def load(folder: Path, cache: Path, **changed: Any) -> Pictures:
    return load_folder(folder, replace(SPEC, **changed, cache=cache))


def kept(cache: Path) -> list[str]:
    return sorted(p.suffix for p in cache.iterdir() if p.suffix != ".lock")


def test_the_second_start_decodes_nothing(
    odd_folder: Path, tmp_path: Path, decoded: list[int]
) -> None:
    cache = tmp_path / "cache"
    first = load(odd_folder, cache)
    assert len(decoded) == len(USABLE) + len(UNUSABLE)
    second = load(odd_folder, cache)
    assert len(decoded) == len(USABLE) + len(UNUSABLE)
    assert first.images.tolist() == second.images.tolist()
    assert first.skipped == second.skipped
    assert first.smallest_px == second.smallest_px
    assert first.enlarged == second.enlarged > 0
    assert isinstance(second.images.base, np.memmap)
    assert not second.images.flags.writeable
    assert kept(cache) == [".json", ".u8"]
    assert (next(cache.glob("*.u8"))).stat().st_size == first.images.nbytes  # nothing spare


def test_zips_are_kept_too(odd_zip: Path, tmp_path: Path, decoded: list[int]) -> None:
    spec = replace(SPEC, cache=tmp_path / "cache")
    first = load_zip(odd_zip, spec)
    count = len(decoded)
    assert load_zip(odd_zip, spec).images.tolist() == first.images.tolist()
    assert len(decoded) == count
    with zipfile.ZipFile(odd_zip, "a") as archive:
        archive.writestr("zz.png", plain())
    assert len(load_zip(odd_zip, spec).images) == len(first.images) + 1


def change_content(folder: Path) -> None:
    path = folder / "no_suffix"
    status = path.stat()
    path.write_bytes(plain((0, 0, 255)))
    path.write_bytes(path.read_bytes()[: status.st_size])
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))  # as rsync and others do


CHANGES = {
    "content under the old time": change_content,
    "permission": lambda folder: (folder / "no_suffix").chmod(0o600),
    "one more": lambda folder: (folder / "zz.png").write_bytes(plain()),
    "one less": lambda folder: (folder / "no_suffix").unlink(),
    "another name": lambda folder: (folder / "no_suffix").rename(folder / "other"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_changed_folder_is_decoded_again(
    odd_folder: Path, tmp_path: Path, decoded: list[int], name: str
) -> None:
    cache = tmp_path / "cache"
    load(odd_folder, cache)
    CHANGES[name](odd_folder)
    fresh = load_folder(odd_folder, SPEC)
    decoded.clear()
    assert load(odd_folder, cache).images.tolist() == fresh.images.tolist()
    assert decoded
    assert kept(cache) == [".json", ".u8"]  # the earlier state's are deleted


@pytest.mark.parametrize("changed", [{"image_size": 64}, {"background": "#000000"},
                                     {"channels": "1"}])  # fmt: skip
def test_other_settings_are_other_pictures(
    odd_folder: Path, tmp_path: Path, decoded: list[int], changed: dict[str, Any]
) -> None:
    cache = tmp_path / "cache"
    load(odd_folder, cache)
    load(odd_folder, cache, **changed)
    assert kept(cache) == [".json", ".json", ".u8", ".u8"]
    expected = load_folder(odd_folder, replace(SPEC, **changed))
    decoded.clear()
    assert load(odd_folder, cache, **changed).images.tolist() == expected.images.tolist()
    load(odd_folder, cache)
    assert decoded == []


@pytest.mark.parametrize("damage", ["no .json", "half a .json", "no .u8", "half a .u8"])
def test_what_is_incomplete_is_made_again(
    odd_folder: Path, tmp_path: Path, decoded: list[int], damage: str
) -> None:
    cache = tmp_path / "cache"
    images = load(odd_folder, cache).images.tolist()
    how, suffix = damage.rsplit(" ", 1)
    (path,) = cache.glob(f"*{suffix}")
    if how == "no":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    decoded.clear()
    assert load(odd_folder, cache).images.tolist() == images
    assert decoded
    assert kept(cache) == [".json", ".u8"]


def test_a_process_that_is_killed_while_it_decodes_leaves_no_trap(
    odd_folder: Path, tmp_path: Path
) -> None:
    cache = tmp_path / "cache"
    program = (
        "import os, pathlib, sys; from training.data import sources\n"
        "calls = []\n"
        "def decode(*arguments):\n"
        "    calls.append(1); len(calls) == 5 and os.kill(os.getpid(), 9)\n"
        "    return real(*arguments)\n"
        "real, sources.decode = sources.decode, decode\n"
        f"cache = pathlib.Path({str(cache)!r})\n"
        "spec = sources.PictureSpec(image_size=32, workers=1, cache=cache)\n"
        f"sources.load_folder(pathlib.Path({str(odd_folder)!r}), spec)"
    )
    killed = subprocess.run([sys.executable, "-c", program], check=False, timeout=120)
    assert killed.returncode == -9
    assert kept(cache) == [".partial"]
    assert load(odd_folder, cache).images.tolist() == load_folder(odd_folder, SPEC).images.tolist()
    assert kept(cache) == [".json", ".u8"]


def test_nothing_usable_is_not_kept(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "a.png").write_bytes(b"")
    for _ in range(2):
        assert len(load(tmp_path / "empty", tmp_path / "cache").skipped) == 1
    assert kept(tmp_path / "cache") == []


def test_a_cache_that_cannot_be_written(odd_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(DataError, match=r"cannot be kept in .*file.*--cache None"):
        load(odd_folder, tmp_path / "file" / "cache")


def test_what_is_kept_is_no_program(odd_folder: Path, tmp_path: Path) -> None:
    """Plain bytes and JSON: reading it executes nothing."""
    load(odd_folder, tmp_path / "cache")
    (path,) = (tmp_path / "cache").glob("*.json")
    assert json.loads(path.read_text()).keys() == {"shape", "skipped", "enlarged", "smallest_px"}
