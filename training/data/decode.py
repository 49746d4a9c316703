"""Picture files of any kind to square uint8 arrays; unusable ones to a reason.

Follows the preparation of the DCGAN tutorial (shorter side to the wanted size, centre
crop) and adds what real folders need: transparency, 16 bit, EXIF orientation, damage.

A picture is grey when its file says so (a grey mode) or when no pixel of it has a colour.
"""

from __future__ import annotations

import io
import re
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import IO, Annotated, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
from annotated_types import Ge, Lt
from PIL import Image, ImageOps, UnidentifiedImageError

MAX_PIXELS = 100_000_000  # a larger picture is skipped: decoding it could exhaust the memory
LARGE_PIXELS = 16_000_000  # pictures of more are decoded one at a time, whatever the threads
REASON_LENGTH = 160
MAX_AGAIN_BYTES = 256 * 1024 * 1024  # of a file that is read a second time
PNG, JPEG = b"\x89PNG\r\n\x1a\n", b"\xff\xd8"
PIXEL_CHUNKS = (b"IHDR", b"IDAT", b"IEND")  # of a PNG: all that a pixel needs, but for a palette
CLEAR_BYTES = {0: 2, 2: 6}  # colour type -> what tRNS must hold (PNG, 11.3.2.1)
JPEG_EXIF, JPEG_ADOBE, JPEG_COMMENT, JPEG_SCAN = 0xE1, 0xEE, 0xFE, 0xDA
ADOBE_BYTES = 12  # a shorter segment does not say how the colours are stored
# Pillow knows more, but drawings (EPS would start Ghostscript) and formats without a
# signature (TGA, which takes some text files for pictures) are left out.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "JPEG2000", "PPM", "ICO")
GREY_MODES = {"1", "L", "LA", "La", "I", "F"}
IMPOSTORS = (
    (rb".*<(!doctype html|html|head)\b", "an HTML page, not a picture (a failed download?)"),
    (rb"version https://git-lfs", "a Git LFS pointer, not the picture; run: git lfs pull"),
    (rb".*<svg\b", "an SVG drawing; convert it to PNG"),
    (rb"....ftyp(heic|heix|mif1|msf1)", "a HEIC picture; convert it to JPEG or PNG"),
    (rb"\x1f\x8b", "packed by gzip; unpack it, or of MNIST give --data mnist --data-root FOLDER"),
    (rb"\0\0\x08[\x01\x03]", "a file of MNIST; give --data mnist --data-root FOLDER"),
    (rb"\xff\xd8\xff|\x89png|gif8|riff....webp", "damaged: the header cannot be read"),
)  # pattern at the start, in lower case -> reason


# In the metadata of each picture that training and its commands draw. With them among its
# pictures a run would learn from itself.
DRAWN = "python -m training"
SERVED = "dcgan"  # the name of the text in each PNG of the handler
SERVED_TEXT = b'"weights_sha256":"'  # in the comment of each GIF of it, and in the XMP of each WebP

_large_ones = Lock()


Channels = Literal["auto", "1", "3"]


@dataclass(frozen=True)
class PictureSpec:
    """Which pictures, and what becomes of them; one object from the command line to the decoder.

    Raises:
        ValueError: the colour is malformed.
    """

    data: str = "avatars"
    """avatars, a folder, a zip, or cifar10 | celeba | fashionmnist | mnist | lsun."""
    data_root: Path = Path("data")
    """Where torchvision's named data sets lie (nothing is downloaded)."""
    cache: Path | None = Path("data/cache")
    """Decoded pictures are kept here for the next run; None decodes each time."""
    image_size: int = 64
    """Height and width, px: 32, 64, 128 or 256."""
    channels: Channels = "auto"
    """auto: 1 when every picture is grey, else 3."""
    background: str = "#c8d4e0"
    """Colour behind transparent pictures and the avatars."""
    seed: Annotated[int, Ge(0), Lt(2**53)] = 999
    """Seed of everything random: which avatars, and all of a run."""
    workers: Annotated[int, Ge(1)] = 2
    """Threads that decode pictures."""

    def __post_init__(self) -> None:
        parse_colour(self.background)


class DataError(ValueError):
    """There is nothing to train on; the message says what was searched and what to do."""


class UnusablePictureError(ValueError):
    """A file that cannot be trained on; the message is the reason, in one line."""


class Skipped(NamedTuple):
    """A file that was left out, and why."""

    name: str
    reason: str


class Decoded(NamedTuple):
    """One picture.

    Attributes:
        pixels: uint8 RGB (S, S, 3).
        is_grey: whether no pixel has a colour.
        side_px: the shorter side before it was scaled; of a large JPEG, which is decoded smaller,
            at least twice S.
    """

    pixels: npt.NDArray[np.uint8]
    is_grey: bool
    side_px: int


@dataclass(frozen=True)
class Pictures:
    """Pictures ready for training.

    Attributes:
        images: uint8 (N, H, W, C), C = 1 (grey) or 3 (RGB); may be memory-mapped.
        source: what they were loaded from, for messages and the model card.
        labels: attribute name -> int64 (N,), empty when there are none.
        skipped: the files left out.
        enlarged: how many of the others were smaller than they are now.
        smallest_px: the shortest side among those, 0 if there are none.
        hidden: how many files or folders were passed over because of their names.
        equal: int64 (N,), for each picture the first one with the same pixels; None where that
            was not looked for, and each counts as another.
    """

    images: npt.NDArray[np.uint8]
    source: str
    labels: dict[str, npt.NDArray[np.int64]] = field(default_factory=dict)
    skipped: list[Skipped] = field(default_factory=list)
    enlarged: int = 0
    smallest_px: int = 0
    hidden: int = 0
    equal: npt.NDArray[np.int64] | None = None

    @property
    def first_equal(self) -> npt.NDArray[np.int64]:
        """``equal``, or each picture's own index."""
        return np.arange(len(self.images)) if self.equal is None else self.equal

    @property
    def different(self) -> int:
        """How many pictures there are, equal ones counted once."""
        return len(np.unique(self.first_equal))


def parse_colour(text: str) -> tuple[int, int, int]:
    """``"#rrggbb"`` -> (r, g, b), each 0 to 255.

    Raises:
        ValueError: the text has another form.
    """
    if not re.fullmatch(r"#[0-9a-fA-F]{6}", text):
        raise ValueError(f"colour {text!r} is not of the form #rrggbb, for example #c8d4e0")
    return int(text[1:3], 16), int(text[3:5], 16), int(text[5:7], 16)


def decode(file: IO[bytes], spec: PictureSpec) -> Decoded:
    """Read one picture (of an animation the first frame) from a seekable binary file.

    A PNG or JPEG whose pixels are whole is read, whatever is wrong with its texts, times, profiles
    and other things beside them.

    Raises:
        UnusablePictureError: empty, not a picture, damaged, or too large.
    """
    head = file.read(512)
    if not head:
        raise UnusablePictureError("empty file (0 bytes)")
    file.seek(0)
    with reasons(head):
        try:
            return _decode(file, spec)
        except (UnusablePictureError, Image.DecompressionBombError, MemoryError):
            raise
        except Exception:
            # Pillow reads a damaged text or a profile of many MB before the pixels, and gives up.
            if not head.startswith((PNG, JPEG)):
                raise
            file.seek(0)
            data = file.read(MAX_AGAIN_BYTES)
            bare = _png_alone(data) if head.startswith(PNG) else _jpeg_alone(data)
            return _decode(io.BytesIO(bare), spec)


def _decode(file: IO[bytes], spec: PictureSpec) -> Decoded:
    with Image.open(file, formats=FORMATS) as opened:
        width, height = opened.size  # only the header has been read so far
        if width * height > MAX_PIXELS:
            raise UnusablePictureError(
                f"{width} x {height} px is more than {MAX_PIXELS:,} px; scale it down"
            )
        by = (opened.info.get("Software"), opened.info.get("comment"))
        if DRAWN in by or DRAWN.encode() in by:  # of a PNG, of a GIF
            raise UnusablePictureError(f"drawn by {DRAWN}: nothing to train on")
        texts = [opened.info.get(name) for name in ("comment", "xmp")]
        if SERVED in opened.info or any(isinstance(t, bytes) and SERVED_TEXT in t for t in texts):
            raise UnusablePictureError("drawn by a model that is served: nothing to train on")
        opened.draft(None, (spec.image_size * 2, spec.image_size * 2))  # JPEG: decode smaller
        return from_image(opened, spec)


def _png_alone(data: bytes) -> bytes:
    """A PNG without what its pixels do not need, but with its EXIF if that is whole."""
    kept, at, colour = [PNG], len(PNG), data[25:26]
    needed = (*PIXEL_CHUNKS, b"PLTE") if colour == b"\3" else PIXEL_CHUNKS  # of a palette
    while at < len(data):
        size, kind = struct.unpack(">I4s", data[at : at + 8].ljust(8, b"\0"))
        chunk = data[at : at + 12 + size]  # size, kind, body, checksum of kind and body
        sound = zlib.crc32(chunk[4:-4]) == int.from_bytes(chunk[-4:], "big")
        clear = kind == b"tRNS" and size >= CLEAR_BYTES.get(int.from_bytes(colour), 0)
        if kind in needed or (sound and (clear or kind == b"eXIf")):
            kept.append(chunk)
        at += len(chunk)
    return b"".join(kept)


def _jpeg_alone(data: bytes) -> bytes:
    """The same of a JPEG, which also says beside its pixels how their colours are stored."""
    kept, at = [JPEG], len(JPEG)
    while at + 1 < len(data) and data[at] == 0xFF and data[at + 1] != JPEG_SCAN:
        segment = data[at : at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")]
        marker, body = segment[1], segment[4:]
        exif = marker == JPEG_EXIF and body.startswith(b"Exif\0\0")
        adobe = marker == JPEG_ADOBE and len(body) >= ADOBE_BYTES
        if exif or adobe or not (0xE0 <= marker <= 0xEF or marker == JPEG_COMMENT):
            kept.append(segment)
        at += len(segment)
    return b"".join([*kept, data[at:]])


def from_image(image: Image.Image, spec: PictureSpec) -> Decoded:
    """Upright, scaled, cropped to the centre, without transparency, 8 bit.

    Args:
        image: of any mode; loaded here if it is not yet.
        spec: of it the size and what shows through where the picture is transparent.

    Raises:
        Exception: whatever Pillow raises on damage; see ``reasons``.
    """
    large = image.width * image.height > LARGE_PIXELS
    with _large_ones if large else nullcontext():
        image.load()
        with suppress(Exception):  # as many kinds as in ``reasons``, and the pixels are whole
            ImageOps.exif_transpose(image, in_place=True)
        side_px = min(image.size)
        # Scaled before the rest, which costs nothing then, however large the file is.
        wanted = (spec.image_size, spec.image_size)
        square = ImageOps.fit(_to_8_bit(image), wanted, Image.Resampling.LANCZOS)
    if square.mode == "RGBA":
        behind = Image.new("RGBA", square.size, spec.background)
        square = Image.alpha_composite(behind, square)
    rgb = np.asarray(square.convert("RGB"), np.uint8)
    is_grey = image.mode in GREY_MODES or image.mode.startswith("I;16")
    return Decoded(rgb, is_grey or bool((rgb == rgb[..., :1]).all()), side_px)


@contextmanager
def reasons(head: bytes = b"") -> Iterator[None]:
    """Turn any error of reading one picture into ``UnusablePictureError``.

    All of them, since Pillow's plugins raise nearly everything on damaged files
    (struct.error, zlib.error, RuntimeError, MemoryError), and one file must not end a run.

    Args:
        head: the first bytes of the file, to say what it is if it is no picture.
    """
    try:
        yield
    except UnusablePictureError:
        raise
    except UnidentifiedImageError:
        known = (why for pattern, why in IMPOSTORS if re.match(pattern, head.lower(), re.DOTALL))
        unknown = f"not a picture ({', '.join(FORMATS)})"
        raise UnusablePictureError(next(known, unknown)) from None
    except Image.DecompressionBombError:  # Pillow's own limit, reached before ours
        raise UnusablePictureError(f"more than {MAX_PIXELS:,} px; scale it down") from None
    except Exception as error:  # noqa: BLE001 - see above
        if isinstance(error, OSError) and error.strerror:  # the system's errors, not Pillow's
            raise UnusablePictureError(f"cannot be read: {error.strerror}") from None
        text = " ".join(str(error).split()) or type(error).__name__
        raise UnusablePictureError(f"damaged: {text[:REASON_LENGTH]}") from None


def _to_8_bit(image: Image.Image) -> Image.Image:
    """Any Pillow mode to L, RGB or RGBA, without losing range (16 bit) or transparency."""
    if image.mode.startswith("I;16") or image.mode in ("I", "F"):  # Pillow would clip at 255
        values = np.array(image, np.float32)
        low, reach = _range(values) if image.mode == "F" else (0.0, 65535.0)
        values -= low
        values *= 255 / reach
        np.clip(np.rint(values, out=values), 0, 255, out=values)
        return Image.fromarray(values.astype(np.uint8))
    if image.has_transparency_data:
        return image.convert("RGBA")
    if image.mode in ("L", "RGB"):
        return image
    return image.convert("L" if image.mode == "1" else "RGB")


def _range(values: npt.NDArray[np.float32]) -> tuple[float, float]:
    """The least value of a float picture and how far they reach; 0 and 1 if all are between."""
    if not np.isfinite(values).all():
        raise UnusablePictureError("holds values that are not finite")
    low, high = float(values.min()), float(values.max())
    if low < 0.0 or high > 1.0:  # no standard range: stretch what is there
        return low, max(high - low, 1e-12)
    return 0.0, 1.0
