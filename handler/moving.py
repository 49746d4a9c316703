"""Moving pictures: one frame an image, and the recipe where the file has a place for text.

=====  =================================================================  ====================
webp   lossless; RIFF of RFC 9649: VP8X, ANIM, an ANMF a frame            XMP, dc:description
apng   lossless; ``handler.png``; PNG, third edition                      tEXt, keyword dcgan
gif    256 colours a frame; GIF89a, a palette of its own for each frame   comment extension
=====  =================================================================  ====================

Every image is a frame of its own. Encoders of animations put equal neighbours together, so Pillow
encodes single pictures here, and the files are assembled of them.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise
from xml.sax.saxutils import escape

import numpy as np
import numpy.typing as npt
from PIL import Image
from PIL.GifImagePlugin import getdata

from handler import png
from handler.pixels import Images
from handler.png import Run
from handler.wire import Moving

_GREYS = bytes(np.repeat(np.arange(256, dtype=np.uint8), 3))

# GIF89a: graphic control, descriptor, size of the first code and the end of the blocks.
_GIF_FRAME_BYTES = 8 + 10 + 1 + 1
_GIF_FILE_BYTES = 13 + len(_GREYS) + 19 + 1  # header, global colours, NETSCAPE2.0, trailer
_LZW_ROUND = 2**12 - 257  # codes until the table is full and cleared
_LZW_SHORT = (255, 767, 1791)  # codes of a round of at most 9, 10 and 11 bits; the others have 12

_WEBP_FILE_BYTES = 12 + 18 + 14 + 8 + 1  # RIFF, VP8X, ANIM, header and padding of XMP
_WEBP_FRAME_BYTES = 8 + 16 + 8 + 1  # headers of ANMF and VP8L, padding
_XMP = (
    '<x:xmpmeta xmlns:x="adobe:ns:meta/">'
    '<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    '<rdf:Description rdf:about="" xmlns:dc="http://purl.org/dc/elements/1.1/">'
    '<dc:description><rdf:Alt><rdf:li xml:lang="x-default">{}</rdf:li></rdf:Alt></dc:description>'
    "</rdf:Description></rdf:RDF></x:xmpmeta>"
)


def encode(
    kind: Moving, frames: Images, text: str, fps: float, loop: int, small: bool, run: Run = map
) -> bytes:
    """Encode a moving picture.

    Args:
        frames: uint8 (N, H, W, C), C-contiguous, N >= 1, C 1 (grey) or 3 (RGB).
        text: ASCII, without NUL: what made the picture.
        fps: frames a second, 0.1 to 50. A frame lasts whole ms, in a GIF whole 1/100 s; they differ
            by one where that is needed, so that the whole lasts N / fps.
        loop: how often it is played, 0 (for ever) to 65,535.
        small: deflate an APNG.
        run: encodes the frames, as ``map`` does; the file is always the same.

    Returns:
        The file, of at most ``worst_case_bytes`` bytes.
    """
    lasting = _durations(len(frames), fps, 100 if kind == "gif" else 1000)
    if kind == "apng":
        return png.encode_moving(frames, text, lasting, loop, small, run)
    if kind == "webp":
        pictures = list(run(_webp_frame, frames))
        return _webp(frames.shape[1:3], pictures, text, lasting, loop)
    return _gif(frames, text, lasting, loop, run)


def worst_case_bytes(kind: Moving, shape: Sequence[int], text: str) -> tuple[int, int]:
    """Most bytes that ``encode`` can give: of what is there once, and of each frame.

    Args:
        shape: (H, W, C) of a frame, px.
        text: as ``encode`` takes it.
    """
    height, width, channels = shape
    if kind == "apng":
        return png.moving_bytes(text), png.frame_bytes(height, width, channels)
    if kind == "webp":
        frame = _WEBP_FRAME_BYTES + _stored_bytes(height, width, channels)
        return _WEBP_FILE_BYTES + len(_xmp(text)), frame
    lzw = _lzw_bytes(height * width)
    palette = 0 if channels == 1 else 768
    return _GIF_FILE_BYTES + len(_comment(text)), _GIF_FRAME_BYTES + palette + lzw + -(-lzw // 255)


def _durations(count: int, fps: float, ticks_per_s: int) -> list[int]:
    """Ticks that each of ``count`` frames lasts; their sum is as near as can be."""
    ends = [round(i * ticks_per_s / fps) for i in range(count + 1)]
    return [end - start for start, end in pairwise(ends)]


def _gif(frames: Images, text: str, lasting: Sequence[int], loop: int, run: Run) -> bytes:
    """GIF89a (CompuServe 1990); NETSCAPE2.0 says how often it is played after the first time."""
    height, width, channels = frames.shape[1:]
    grey = channels == 1
    parts = [b"GIF89a", struct.pack("<HHBBB", width, height, 0xF7 if grey else 0x70, 0, 0)]
    if grey:
        parts.append(_GREYS)
    if loop != 1:
        parts.append(b"!\xff\x0bNETSCAPE2.0" + struct.pack("<BBHB", 3, 1, max(loop - 1, 0), 0))
    parts.append(_comment(text))
    return b"".join([*parts, *run(_gif_frame, frames, lasting), b";"])


def _lzw_bytes(pixels: int) -> int:
    """Most that Pillow's LZW makes of the pixels of a frame, 1.41 bytes of each.

    It clears its table at the begin and when it is full. The worst is a code a pixel, where no pair
    of neighbours comes a second time before that.
    """
    rounds, rest = divmod(pixels, _LZW_ROUND)
    bits = 9 + rounds * (_lzw_bits(_LZW_ROUND) + 12) + _lzw_bits(rest) + 12  # clears, and the end
    return -(-bits // 8)


def _lzw_bits(codes: int) -> int:
    return 9 * codes + sum(max(codes - short, 0) for short in _LZW_SHORT)


def _comment(text: str) -> bytes:
    data = text.encode("ascii")
    blocks = [data[i : i + 255] for i in range(0, len(data), 255)]
    return b"!\xfe" + b"".join(bytes([len(block)]) + block for block in blocks) + b"\0"


def _gif_frame(frame: npt.NDArray[np.uint8], lasts: int) -> bytes:
    picture = _picture(frame)
    grey = picture.mode == "L"
    if not grey:
        picture = picture.quantize(256, Image.Quantize.FASTOCTREE)
    return b"".join(getdata(picture, duration=lasts * 10, include_color_table=not grey))


def _picture(frame: npt.NDArray[np.uint8]) -> Image.Image:
    return Image.fromarray(frame[..., 0] if frame.shape[2] == 1 else frame)


def _webp(
    size_px: Sequence[int], pictures: Sequence[bytes], text: str, lasting: Sequence[int], loop: int
) -> bytes:
    """RFC 9649, section 2.7: VP8X with the flags of XMP and animation, then frames that cover all
    of it and are not blended."""
    height, width = (_24_bits(px - 1) for px in size_px)
    parts = [
        _chunk(b"VP8X", b"\x06\0\0\0" + width + height),
        _chunk(b"ANIM", struct.pack("<IH", 0xFFFFFFFF, loop)),
        *(
            _chunk(
                b"ANMF",
                bytes(6) + width + height + _24_bits(lasts) + b"\x02" + _chunk(b"VP8L", picture),
            )
            for picture, lasts in zip(pictures, lasting, strict=True)
        ),
        _chunk(b"XMP ", _xmp(text)),
    ]
    return _chunk(b"RIFF", b"".join([b"WEBP", *parts]))


def _xmp(text: str) -> bytes:
    """ISO 16684-1."""
    return _XMP.format(escape(text)).encode("ascii")


def _chunk(kind: bytes, data: bytes) -> bytes:
    return kind + struct.pack("<I", len(data)) + data + b"\0" * (len(data) % 2)


def _24_bits(value: int) -> bytes:
    return value.to_bytes(3, "little")


def _webp_frame(frame: npt.NDArray[np.uint8]) -> bytes:
    """The VP8L bitstream of one picture, by libwebp where that is shorter than ``_stored``."""
    buffer = io.BytesIO()
    _picture(frame).save(buffer, "WEBP", lossless=True, method=0)
    size = int.from_bytes(buffer.getvalue()[16:20], "little")  # RIFF, WEBP, VP8L, size
    if size > _stored_bytes(*frame.shape):
        return _stored(frame)
    return buffer.getvalue()[20 : 20 + size]


# Codes are written from their highest bit on, all else from the lowest (RFC 9649, section 3.7).
_REVERSED = np.packbits(np.unpackbits(np.arange(256, dtype=np.uint8), bitorder="little"))


def _stored(frame: npt.NDArray[np.uint8]) -> bytes:
    """A VP8L bitstream (RFC 9649, section 3) in which a level is a code of 8 bits: nothing is
    packed, so it bounds what a frame may take. Of grey pictures green alone is there.

    Args:
        frame: uint8 (H, W, C).
    """
    height, width, channels = frame.shape
    bits = _Bits()
    bits.add(0x2F, 8)
    bits.add(width - 1, 14)
    bits.add(height - 1, 14)
    bits.add(0, 4)  # no alpha, version 0
    if channels == 1:
        bits.add(0b101, 3)  # a transform: red and blue are differences to green
    bits.add(0, 3)  # no (further) transform, no colour cache, one group of codes
    bits.add_levels(256 + 24)
    for _ in ("red", "blue"):
        if channels == 1:
            bits.add_one(0)
        else:
            bits.add_levels(256)
    bits.add_one(255)  # alpha
    bits.add_one(0)  # distances, of which there are none
    levels = frame[..., (1, 0, 2) if channels == 3 else (0,)]
    bits.add(int.from_bytes(_REVERSED[levels].tobytes(), "little"), 8 * levels.size)
    return bits.value.to_bytes(-(-bits.count // 8), "little")


@lru_cache
def _stored_bytes(height: int, width: int, channels: int) -> int:
    return len(_stored(np.zeros((height, width, channels), np.uint8)))


class _Bits:
    """Bits of a VP8L stream, the first the lowest."""

    def __init__(self) -> None:
        self.value, self.count = 0, 0

    def add(self, value: int, count: int) -> None:
        self.value |= value << self.count
        self.count += count

    def add_one(self, symbol: int) -> None:
        """A code of one symbol, which takes no bits."""
        self.add(0b101 if symbol > 1 else 0b001, 3)
        self.add(symbol, 8 if symbol > 1 else 1)

    def add_levels(self, alphabet: int) -> None:
        """A code of 8 bits for each of 256 symbols, and none for the rest of the alphabet.

        The lengths are coded themselves: 8 by the bit 0, and by the bit 1 a run of zeros (18).
        """
        self.add(0, 1)
        self.add(8, 4)  # 4 + 8 lengths follow, of the codes 17, 18, 0, 1, 2, 3, 4, 5, 16, 6, 7, 8
        self.add(1 << 3 | 1 << 33, 36)
        self.add(0, 1 + 256)  # as many as the alphabet has; 256 times 8
        if alphabet > 256:
            self.add(1, 1)
            self.add(alphabet - 256 - 11, 7)
