"""One picture of every awkward kind, with the pixel it must become."""

from __future__ import annotations

import io
import struct
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.support.odd_pictures import NOISE, SKY, chunk, encode, half, palette, png
from training.data import decode as pictures
from training.data.decode import (
    MAX_PIXELS,
    PictureSpec,
    UnusablePictureError,
    decode,
    from_image,
    parse_colour,
    reasons,
)

SPEC = PictureSpec(image_size=32, background="#c8d4e0")


def read(data: bytes) -> tuple[np.ndarray, bool]:
    return decode(io.BytesIO(data), SPEC)[:2]


def quarters(mode: str = "RGB") -> Image.Image:
    """Red, green / blue, white: shows every wrong turn."""
    image = Image.new("RGB", (64, 64), (255, 255, 255))
    image.paste((255, 0, 0), (0, 0, 32, 32))
    image.paste((0, 255, 0), (32, 0, 64, 32))
    image.paste((0, 0, 255), (0, 32, 32, 64))
    return image.convert(mode)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "PPM"])
def test_common_formats_keep_their_colour(kind: str) -> None:
    pixels, is_grey = read(encode(Image.new("RGB", (40, 40), (250, 40, 90)), kind))
    assert pixels.shape == (32, 32, 3)
    assert pixels.dtype == np.uint8
    assert not is_grey
    np.testing.assert_allclose(pixels[16, 16], (250, 40, 90), atol=6)


def floats(left: float, right: float) -> bytes:
    image = Image.fromarray(np.repeat(np.array([[left, right]], np.float32), 2, axis=0))
    return encode(image.resize((64, 64), Image.Resampling.NEAREST), "TIFF")


RED, DEEP_ROW = (255, 0, 0), b"\x00" + struct.pack(">3H", 0x8080, 0x4040, 0xC0C0) * 4
MIXED = tuple(round(level * 127 / 255) for level in SKY)
# What is on the left and on the right, to so many grey levels; whether that is grey.
KINDS: dict[str, tuple[bytes, Any, Any, int, bool]] = {
    "16-bit grey": (encode(Image.fromarray(np.full((40, 40), 0x8080, np.uint16))),
                    128, 128, 0, True),
    "16-bit grey, big-endian": (encode(Image.frombytes("I;16B", (40, 40), b"\x40\x40" * 1600),
                                       "TIFF"), 64, 64, 0, True),
    "16-bit RGB": (png(4, 4, DEEP_ROW * 4, depth=16), (128, 64, 192), (128, 64, 192), 0, False),
    "floats of 0 to 1": (floats(0, 1), 0, 255, 0, True),
    "floats of any range": (floats(-10, 30), 0, 255, 0, True),
    "floats all alike": (floats(0.5, 0.5), 128, 128, 0, True),
    "half transparent": (encode(Image.new("RGBA", (8, 8), (0, 0, 0, 128))), MIXED, MIXED, 1, False),
    "palette with transparency": (encode(palette(), transparency=0), SKY, (0, 255, 0), 0, False),
    "grey with alpha": (encode(half("LA", (0, 0), (77, 255))), SKY, 77, 0, True),
    "grey, one value transparent": (encode(Image.new("L", (8, 8), 9), transparency=9),
                                    SKY, SKY, 0, True),
    "CMYK": (encode(Image.new("CMYK", (40, 40), (0, 255, 255, 0)), "JPEG"), RED, RED, 6, False),
    "grey JPEG": (encode(Image.new("L", (40, 40), 99), "JPEG"), 99, 99, 1, True),
    # Decoded at a fraction of the size, which must not make it RGB.
    "large grey JPEG": (encode(Image.new("L", (1000, 1000), 99), "JPEG"), 99, 99, 1, True),
    "grey stored as RGB": (encode(Image.new("RGB", (40, 40), (7, 7, 7))), 7, 7, 0, True),
    "almost grey": (encode(Image.new("RGB", (40, 40), (7, 7, 8))), (7, 7, 8), (7, 7, 8), 0, False),
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_odd_kinds_keep_their_colour(kind: str) -> None:
    data, left, right, levels, grey = KINDS[kind]
    pixels, is_grey = read(data)
    np.testing.assert_allclose(pixels[16, 0], np.broadcast_to(left, 3), atol=levels)
    np.testing.assert_allclose(pixels[16, -1], np.broadcast_to(right, 3), atol=levels)
    assert is_grey == grey


def test_shorter_side_is_scaled_and_the_centre_kept() -> None:
    image = Image.new("RGB", (300, 100), (255, 0, 0))
    image.paste((0, 0, 255), (100, 0, 200, 100))
    pixels, _ = read(encode(image))
    assert (pixels[:, 3:-3] == (0, 0, 255)).all()  # Lanczos mixes three px at an edge


def test_transparent_pixels_show_the_background() -> None:
    pixels, _ = read(encode(half("RGBA", (255, 0, 0, 0), (10, 20, 30, 255))))
    assert pixels[0, 0].tolist() == list(SKY)
    assert pixels[0, -1].tolist() == [10, 20, 30]
    # The invisible red must not bleed over the edge: red would lie above both colours.
    assert pixels[..., 0].max() <= SKY[0] + 25  # Lanczos overshoots a little


def test_one_bit_picture_is_smoothed() -> None:
    board = Image.fromarray(np.indices((128, 128)).sum(axis=0) % 2 == 1)
    pixels, is_grey = read(encode(board))
    assert is_grey
    assert 100 < pixels[16, 16, 0] < 155


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG"])
def test_first_frame_of_an_animation(kind: str) -> None:
    frames = [Image.new("RGB", (40, 40), c) for c in [(255, 0, 0), (0, 255, 0), (0, 0, 255)]]
    data = encode(frames[0], kind, save_all=True, append_images=frames[1:], duration=100)
    np.testing.assert_allclose(read(data)[0][16, 16], (255, 0, 0), atol=6)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(kind: str, orientation: int) -> None:
    undo = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    stored = quarters()
    if orientation in undo:
        stored = stored.transpose(undo[orientation])
    exif = Image.Exif()
    exif[0x0112] = orientation
    pixels, _ = read(encode(stored, kind, exif=exif))
    corners = [pixels[4, 4], pixels[4, -5], pixels[-5, 4], pixels[-5, -5]]
    expected = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)]
    np.testing.assert_allclose(corners, expected, atol=40)


def test_exif_orientation_of_a_wide_picture() -> None:
    """Stored lying on its side: the centre is cropped all the same."""
    stored = Image.new("RGB", (96, 32), (255, 0, 0))
    stored.paste((0, 0, 255), (32, 0, 64, 32))
    exif = Image.Exif()
    exif[0x0112] = 6
    assert (read(encode(stored, exif=exif))[0][2:-2] == (0, 0, 255)).all()


@pytest.mark.parametrize("size", [(1, 1), (20_000, 4), (4, 20_000), (1, 7)])
def test_extreme_shapes(size: tuple[int, int]) -> None:
    for kind in ("PNG", "JPEG"):
        pixels, _ = read(encode(Image.new("RGB", size, (20, 40, 60)), kind))
        np.testing.assert_allclose(pixels, np.broadcast_to((20, 40, 60), (32, 32, 3)), atol=3)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize(
    ("width", "height"), [(10_001, 10_000), (40_000, 10_000), (2**31 - 1, 2**31 - 1)]
)
def test_too_many_pixels_are_refused_before_decoding(width: int, height: int) -> None:
    """10,001 x 10,000 is refused here, the others by Pillow itself: one reason."""
    data = png(width, height, b"")  # would be damaged if decoded
    with pytest.raises(UnusablePictureError, match=rf"more than {MAX_PIXELS:,} px; scale it down"):
        read(data)


TURNED = b"MM\0*\0\0\0\x08\0\1\1\x12\0\3\0\0\0\1\0\3\0\0\0\0\0\0"  # EXIF: orientation 3
BODIES = {
    b"tEXt": b"Comment\0hi",
    b"pHYs": bytes(9),
    b"tIME": bytes(7),
    b"eXIf": b"MM\0*\0\0\0\x08\0\0\0\0\0\0",
    b"gAMA": bytes(4),
    b"cHRM": bytes(32),
    b"iCCP": b"x\0\0" + zlib.compress(b"profile"),
    b"acTL": bytes(8),
    b"PLTE": bytes(6),  # only proposes colours, and this says what is transparent
    b"tRNS": bytes(6),
}
MUCH = zlib.compress(bytes(50_000_000))
TOO_LARGE = {
    b"iCCP": b"x\0\0" + MUCH,
    b"zTXt": b"x\0\0" + MUCH,
    b"iTXt": b"XML:com.adobe.xmp\0\1\0\0\0" + MUCH,
}


def spoilt_pngs() -> dict[str, bytes]:
    """Chunks that are no part of the picture, damaged, before the pixels and after them."""
    chunks = {
        **{f"{name!r}, sum": chunk(name, body, 1) for name, body in BODIES.items()},
        **{f"{name!r}, short": chunk(name, body[:2]) for name, body in BODIES.items()},
        **{f"{name!r}, large": chunk(name, body) for name, body in TOO_LARGE.items()},
        "no EXIF": chunk(b"eXIf", b"junk" * 10),
        "no raw EXIF": chunk(
            b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(b"exif\n1\n2\nnot hex")
        ),
    }
    clean = encode(NOISE)
    return {
        f"{name}, {where}": clean[:at] + spoilt + clean[at:]
        for name, spoilt in chunks.items()
        for where, at in (("before", 33), ("after", -12))
    }


def spoilt_jpegs() -> dict[str, bytes]:
    """Segments that are too short for what their names promise."""
    clean = encode(NOISE, "JPEG")
    bodies = (b"JFIF", b"JFIF\0\1", b"Adobe", b"Adobe\0", b"ICC_PROFILE\0", b"ICC_PROFILE\0\1",
              b"Photoshop 3.0\x008BIM\x03\xed", b"Exif\0\0junk")  # fmt: skip
    markers = {b"J": 0xE0, b"A": 0xEE, b"I": 0xE2, b"P": 0xED, b"E": 0xE1}
    return {
        repr(body): clean[:2]
        + struct.pack(">BBH", 0xFF, markers[body[:1]], 2 + len(body))
        + body
        + clean[20:]  # without the JFIF segment
        for body in bodies
    }


SPOILT = {
    "PNG": spoilt_pngs(),
    "JPEG": spoilt_jpegs(),
    "WEBP": {"no EXIF": encode(NOISE, "WEBP", lossless=True, exif=b"junk" * 10)},
}


@pytest.mark.filterwarnings("ignore:Invalid APNG", "ignore:Truncated File Read")
@pytest.mark.parametrize(
    ("kind", "what"), [(kind, what) for kind, files in SPOILT.items() for what in files]
)
def test_damage_beside_the_pixels_costs_no_picture(kind: str, what: str) -> None:
    clean, _ = read(encode(NOISE, kind, **({"lossless": True} if kind == "WEBP" else {})))
    pixels, _ = read(SPOILT[kind][what])
    np.testing.assert_array_equal(pixels, clean)


def test_a_damaged_transparency_leaves_the_colours_of_a_palette() -> None:
    clean = encode(palette())
    at = clean.index(b"IDAT") - 4
    decoded = decode(io.BytesIO(clean[:at] + chunk(b"tRNS", b"\0", 1) + clean[at:]), SPEC)
    assert decoded.pixels[16, ::31].tolist() == [[255, 0, 0], [0, 255, 0]]


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_a_whole_exif_beside_a_damaged_text_still_says_which_way_is_up(kind: str) -> None:
    clean = encode(quarters(), kind)
    if kind == "PNG":
        data = clean[:33] + chunk(b"eXIf", TURNED) + chunk(b"tEXt", b"a\0b", 1) + clean[33:]
    else:
        exif = b"Exif\0\0" + TURNED
        data = b"\xff\xd8\xff\xe1" + struct.pack(">H", 2 + len(exif)) + exif
        data += b"\xff\xe0\0\6JFIF" + clean[20:]
    decoded = decode(io.BytesIO(data), SPEC)
    np.testing.assert_allclose(decoded.pixels[28, 28], (255, 0, 0), atol=6)
    np.testing.assert_allclose(decoded.pixels[4, 4], (255, 255, 255), atol=6)


def test_cmyk_colours_survive_a_damaged_profile() -> None:
    """Whether they are inverted is said by the Adobe segment, which stands beside the pixels."""
    clean = encode(Image.new("CMYK", (40, 40), (0, 255, 255, 0)), "JPEG")
    pixels, _ = read(clean[:2] + b"\xff\xe2\0\x0eICC_PROFILE\0" + clean[2:])
    np.testing.assert_allclose(pixels[16, 16], (255, 0, 0), atol=6)


@pytest.mark.parametrize("damage", ["cut", "changed"])
def test_damaged_pixels_stay_damaged_beside_a_damaged_text(damage: str) -> None:
    clean = encode(NOISE)
    data = bytearray(clean[:33] + chunk(b"tEXt", b"a\0b", 1) + clean[33:])
    if damage == "cut":
        del data[-900:]
    else:
        data[-300] ^= 1
    with pytest.raises(UnusablePictureError, match="damaged"):
        read(bytes(data))


@pytest.mark.parametrize("side_px", [10_001, 2**31])
def test_too_many_pixels_beside_a_damaged_text_are_not_decoded(side_px: int) -> None:
    spoilt = chunk(b"tEXt", b"a\0b", 1)
    data = png(side_px, side_px, b"")
    with pytest.raises(UnusablePictureError):
        read(data[:33] + spoilt + data[33:])


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty file"),
        (b"<!DOCTYPE html><html>Quota exceeded", "HTML page"),
        (b"\n  <html><head>", "HTML page"),
        (b"version https://git-lfs.github.com/spec/v1\noid", "git lfs pull"),
        (b'<?xml version="1.0"?>\n<svg width="3">', "SVG"),
        (b"\x00\x00\x00\x18ftypheic\x00\x00", "HEIC"),
        (b"\xff\xd8\xff\xe0", "damaged: the header"),
        (b"\x1f\x8b\x08\0rest", "packed by gzip; unpack it, or of MNIST give --data mnist"),
        (b"\0\0\x08\3\0\0\0\5", "MNIST; give --data mnist"),
        (b"just some text, and more of it", "not a picture"),
        (bytes(4096), "not a picture"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not a picture"),
        (encode(Image.fromarray(np.full((4, 4), np.nan, np.float32)), "TIFF"), "not finite"),
    ],
)
def test_what_is_no_picture_is_named(data: bytes, reason: str) -> None:
    with pytest.raises(UnusablePictureError, match=reason):
        read(data)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"])
def test_truncation_never_escapes_and_never_hangs(kind: str) -> None:
    data = encode(NOISE, kind)
    for length in range(1, len(data) - 200, max(1, len(data) // 25)):
        with pytest.raises(UnusablePictureError) as caught:
            read(data[:length])
        assert "\n" not in str(caught.value)
        assert 0 < len(str(caught.value)) < 250


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF"])
def test_flipped_bytes_never_escape(kind: str) -> None:
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (24, 24, 3), np.uint8)
    clean = np.frombuffer(encode(Image.fromarray(noise), kind), np.uint8)
    for _ in range(60):
        data = clean.copy()
        data[rng.integers(0, min(len(data), 400), 4)] = rng.integers(0, 256, 4)
        try:
            pixels, _ = read(data.tobytes())
        except UnusablePictureError:
            continue
        assert pixels.shape == (32, 32, 3)


@pytest.mark.parametrize(
    "error",
    [MemoryError(), RuntimeError("a\nb"), struct.error("x" * 9999), zlib.error("x"), KeyError(1)],
)
def test_any_error_becomes_a_reason(error: Exception) -> None:
    with pytest.raises(UnusablePictureError, match=r"^damaged: .{1,160}$"), reasons():
        raise error


def test_an_interrupt_is_not_a_reason() -> None:
    with pytest.raises(KeyboardInterrupt), reasons():
        raise KeyboardInterrupt


def test_colour() -> None:
    assert parse_colour("#c8d4E0") == SKY
    for wrong in ("c8d4e0", "#c8d4e", "#c8d4e00", "red", "#gggggg", "#c8d4e0\n", ""):
        with pytest.raises(ValueError, match="#rrggbb"):
            parse_colour(wrong)


def test_large_pictures_are_decoded_one_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pictures, "LARGE_PIXELS", 1000)
    inside: list[int] = [0]
    most: list[int] = [0]

    def look(image: Image.Image) -> Image.Image:
        inside[0] += 1
        most[0] = max(most[0], inside[0])
        time.sleep(0.01)
        inside[0] -= 1
        return image

    monkeypatch.setattr(pictures, "_to_8_bit", look)
    decode_together(40)
    assert most == [1]


def decode_together(width: int) -> None:
    made = [Image.new("RGB", (width, width)) for _ in range(8)]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda image: from_image(image, PictureSpec(image_size=32)), made))
