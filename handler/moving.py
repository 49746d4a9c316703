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

# Around the pixels, at most: of a file, and of a frame with its header and palette.
_FILE_BYTES, _FRAME_BYTES = 2048, 1024
_XMP = (  # ISO 16684-1
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
        The file.
    """
    lasting = _durations(len(frames), fps, 100 if kind == "gif" else 1000)
    if kind == "apng":
        return png.encode_moving(frames, text, lasting, loop, small, run)
    if kind == "webp":
        pictures = list(run(_webp_frame, frames))
        return _webp(frames.shape[1:3], pictures, text, lasting, loop)
    return _gif(frames, text, lasting, loop, run)


def likely_bytes(kind: Moving, shape: Sequence[int], text: str) -> tuple[int, int]:
    """What ``encode`` gives hardly more than: of what is there once, and of each frame.

    Args:
        shape: (H, W, C) of a frame, px.
        text: as ``encode`` takes it.
    """
    height, width, channels = shape
    # Noise takes what its levels take, in WebP and APNG; in a GIF codes of 11.3 bits in the mean.
    pixels = height * width * 17 // 12 if kind == "gif" else height * (1 + width * channels)
    return _FILE_BYTES + len(text), _FRAME_BYTES + pixels


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
        _chunk(b"XMP ", _XMP.format(escape(text)).encode("ascii")),
    ]
    return _chunk(b"RIFF", b"".join([b"WEBP", *parts]))


def _chunk(kind: bytes, data: bytes) -> bytes:
    return kind + struct.pack("<I", len(data)) + data + b"\0" * (len(data) % 2)


def _24_bits(value: int) -> bytes:
    return value.to_bytes(3, "little")


def _webp_frame(frame: npt.NDArray[np.uint8]) -> bytes:
    """The VP8L bitstream of one picture."""
    buffer = io.BytesIO()
    _picture(frame).save(buffer, "WEBP", lossless=True, method=0)
    size = int.from_bytes(buffer.getvalue()[16:20], "little")  # RIFF, WEBP, VP8L, size
    return buffer.getvalue()[20 : 20 + size]
