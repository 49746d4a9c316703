"""The data sets that torchvision knows by name, from a local folder. Nothing is downloaded.

MNIST is read without torchvision, which knows only one of the ways in which it is packed, and
LSUN from its databases: torchvision would write a pickle into the current folder and trust it the
next time.
"""

from __future__ import annotations

import gzip
import io
import math
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image

from training.data.cache import decode_all, state_of
from training.data.decode import (
    DataError,
    Decoded,
    Pictures,
    PictureSpec,
    decode,
    from_image,
    reasons,
)

MAX_IDX_BYTES = 2**30


@dataclass(frozen=True)
class Layout:
    """What is expected below the root, and how it gets there."""

    folders: str  # a glob pattern
    expected: str
    obtain: str


def _torchvision(name: str) -> str:
    return f"python -c \"import torchvision.datasets as d; d.{name}(r'{{root}}', download=True)\""


def _of_mnist(name: str) -> Layout:
    expected = f"train-images-idx3-ubyte, packed by gzip or not, there or in {name}/raw/"
    return Layout(name, expected, _torchvision(name))


LAYOUTS = {
    "cifar10": Layout(
        "cifar-10-batches-py",
        "cifar-10-batches-py/ with data_batch_1 to data_batch_5, test_batch, batches.meta",
        f"{_torchvision('CIFAR10')}, or unpack cifar-10-python.tar.gz of "
        "https://www.cs.toronto.edu/~kriz/cifar.html there",
    ),
    "celeba": Layout(
        "celeba",
        "celeba/ with img_align_celeba/, list_attr_celeba.txt, identity_CelebA.txt, "
        "list_bbox_celeba.txt, list_landmarks_align_celeba.txt, list_eval_partition.txt",
        "take them from https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html; with the pictures "
        "alone, give their folder or zip: --data .../img_align_celeba",
    ),
    "fashionmnist": _of_mnist("FashionMNIST"),
    "mnist": _of_mnist("MNIST"),
    "lsun": Layout(
        "*_train_lmdb",
        "<category>_train_lmdb/ for one or more categories, for example bedroom_train_lmdb/",
        "take them from https://github.com/fyu/lsun and unzip them there",
    ),
}
NAMES = tuple(LAYOUTS)
Opened = tuple[int, Callable[[int], Decoded]]  # how many pictures, and what decodes one


def load_named(spec: PictureSpec) -> Pictures:
    """The training pictures of a named data set (of CelebA all pictures).

    Args:
        spec: its ``data`` is one of ``NAMES``, its ``data_root`` what torchvision would be given.

    Returns:
        uint8 (N, image_size, image_size, C).

    Raises:
        DataError: the data set is missing or damaged, or lmdb is not installed.
    """
    name, root = spec.data, spec.data_root
    count, decode_one = OPENING[name](spec)
    pictures = decode_all(
        range(count),
        decode_one,
        lambda index: f"{name} picture {index}",
        spec,
        root / name,
        _states(name, root),
    )
    return replace(pictures, source=name)


def _states(name: str, root: Path) -> Iterator[str]:
    """Name and state of every file of the data set."""
    files = [path for folder in root.glob(LAYOUTS[name].folders) for path in folder.rglob("*")]
    if OPENING[name] is _open_mnist:
        files = _mnist_files(name, root)
    return (f"{path.relative_to(root)} {state_of(path.stat())}" for path in sorted(files))


def _open_torchvision(spec: PictureSpec) -> Opened:
    name, root = spec.data, spec.data_root
    from torchvision import datasets  # takes a second, and only these data sets need it

    try:
        if name == "cifar10":
            dataset = datasets.CIFAR10(root, train=True, download=False)
        else:
            dataset = datasets.CelebA(root, split="all", download=False)
    except Exception as error:  # noqa: BLE001 - RuntimeError if missing, anything on damage
        # torchvision advises download=True, which is not on offer here.
        detail = str(error).split(" You can use download")[0] or type(error).__name__
        raise DataError(_missing(name, root, detail)) from None

    def decode_one(index: int) -> Decoded:
        with reasons():
            image, _ = dataset[index]
            return from_image(image, spec)

    return len(dataset), decode_one


def _open_mnist(spec: PictureSpec) -> Opened:
    """The IDX format of http://yann.lecun.com/exdb/mnist/."""
    name, root = spec.data, spec.data_root
    files = _mnist_files(name, root)
    if not files:
        raise DataError(_missing(name, root, "no train-images-idx3-ubyte"))
    path = files[0]
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            magic, *shape = struct.unpack(">4I", file.read(16))
            size_bytes = math.prod(shape)
            if magic != 0x803 or not 0 < size_bytes <= MAX_IDX_BYTES:
                raise ValueError(f"{path.name} does not begin as it should")
            data = file.read(size_bytes + 1)  # beyond the end lies the checksum of gzip
        if len(data) != size_bytes:
            raise ValueError(f"{path.name} does not hold the {size_bytes:,} bytes it speaks of")
    except (EOFError, OSError, ValueError, struct.error, zlib.error) as error:
        raise DataError(_missing(name, root, str(error))) from None
    images = np.frombuffer(data, np.uint8).reshape(shape)

    def decode_one(index: int) -> Decoded:
        with reasons():
            return from_image(Image.fromarray(images[index]), spec)

    return len(images), decode_one


def _mnist_files(name: str, root: Path) -> list[Path]:
    """Those that may hold the training pictures of (Fashion-)MNIST, the likeliest first.

    As torchvision, the authors' page and Kaggle leave them: in a folder of the data set or in
    ``root``, with a dot or a dash, packed or not, and in a folder of the same name.
    """
    pattern = "train-images?idx3-ubyte*"
    found = [
        *sorted((root / LAYOUTS[name].folders).rglob(pattern)),
        *sorted(root.glob(pattern)),
        *sorted(root.glob(f"{pattern}/{pattern}")),
    ]
    return [path for path in found if path.name.endswith(("-ubyte", ".gz")) and path.is_file()]


def _open_lsun(spec: PictureSpec) -> Opened:
    name, root = spec.data, spec.data_root
    try:
        import lmdb
    except ImportError:
        raise DataError(
            "lsun is stored in LMDB databases, and the lmdb package is not installed; "
            "run: pip install lmdb"
        ) from None
    folders = sorted(root.glob("*_train_lmdb"))
    if not folders:
        raise DataError(_missing(name, root, "no such folder"))
    found = []
    for folder in folders:
        try:
            database = lmdb.open(str(folder), readonly=True, lock=False, readahead=False)
            with database.begin() as transaction:
                keys = transaction.cursor().iternext(keys=True, values=False)
                found += [(database, key) for key in keys]
        except lmdb.Error as error:
            raise DataError(_missing(name, root, f"{folder.name}: {error}")) from None

    def decode_one(index: int) -> Decoded:
        database, key = found[index]
        with reasons(), database.begin() as transaction:
            data = transaction.get(key)
        return decode(io.BytesIO(data), spec)

    return len(found), decode_one


OPENING = {
    "celeba": _open_torchvision,
    "cifar10": _open_torchvision,
    "fashionmnist": _open_mnist,
    "lsun": _open_lsun,
    "mnist": _open_mnist,
}


def _missing(name: str, root: Path, detail: str) -> str:
    layout = LAYOUTS[name]
    return (
        f"{name} was not found, or is damaged, in {root.absolute()} ({detail.rstrip('.')}). "
        f"Expected there: {layout.expected}. Nothing is downloaded here. "
        f"To get it: {layout.obtain.format(root=root)}; or name its folder with --data-root"
    )
