"""A PNG encoder for speed: one filter for all rows and the fastest deflate at hand, or none.

Source: W3C, "Portable Network Graphics (PNG) Specification (Second Edition)"; the chapters
named below are its chapters. Filter 2 (Up) suits pictures with smooth columns and is one
subtraction in numpy. The image needs no other chunk than IHDR, tEXt, IDAT and IEND.

What is not deflated lies in stored blocks (RFC 1951, 3.2.4), which every decoder reads: nothing is
left to do then but to copy and to add up.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

_fastest: Any
try:
    from isal import isal_zlib as _fastest

    _LIBRARY = "isal"
except ImportError:  # no wheel for this processor
    _fastest, _LIBRARY = zlib, "zlib"
_crc32, _adler32 = _fastest.crc32, _fastest.adler32

Run = Callable[..., Iterable[Any]]

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_CHUNK_BYTES = 12  # length, type and checksum around each chunk's data
_FIXED_BYTES = len(_SIGNATURE) + 3 * _CHUNK_BYTES + 13
_COLOUR_TYPE = {1: 0, 3: 2}  # channels -> greyscale, truecolour (11.2.2)
_NONE, _UP = 0, 2  # filter types (9.2)
_BLOCK_BYTES = 65535  # the longest stored block; 5 bytes stand before each
_SEGMENT_BYTES = 2**17  # deflated on its own, so that several threads can do a grid
# Flushed before the rest of a segment. ISA-L 2.32 begins a long one with a slot of its hash table
# that the compressor's own address chooses (igzip_icf_body_h1_gr_bt.asm hashes rcx at
# write_first_byte), so that now and then a file would depend on where the memory lies.
# What is short is begun by other code, and four bytes are the fewest that count as begun.
_FIRST_BYTES = 4
_END = b"\0\0\0\0IEND\xaeB`\x82"
_KEYWORD = b"dcgan\0"  # of the text (11.3.4)


def encode(image: npt.NDArray[np.uint8], text: str, small: bool, run: Run = map) -> bytes:
    """Encode one picture.

    Args:
        image: uint8 (H, W, C), C 1 (grey) or 3 (RGB), H and W >= 1.
        text: ASCII, without NUL: what made the picture; empty for no chunk.
        small: deflate it, which takes 30 times as long and saves a third of the bytes.
        run: does the deflating of all segments, as ``map`` does; the file is always the same.

    Returns:
        The file, of at most ``worst_case_bytes(H, W, C) + text_bytes(text)`` bytes.
    """
    parts = _head(image.shape, text)
    return b"".join([*parts, *_chunk(b"IDAT", *_data(image, small, run)), _END])


def encode_moving(
    frames: npt.NDArray[np.uint8],
    text: str,
    durations_ms: Sequence[int],
    loop: int,
    small: bool,
    run: Run = map,
) -> bytes:
    """Encode an animated PNG (third edition, 4.9), in which every frame is a whole picture.

    Args:
        frames: uint8 (N, H, W, C), C-contiguous, N >= 1, else as in ``encode``.
        durations_ms: of each frame, 0 to 65,535.
        loop: how often it is played; 0 is for ever.
        run: encodes the frames, as ``map`` does; the file is always the same.

    Returns:
        The file.
    """
    height, width, _ = frames.shape[1:]
    parts = _head(frames.shape[1:], text)
    parts += _chunk(b"acTL", struct.pack(">II", len(frames), loop))
    number = 0  # of fcTL and fdAT together
    packed = run(partial(_data, small=small), frames)
    for i, (data, lasts_ms) in enumerate(zip(packed, durations_ms, strict=True)):
        place = struct.pack(">IIIIIHHBB", number, width, height, 0, 0, lasts_ms, 1000, 0, 0)
        parts += _chunk(b"fcTL", place)
        number += 1
        if i:
            parts += _chunk(b"fdAT", struct.pack(">I", number), *data)
            number += 1
        else:
            parts += _chunk(b"IDAT", *data)
    return b"".join([*parts, _END])


def _head(shape: Sequence[int], text: str) -> list[bytes | memoryview]:
    height, width, channels = shape
    header = struct.pack(">IIBBBBB", width, height, 8, _COLOUR_TYPE[channels], 0, 0, 0)
    told = _chunk(b"tEXt", _KEYWORD, text.encode("ascii")) if text else ()
    return [_SIGNATURE, *_chunk(b"IHDR", header), *told]


def _data(image: npt.NDArray[np.uint8], small: bool, run: Run = map) -> list[bytes | memoryview]:
    """The pieces of a zlib stream of the filtered rows."""
    height, width, channels = image.shape
    rows = image.reshape(height, width * channels)
    lines = np.empty((height, 1 + rows.shape[1]), np.uint8)
    if small:
        lines[:, 0] = _UP
        lines[0, 1:] = rows[0]  # above the first row lies a row of zeros
        np.subtract(rows[1:], rows[:-1], out=lines[1:, 1:])
        data = _deflated(lines.reshape(-1).data, run)
    else:
        lines[:, 0] = _NONE
        lines[:, 1:] = rows
    if not small or sum(map(len, data)) > _stored_bytes(lines.size):
        data = _stored(lines.reshape(-1).data)
    return data


def method(small: bool) -> str:
    """How the pictures are packed, in words."""
    return f"{_LIBRARY} level 1" if small else "stored"


def worst_case_bytes(height: int, width: int, channels: int) -> int:
    """Most bytes that ``encode`` can give for this size in px, without its text."""
    return _FIXED_BYTES + _stored_bytes(height * (1 + width * channels))


def text_bytes(text: str) -> int:
    """Bytes that a text adds."""
    return _CHUNK_BYTES + len(_KEYWORD) + len(text)


def _deflated(data: memoryview, run: Run) -> list[bytes | memoryview]:
    """The pieces of a zlib stream of deflated segments."""
    starts = range(0, len(data), _SEGMENT_BYTES)
    ends = [False] * (len(starts) - 1) + [True]
    segments = [data[start : start + _SEGMENT_BYTES] for start in starts]
    return [b"\x78\x01", *run(_segment, segments, ends), struct.pack(">I", _adler32(data))]


def _segment(data: memoryview, last: bool) -> bytes:
    """Deflated without a look at what lies before it, up to a whole byte."""
    compressor = _fastest.compressobj(1, zlib.DEFLATED, -zlib.MAX_WBITS)
    begun = compressor.compress(data[:_FIRST_BYTES]) + compressor.flush(zlib.Z_SYNC_FLUSH)
    begun += compressor.compress(data[_FIRST_BYTES:])
    return bytes(begun + compressor.flush(zlib.Z_FINISH if last else zlib.Z_SYNC_FLUSH))


def _stored(data: memoryview) -> list[bytes | memoryview]:
    """The pieces of a zlib stream (RFC 1950) of stored blocks, the data uncopied."""
    pieces: list[bytes | memoryview] = [b"\x78\x01"]
    for begin in range(0, len(data), _BLOCK_BYTES):
        block = data[begin : begin + _BLOCK_BYTES]
        last = begin + _BLOCK_BYTES >= len(data)
        pieces += struct.pack("<?HH", last, len(block), len(block) ^ 0xFFFF), block
    return [*pieces, struct.pack(">I", _adler32(data))]


def _stored_bytes(size: int) -> int:
    return 2 + size + 5 * -(-size // _BLOCK_BYTES) + 4


def _chunk(kind: bytes, *data: bytes | memoryview) -> Sequence[bytes | memoryview]:
    """Length, type, data, checksum of the last two (5.3)."""
    checksum, size = _crc32(kind), 0
    for piece in data:
        checksum = _crc32(piece, checksum)
        size += len(piece)
    return struct.pack(">I", size), kind, *data, struct.pack(">I", checksum)
