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
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
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
IDX_DIMENSIONS = {"images": 3, "labels": 1}


@dataclass(frozen=True)
class Layout:
    """What is expected below the root, and how it gets there."""

    folders: str  # a glob pattern
    expected: str
    obtain: str


def _torchvision(name: str) -> str:
    return f"python -c \"import torchvision.datasets as d; d.{name}(r'{{root}}', download=True)\""


def _of_mnist(name: str) -> Layout:
    expected = "train-images-idx3-ubyte and train-labels-idx1-ubyte, packed by gzip or not, there"
    return Layout(name, f"{expected} or in {name}/raw/", _torchvision(name))


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


def load_named(spec: PictureSpec) -> Pictures:
    """The training pictures of a named data set (of CelebA all pictures).

    Args:
        spec: its ``data`` is one of ``NAMES``, its ``data_root`` what torchvision would be given.

    Returns:
        uint8 (N, image_size, image_size, C); labels ``class``, for CelebA one of 0 and 1
        for each of its 40 attributes.

    Raises:
        DataError: the data set is missing or damaged, or lmdb is not installed.
    """
    name = spec.data
    count, decode_one, labels = OPENING[name](spec)
    store = decode_all(
        range(count),
        decode_one,
        lambda index: f"{name} picture {index}",
        spec,
        spec.data_root / name,
        _states(name, spec.data_root),
    )
    kept = {key: values[store.kept] for key, values in labels.items()}
    return Pictures(store.images, name, kept, store.skipped, store.remarks)


def _states(name: str, root: Path) -> Iterator[str]:
    """Name and state of every file of the data set."""
    files = [path for folder in root.glob(LAYOUTS[name].folders) for path in folder.rglob("*")]
    if OPENING[name] is _open_mnist:
        files = [path for part in IDX_DIMENSIONS for path in _idx_files(name, root, part)]
    for path in sorted(files):
        yield f"{path.relative_to(root)} {state_of(path.stat())}"


Opened = tuple[int, Callable[[int], Decoded], dict[str, npt.NDArray[np.int64]]]


def _open_torchvision(spec: PictureSpec) -> Opened:
    name, root = spec.data, spec.data_root
    from torchvision import datasets  # takes a second, and only these data sets need it

    try:
        if name == "cifar10":
            dataset = datasets.CIFAR10(root, train=True, download=False)
        else:
            dataset = datasets.CelebA(root, split="all", target_type="attr", download=False)
    except Exception as error:  # noqa: BLE001 - RuntimeError if missing, anything on damage
        # torchvision advises download=True, which is not on offer here.
        detail = str(error).split(" You can use download")[0]
        raise DataError(_missing(name, root, detail)) from None

    def decode_one(index: int) -> Decoded:
        with reasons():
            image, _ = dataset[index]
            return from_image(image, spec)

    if name == "celeba":
        columns = zip(dataset.attr_names, dataset.attr.T, strict=False)  # names end with ""
        labels = {key: np.asarray(column, np.int64) for key, column in columns}
    else:
        labels = {"class": np.asarray(dataset.targets, np.int64)}
    return len(dataset), decode_one, labels


def _open_mnist(spec: PictureSpec) -> Opened:
    name, root = spec.data, spec.data_root
    try:
        images, labels = (_read_idx(name, root, part) for part in IDX_DIMENSIONS)
    except (EOFError, OSError, ValueError, struct.error, zlib.error) as error:
        raise DataError(_missing(name, root, str(error))) from None
    if len(images) != len(labels):
        detail = f"{len(images):,} pictures and {len(labels):,} labels"
        raise DataError(_missing(name, root, detail))

    def decode_one(index: int) -> Decoded:
        with reasons():
            return from_image(Image.fromarray(images[index]), spec)

    return len(images), decode_one, {"class": labels.astype(np.int64)}


def _idx_files(name: str, root: Path, part: str) -> list[Path]:
    """The files that may hold a part of (Fashion-)MNIST, the likeliest first.

    As torchvision, the authors' page and Kaggle leave them: in a folder of the data set or in
    ``root``, with a dot or a dash, packed or not, and in a folder of the same name.
    """
    pattern = f"train-{part}?idx{IDX_DIMENSIONS[part]}-ubyte*"
    found = [
        *sorted((root / LAYOUTS[name].folders).rglob(pattern)),
        *sorted(root.glob(pattern)),
        *sorted(root.glob(f"{pattern}/{pattern}")),
    ]
    return [path for path in found if path.name.endswith(("-ubyte", ".gz")) and path.is_file()]


def _read_idx(name: str, root: Path, part: str) -> npt.NDArray[np.uint8]:
    """uint8 (N, H, W) or (N,), from the IDX format of http://yann.lecun.com/exdb/mnist/.

    Raises:
        EOFError, OSError, ValueError, struct.error, zlib.error: it is missing or damaged.
    """
    files = _idx_files(name, root, part)
    if not files:
        raise FileNotFoundError(f"no train-{part}-idx{IDX_DIMENSIONS[part]}-ubyte")
    path, rank = files[0], IDX_DIMENSIONS[part]
    with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
        magic, *shape = struct.unpack(f">{rank + 1}I", file.read(4 * (rank + 1)))
        size_bytes = math.prod(shape)
        if magic != 0x800 + rank or not 0 < size_bytes <= MAX_IDX_BYTES:
            raise ValueError(f"{path.name} does not begin as it should")
        data = file.read(size_bytes + 1)  # beyond the end lies the checksum of gzip
    if len(data) != size_bytes:
        raise ValueError(f"{path.name} does not hold the {size_bytes:,} bytes it speaks of")
    return np.frombuffer(data, np.uint8).reshape(shape)


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
    databases, keys, owners = [], [], []
    for number, folder in enumerate(folders):
        try:
            database = lmdb.open(str(folder), readonly=True, lock=False, readahead=False)
            with database.begin() as transaction:
                own_keys = list(transaction.cursor().iternext(keys=True, values=False))
        except lmdb.Error as error:
            raise DataError(_missing(name, root, f"{folder.name}: {error}")) from None
        databases.append(database)
        keys += own_keys
        owners += [number] * len(own_keys)

    def decode_one(index: int) -> Decoded:
        with reasons(), databases[owners[index]].begin() as transaction:
            data = transaction.get(keys[index])
        return decode(io.BytesIO(data), spec)

    return len(keys), decode_one, {"class": np.array(owners, np.int64)}


OPENING = {
    "celeba": _open_torchvision,
    "cifar10": _open_torchvision,
    "fashionmnist": _open_mnist,
    "lsun": _open_lsun,
    "mnist": _open_mnist,
}


def _missing(name: str, root: Path, detail: str) -> str:
    layout = LAYOUTS[name]
    text = (
        f"{name} was not found, or is damaged, in {root.absolute()} ({detail.rstrip('.')}). "
        f"Expected there: {layout.expected}. Nothing is downloaded here. "
        f"To get it: {layout.obtain.format(root=root)}; or name its folder with --data-root"
    )
    if name == "celeba":
        for folder in (root / "celeba" / "img_align_celeba", root / "img_align_celeba"):
            for found in (folder, folder.with_suffix(".zip")):
                if found.exists():
                    return f"{text}. The pictures are there: use --data {found}"
    return text
