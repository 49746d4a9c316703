"""The default pictures: the cats of the ``robohash`` package, composed from their parts.

The art is by David Revoy, CC-BY-4.0 (see NOTICE). A cat is a body, a fur pattern, eyes, a
mouth and an accessory, each one of 10 to 16 drawings, painted over one another: 360,000
different cats. The drawings are scaled once, the cats composed with numpy, so thousands
take seconds; the part numbers are kept as labels.
"""

from __future__ import annotations

import importlib.util
import math
from functools import lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from training.data.decode import Pictures, parse_colour

ATTRIBUTES = ("body", "fur", "eyes", "mouth", "accessory")
DEFAULT_COUNT = 20_000


def load_avatars(
    image_size: int, background: str, seed: int, count: int = DEFAULT_COUNT
) -> Pictures:
    """Compose ``count`` cats, the same ones for the same seed, no cat twice.

    Args:
        image_size: height and width, px.
        background: ``"#rrggbb"`` behind the cats.
        seed: chooses which cats.
        count: how many, at most the number of combinations.

    Returns:
        uint8 RGB pictures (count, H, W, 3) with one int64 label array (count,) an attribute.

    Raises:
        ValueError: ``count`` is out of range or the colour is malformed.
        FileNotFoundError: the robohash package or its drawings are not installed.
    """
    labels = choose_parts(seed, count)
    indices = list(labels.values())
    parts = [_load_part(folder, image_size) for folder in _part_folders()]
    canvas = np.empty((count, image_size, image_size, 3), np.uint8)
    for start in range(0, count, 1024):  # float32 work space stays below 100 MB at 64 px
        rows = slice(start, start + 1024)
        canvas[rows] = _compose(parts, [i[rows] for i in indices], parse_colour(background))
    return Pictures(images=canvas, source="avatars", labels=labels, skipped=[])


def choose_parts(seed: int, count: int) -> dict[str, npt.NDArray[np.int64]]:
    """The labels alone, as of ``load_avatars``: which drawing of each part a cat has.

    Raises:
        ValueError, FileNotFoundError: as of ``load_avatars``.
    """
    sizes = tuple(len([*folder.glob("*.png")]) for folder in _part_folders())
    combinations = math.prod(sizes)
    if not 1 <= count <= combinations:
        raise ValueError(f"{count} avatars asked for; choose 1 to {combinations}")
    chosen = np.random.default_rng(seed).choice(combinations, size=count, replace=False)
    indices = np.unravel_index(chosen, sizes)
    return {name: index.astype(np.int64) for name, index in zip(ATTRIBUTES, indices, strict=True)}


def _part_folders() -> list[Path]:
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
    return folders


@lru_cache(maxsize=len(ATTRIBUTES))  # of one size: seconds, where avatars are drawn again
def _load_part(folder: Path, image_size: int) -> npt.NDArray[np.float32]:
    """All drawings of one part, alpha premultiplied: float32 (K, H, W, 4) in [0, 1]."""
    drawings = []
    for path in sorted(folder.glob("*.png")):
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
