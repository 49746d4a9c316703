"""A PNG encoder for speed: one filter for all rows and the fastest deflate at hand.

Source: W3C, "Portable Network Graphics (PNG) Specification (Second Edition)"; the chapters
named below are its chapters. Filter 2 (Up) suits pictures with smooth columns and is one
subtraction in numpy. The image needs no other chunk than IHDR, tEXt, IDAT and IEND.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

try:
    from isal import isal_zlib

    _deflate, _crc32, COMPRESSOR = isal_zlib.compress, isal_zlib.crc32, "isal level 1"
except ImportError:  # no wheel for this processor
    _deflate, _crc32, COMPRESSOR = zlib.compress, zlib.crc32, "zlib level 1"

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_CHUNK_BYTES = 12  # length, type and checksum around each chunk's data
_FIXED_BYTES = len(_SIGNATURE) + 3 * _CHUNK_BYTES + 13
_COLOUR_TYPE = {1: 0, 3: 2}  # channels -> greyscale, truecolour (11.2.2)
_UP = 2  # filter type (9.2)
# 11.3.4: 1 to 79 printable Latin-1 characters, single blanks and only inside.
_KEYWORD = re.compile(r"[!-~\xa1-\xff]+( [!-~\xa1-\xff]+)*")


def encode(image: npt.NDArray[np.uint8], text: Mapping[str, str]) -> bytes:
    """Encode one picture.

    Args:
        image: uint8 (H, W, C), C-contiguous, C 1 (grey) or 3 (RGB), H and W >= 1.
        text: tEXt chunks, keyword -> text, both Latin-1.

    Returns:
        The file, of at most ``worst_case_bytes(H, W, C) + text_bytes(text)`` bytes.

    Raises:
        ValueError: another dtype, shape or layout, or a keyword or text that PNG forbids.
    """
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] not in _COLOUR_TYPE:
        raise ValueError(f"cannot encode {image.dtype} {image.shape}; give uint8 (H, W, 1 or 3)")
    if not image.size or not image.flags.c_contiguous:
        raise ValueError("the image is empty or not C-contiguous; use np.ascontiguousarray")
    height, width, channels = image.shape
    header = struct.pack(">IIBBBBB", width, height, 8, _COLOUR_TYPE[channels], 0, 0, 0)

    rows = image.reshape(height, width * channels)
    filtered = np.empty((height, 1 + rows.shape[1]), np.uint8)
    filtered[:, 0] = _UP
    filtered[0, 1:] = rows[0]  # above the first row lies a row of zeros
    np.subtract(rows[1:], rows[:-1], out=filtered[1:, 1:])
    data = _deflate(filtered.data, 1)
    if len(data) > _deflate_bound(filtered.size):
        data = zlib.compress(filtered.data, 0)

    parts = [_SIGNATURE, _chunk(b"IHDR", header)]
    parts += [_chunk(b"tEXt", _text(keyword, value)) for keyword, value in text.items()]
    parts += [_chunk(b"IDAT", data), _chunk(b"IEND", b"")]
    return b"".join(parts)


def worst_case_bytes(height: int, width: int, channels: int) -> int:
    """Most bytes that ``encode`` can give for this size in px, without its text chunks."""
    return _FIXED_BYTES + _deflate_bound(height * (1 + width * channels))


def text_bytes(text: Mapping[str, str]) -> int:
    """Bytes that the text chunks add."""
    return sum(_CHUNK_BYTES + 1 + len(key) + len(value) for key, value in text.items())


def _deflate_bound(size: int) -> int:
    """zlib's own compressBound: stored blocks cost 5 bytes in 16 kB."""
    return size + (size >> 12) + (size >> 14) + (size >> 25) + 13


def _text(keyword: str, value: str) -> bytes:
    if len(keyword) > 79 or not _KEYWORD.fullmatch(keyword) or "\0" in value:
        raise ValueError(f"PNG forbids the keyword {keyword!r}, or NUL in its text (11.3.4)")
    return keyword.encode("latin-1") + b"\0" + value.encode("latin-1")


def _chunk(kind: bytes, data: bytes) -> bytes:
    """Length, type, data, checksum of the last two (5.3)."""
    checksum = _crc32(data, _crc32(kind))
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", checksum)
