"""torchvision's data sets from a local folder, and what is said when they are not there."""

from __future__ import annotations

import gzip
import re
import socket
import struct
import sys
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.support.odd_pictures import encode
from training.data.decode import DataError, PictureSpec
from training.data.named import NAMES, load_named
from training.data.sources import load

SPEC = PictureSpec(image_size=32, background="#000000", cache=None)


def named(name: str, root: Path, **changed: Any) -> PictureSpec:
    return replace(SPEC, data=name, data_root=root, **changed)


WITHOUT_LMDB = [name for name in NAMES if name != "lsun"]


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("something tried to reach the network")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)


def write_mnist(raw: Path, count: int = 5, name: str = "train-images-idx3-ubyte") -> None:
    """The training pictures of (Fashion-)MNIST in the IDX format, picture i filled with 10 * i."""
    pixels = np.repeat(10 * np.arange(count, dtype=np.uint8), 28 * 28).tobytes()
    content = struct.pack(">IIII", 0x803, count, 28, 28) + pixels
    path = raw / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


class FakeDatabase:
    """As much of lmdb as is used."""

    def __init__(self, records: dict[bytes, bytes]) -> None:
        self.records = records

    def begin(self) -> AbstractContextManager[FakeDatabase]:
        return nullcontext(self)

    def cursor(self) -> FakeDatabase:
        return self

    def iternext(self, keys: bool, values: bool) -> Any:
        assert (keys, values) == (True, False)
        return iter(self.records)

    def get(self, key: bytes) -> bytes:
        return self.records[key]


def webp(colour: tuple[int, int, int]) -> bytes:
    return encode(Image.new("RGB", (40, 50), colour), "WEBP", lossless=True)


@pytest.mark.parametrize(("name", "folder"), [("mnist", "MNIST"), ("fashionmnist", "FashionMNIST")])
def test_mnist(tmp_path: Path, name: str, folder: str) -> None:
    write_mnist(tmp_path / folder / "raw")
    pictures = load_named(named(name, tmp_path))
    assert load_named(named(name, tmp_path, channels="3")).images.shape == (5, 32, 32, 3)
    assert pictures.images.shape == (5, 32, 32, 1)
    assert pictures.images.dtype == np.uint8
    assert pictures.images[:, 16, 16, 0].tolist() == [0, 10, 20, 30, 40]
    assert (pictures.enlarged, pictures.smallest_px) == (5, 28)
    assert pictures.source == name


@pytest.mark.parametrize("folder", ["", "MNIST", "MNIST/raw"])
@pytest.mark.parametrize(
    "name",
    [
        "train-images-idx3-ubyte",
        "train-images-idx3-ubyte.gz",
        "train-images.idx3-ubyte",
        "train-images-idx3-ubyte/train-images-idx3-ubyte",
    ],
)
def test_mnist_where_people_leave_it(tmp_path: Path, folder: str, name: str) -> None:
    """Loose, packed, with a dot, and in a folder of the same name; another in its place is read
    anew."""
    for count in (5, 4):
        write_mnist(tmp_path / folder, count, name)
        pictures = load_named(named("mnist", tmp_path, cache=tmp_path / "cache"))
        assert pictures.images[:, 16, 16, 0].tolist() == [0, 10, 20, 30, 40][:count]


WHOLE = struct.pack(">IIII", 0x803, 5, 28, 28) + bytes(5 * 28 * 28)


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("", b"<html>quota", "unpack requires"),
        ("", b"<html>quota exceeded", "does not begin as it should"),
        ("", struct.pack(">IIII", 0x803, 2**31, 28, 28), "does not begin as it should"),
        ("", WHOLE[:99], "does not hold the 3,920 bytes"),
        (".gz", gzip.compress(WHOLE[:99]), "does not hold the 3,920 bytes"),
        (".gz", gzip.compress(WHOLE)[:-9], "end-of-stream"),
        (".gz", b"no gzip", "gzip"),
    ],
)
def test_damaged_mnist(tmp_path: Path, name: str, content: bytes, reason: str) -> None:
    (tmp_path / f"train-images-idx3-ubyte{name}").write_bytes(content)
    with pytest.raises(DataError, match=rf"mnist was not found, or is damaged.*{reason}"):
        load_named(named("mnist", tmp_path))


@pytest.mark.parametrize("name", WITHOUT_LMDB)
def test_missing(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError) as caught:
        load(named(name, tmp_path), 2)
    text = str(caught.value)
    assert f"{name} was not found, or is damaged, in {tmp_path}" in text
    assert "Expected there: " in text
    assert "Nothing is downloaded" in text
    assert "To get it: " in text
    assert "--data-root" in text
    assert "You can use download=True" not in text
    assert list(tmp_path.iterdir()) == []
    command = re.search(r'python -c "(.*?)"', text)
    assert (command is None) == (name == "celeba")
    if command:
        compile(command[1], "command", "exec")
        assert str(tmp_path) in command[1]


def test_a_damaged_picture_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a CelebA that torchvision accepted."""
    from torchvision import datasets

    class CelebA(list[tuple[Image.Image, int]]):
        def __getitem__(self, index: Any) -> Any:
            if index == 1:
                raise OSError("image file is truncated (3 bytes not processed)")
            return Image.new("RGB", (178, 218), (index, 100, 0)), 0

    monkeypatch.setattr(datasets, "CelebA", lambda *_, **__: CelebA([None] * 3))  # type: ignore[list-item]
    pictures = load_named(named("celeba", tmp_path))
    assert pictures.images[:, 16, 16].tolist() == [[0, 100, 0], [2, 100, 0]]
    assert [item.name for item in pictures.skipped] == ["celeba picture 1"]
    assert "truncated" in pictures.skipped[0].reason


def test_lsun_without_lmdb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lmdb", None)
    with pytest.raises(DataError, match="pip install lmdb"):
        load_named(named("lsun", tmp_path))


def test_lsun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = {
        "bedroom_train_lmdb": {b"a": webp((1, 2, 3)), b"b": b"broken"},
        "tower_train_lmdb": {b"a": webp((4, 5, 6))},
    }

    def open_database(path: str, **options: Any) -> FakeDatabase:
        assert options["readonly"]
        return FakeDatabase(content[Path(path).name])

    fake: Any = SimpleNamespace(open=open_database, Error=KeyError)
    monkeypatch.setitem(sys.modules, "lmdb", fake)
    with pytest.raises(DataError, match="bedroom_train_lmdb/"):
        load_named(named("lsun", tmp_path))
    for folder in (*content, "bedroom_val_lmdb"):
        (tmp_path / folder).mkdir()
    pictures = load_named(named("lsun", tmp_path))
    assert pictures.images[:, 16, 16].tolist() == [[1, 2, 3], [4, 5, 6]]
    assert [item.name for item in pictures.skipped] == ["lsun picture 1"]


def test_damaged_lsun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def open_database(*_: Any, **__: Any) -> FakeDatabase:
        raise KeyError("MDB_INVALID")

    fake: Any = SimpleNamespace(open=open_database, Error=KeyError)
    monkeypatch.setitem(sys.modules, "lmdb", fake)
    (tmp_path / "tower_train_lmdb").mkdir()
    with pytest.raises(DataError, match=r"tower_train_lmdb: .*MDB_INVALID"):
        load_named(named("lsun", tmp_path))
