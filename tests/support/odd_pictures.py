"""A folder and a zip full of odd files, and what must become of them."""

import io
import re
import struct
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from training.data.decode import Pictures, PictureSpec

SKY = (200, 212, 224)
SPEC = PictureSpec(image_size=32, cache=None)
NOISE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8))


def encode(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def plain(colour: tuple[int, int, int] = (9, 8, 7), kind: str = "PNG") -> bytes:
    return encode(Image.new("RGB", (40, 40), colour), kind)


def half(mode: str, left: Any, right: Any) -> Image.Image:
    image = Image.new(mode, (64, 64), left)
    image.paste(right, (32, 0, 64, 64))
    return image


def chunk(name: bytes, body: bytes, checksum: int | None = None) -> bytes:
    """Of a PNG."""
    checksum = zlib.crc32(name + body) if checksum is None else checksum
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", checksum)


def png(width: int, height: int, rows: bytes, depth: int = 8) -> bytes:
    """An RGB PNG written by hand, for what Pillow cannot write."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, 2, 0, 0, 0))
    data = chunk(b"IDAT", zlib.compress(rows))
    return b"\x89PNG\r\n\x1a\n" + header + data + chunk(b"IEND", b"")


def palette() -> Image.Image:
    image = half("P", 0, 1)
    image.putpalette([255, 0, 0, 0, 255, 0])
    return image


def odd_files() -> dict[str, tuple[bytes, Any]]:
    """Name -> content and what it must become: two pixels (left, right), or part of a reason."""
    exif = Image.Exif()
    exif[0x0112] = 3
    red, green = (255, 0, 0), (0, 255, 0)
    grey_16_bit = Image.fromarray(np.full((40, 40), 0x8080, np.uint16))
    frames = [Image.new("RGB", (40, 40), c) for c in (red, green)]
    more = {"save_all": True, "append_images": frames[1:]}
    cmyk = Image.new("CMYK", (40, 40), (0, 255, 255, 0))
    return {
        "animated.gif": (encode(frames[0], "GIF", **more), (red, red)),
        "animated.webp": (encode(frames[0], "WEBP", **more), (red, red)),
        "bomb.png": (png(40_000, 40_000, b""), "more than 100,000,000 px"),
        "clear.png": (encode(half("RGBA", (255, 0, 0, 0), (0, 255, 0, 255))), (SKY, green)),
        "cmyk.jpg": (encode(cmyk, "JPEG"), (red, red)),
        "deep/er/nested.PNG": (plain(green), (green, green)),
        "empty.jpg": (b"", "empty file"),
        "grey16.png": (encode(grey_16_bit), ((128,) * 3, (128,) * 3)),
        "grey_alpha.png": (encode(half("LA", (0, 0), (77, 255))), (SKY, (77,) * 3)),
        "no_suffix": (plain(red), (red, red)),
        "notes.txt": (b"these are my cats\n", "not a picture"),
        "one.png": (encode(Image.new("RGB", (1, 1), green)), (green, green)),
        "page.jpg": (b"<!doctype html><html>quota exceeded", "HTML page"),
        "palette.png": (encode(palette(), transparency=0), (SKY, green)),
        "rotated.jpg": (encode(half("RGB", red, green), "JPEG", exif=exif), (green, red)),
        "truncated.jpg": (encode(NOISE, "JPEG")[:-600], "damaged: .*truncated"),
        "truncated.png": (encode(NOISE)[:-900], "damaged"),
        "wide.png": (encode(Image.new("RGB", (20_000, 4), red)), (red, red)),
        "wrong_suffix.jpg": (plain(green, "BMP"), (green, green)),
    }


USABLE = sorted(n for n, (_, wanted) in odd_files().items() if not isinstance(wanted, str))
UNUSABLE = sorted(n for n, (_, wanted) in odd_files().items() if isinstance(wanted, str))


def check_odd_pictures(pictures: Pictures) -> None:
    assert pictures.images.shape == (len(USABLE), 32, 32, 3)
    assert pictures.images.dtype == np.uint8
    for name, image in zip(USABLE, pictures.images, strict=True):
        left, right = odd_files()[name][1]
        np.testing.assert_allclose(image[16, 3], left, atol=6, err_msg=name)
        np.testing.assert_allclose(image[16, -4], right, atol=6, err_msg=name)
    skipped = reasons_of(pictures)
    assert sorted(skipped) == UNUSABLE
    for name, reason in skipped.items():
        assert re.search(odd_files()[name][1], reason), f"{name}: {reason}"


def reasons_of(pictures: Pictures) -> dict[str, str]:
    return {item.name: item.reason for item in pictures.skipped}


def write_odd_folder(root: Path) -> Path:
    for name, (content, _) in odd_files().items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    for litter in (".DS_Store", "Thumbs.db", ".hidden.png", "__MACOSX/._one.png", ".git/a.png"):
        (root / litter).parent.mkdir(exist_ok=True)
        (root / litter).write_bytes(plain())
    return root


def write_odd_zip(path: Path) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, (content, _) in reversed(odd_files().items()):
            archive.writestr(name, content)
        for litter in (".DS_Store", "__MACOSX/._one.png", "deep/.hidden.png", "deep/"):
            archive.writestr(litter, b"" if litter.endswith("/") else plain())
    return path
