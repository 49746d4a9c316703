"""The default pictures: the cats of the ``robohash`` package, composed from their parts.

The art is by David Revoy, CC-BY-4.0 (see NOTICE). A cat is a body, a fur pattern, eyes, a
mouth and an accessory, each one of 9 to 16 drawings, painted over one another: 324,000
different cats. The drawings are scaled once, the cats composed with numpy, so thousands take
seconds; the part numbers are kept as labels.

One cat in 20 is reserved: no training is ever given it, of a Generator or of a classifier, so that
there is always something to measure both with.
"""

from __future__ import annotations

import importlib.util
from functools import lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from training.data.decode import DataError, Pictures, parse_colour

ATTRIBUTES = ("body", "fur", "eyes", "mouth", "accessory")
DEFAULT_COUNT = 20_000
RESERVED_ONE_IN = 20
_AGAIN = "006#fur6.png"  # the same drawing as 002#fur2.png

Labels = dict[str, npt.NDArray[np.int64]]


def load_avatars(
    image_size: int, background: str, seed: int, count: int = DEFAULT_COUNT
) -> Pictures:
    """Compose ``count`` cats to train on, the same ones for the same seed, no combination twice.

    Args:
        image_size: height and width, px.
        background: ``"#rrggbb"`` behind the cats.
        seed: chooses which cats.
        count: how many, at most the combinations that are not reserved.

    Returns:
        uint8 RGB pictures (count, H, W, 3) with one int64 label array (count,) an attribute.

    Raises:
        DataError: ``count`` is out of range.
        ValueError: the colour is malformed.
        FileNotFoundError: the robohash package or its drawings are not installed.
    """
    return _load(image_size, background, seed, count, of_reserved=False)


def load_reserved_avatars(image_size: int, background: str, count: int) -> Pictures:
    """As ``load_avatars``, but of the reserved cats: always the same ones for the same count."""
    return _load(image_size, background, 0, count, of_reserved=True)


def are_reserved(labels: Labels) -> npt.NDArray[np.bool_]:
    """Whether cats are kept from every training: it follows from the numbers of their parts alone.

    It looks random, and each cat by itself: a reserved one has as many neighbours among the others
    as any, from which it differs by a mouth, so that it can serve to find copies. The numbers are
    mixed by the finaliser of SplitMix64 (Steele et al., OOPSLA 2014, fig. 16).

    Args:
        labels: as ``load_avatars`` gives them.
    """
    mixed = np.zeros(len(labels["fur"]), np.uint64)
    for name in ATTRIBUTES:
        mixed = mixed * np.uint64(16) + labels[name].astype(np.uint64)
    mixed += np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed ^= mixed >> np.uint64(31)
    reserved: npt.NDArray[np.bool_] = mixed % np.uint64(RESERVED_ONE_IN) == 0
    return reserved


def _load(
    image_size: int, background: str, seed: int, count: int, *, of_reserved: bool
) -> Pictures:
    labels = _choose(seed, count, of_reserved=of_reserved)
    indices = list(labels.values())
    parts = [_load_part(paths, image_size) for paths in _drawings()]
    canvas = np.empty((count, image_size, image_size, 3), np.uint8)
    for start in range(0, count, 1024):  # float32 work space stays below 100 MB at 64 px
        rows = slice(start, start + 1024)
        canvas[rows] = _compose(parts, [i[rows] for i in indices], parse_colour(background))
    return Pictures(images=canvas, source="avatars", labels=labels, skipped=[])


def _choose(seed: int, count: int, *, of_reserved: bool) -> Labels:
    """Which drawing of each part a cat has."""
    sizes = tuple(map(len, _drawings()))
    every = np.unravel_index(np.arange(np.prod(sizes)), sizes)
    labels = {name: part.astype(np.int64) for name, part in zip(ATTRIBUTES, every, strict=True)}
    numbers = np.flatnonzero(are_reserved(labels) == of_reserved)
    if not 1 <= count <= len(numbers):
        raise DataError(f"{count} avatars asked for; choose 1 to {len(numbers)}")
    chosen = np.random.default_rng(seed).choice(numbers, size=count, replace=False)
    return {name: part[chosen] for name, part in labels.items()}


def _drawings() -> list[tuple[Path, ...]]:
    """The files of each part."""
    spec = importlib.util.find_spec("robohash")
    if spec is None or spec.origin is None:
        raise FileNotFoundError("the robohash package is not installed; run: make setup")
    root = Path(spec.origin).parent / "sets" / "set4"
    folders = sorted(p for p in root.glob("*") if p.is_dir())
    if len(folders) != len(ATTRIBUTES):
        raise FileNotFoundError(
            f"{root} holds {len(folders)} part folders, {len(ATTRIBUTES)} are needed; "
            "reinstall the pinned robohash: make setup"
        )
    return [
        tuple(sorted(path for path in folder.glob("*.png") if path.name != _AGAIN))
        for folder in folders
    ]


@lru_cache(maxsize=len(ATTRIBUTES))  # of one size: seconds, where avatars are drawn again
def _load_part(paths: tuple[Path, ...], image_size: int) -> npt.NDArray[np.float32]:
    """All drawings of one part, alpha premultiplied: float32 (K, H, W, 4) in [0, 1]."""
    drawings = []
    for path in paths:
        with Image.open(path) as drawing:
            # "RGBa" is premultiplied: scaling straight alpha would bleed hidden colours.
            small = drawing.convert("RGBA").convert("RGBa")
            small = small.resize((image_size, image_size), Image.Resampling.BOX)
            drawings.append(np.asarray(small, np.float32) / 255.0)
    return np.stack(drawings)


def _compose(
    parts: list[npt.NDArray[np.float32]],
    indices: list[npt.NDArray[np.int64]],
    background: tuple[int, int, int],
) -> npt.NDArray[np.uint8]:
    """Paint the chosen drawings over the background (Porter-Duff "over")."""
    height, width = parts[0].shape[1:3]
    canvas = np.empty((len(indices[0]), height, width, 3), np.float32)
    canvas[:] = np.array(background, np.float32) / 255.0
    for part, index in zip(parts, indices, strict=True):
        drawing = part[index]
        canvas *= 1.0 - drawing[..., 3:]
        canvas += drawing[..., :3]
    painted: npt.NDArray[np.uint8] = np.clip(np.rint(canvas * 255.0), 0, 255).astype(np.uint8)
    return painted
