"""Our PNG files, read by two decoders that are not ours."""

from __future__ import annotations

import io
import zlib

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.io import ImageReadMode, decode_png

from handler import png

SIZES = [(1, 1), (1, 7), (7, 1), (5, 3), (64, 64), (101, 203)]


def picture(height: int, width: int, channels: int, kind: str) -> np.ndarray:
    shape = (height, width, channels)
    if kind == "flat":
        return np.full(shape, 200, np.uint8)
    return np.random.default_rng(0).integers(0, 256, shape, np.uint8)


@pytest.mark.parametrize("kind", ["flat", "noise"])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("height", "width"), SIZES)
def test_two_decoders_read_it_back(height: int, width: int, channels: int, kind: str) -> None:
    image = picture(height, width, channels, kind)
    data = png.encode(image, {})
    opened = Image.open(io.BytesIO(data))
    opened.verify()  # checksums
    by_pillow = np.asarray(Image.open(io.BytesIO(data))).reshape(image.shape)
    assert np.array_equal(by_pillow, image)
    assert opened.mode == {1: "L", 3: "RGB"}[channels]
    tensor = torch.frombuffer(bytearray(data), dtype=torch.uint8)
    decoded = decode_png(tensor, ImageReadMode.UNCHANGED)
    assert np.array_equal(decoded.permute(1, 2, 0).numpy(), image)
    assert len(data) <= png.worst_case_bytes(height, width, channels)


def test_noise_needs_nearly_the_bound_and_stays_below() -> None:
    data = png.encode(picture(1058, 1058, 3, "noise"), {})
    assert 0.99 < len(data) / png.worst_case_bytes(1058, 1058, 3) <= 1


def test_a_compressor_that_expands_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        png, "_deflate", lambda data, level: zlib.compress(data, level) + b"x" * 999
    )
    image = picture(5, 5, 3, "noise")
    data = png.encode(image, {})
    assert len(data) <= png.worst_case_bytes(5, 5, 3)
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(data))), image)


def test_text_chunks() -> None:
    text = {"dcgan": '{"seed":1}', "b c": "caf\xe9"}
    data = png.encode(picture(3, 3, 3, "flat"), text)
    assert Image.open(io.BytesIO(data)).info == text
    assert len(data) - len(png.encode(picture(3, 3, 3, "flat"), {})) == png.text_bytes(text)


@pytest.mark.parametrize("keyword", ["", "x" * 80, " x", "x ", "x  y", "x\n", "\u20ac"])
def test_a_keyword_that_png_forbids(keyword: str) -> None:
    with pytest.raises(ValueError, match="keyword"):
        png.encode(picture(3, 3, 3, "flat"), {keyword: ""})


def test_a_nul_in_the_text() -> None:
    with pytest.raises(ValueError, match="NUL"):
        png.encode(picture(3, 3, 3, "flat"), {"a": "b\0"})


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((4, 4, 3), np.float32),
        np.zeros((4, 4), np.uint8),
        np.zeros((4, 4, 4), np.uint8),
        np.zeros((0, 4, 3), np.uint8),
        np.zeros((4, 8, 3), np.uint8)[:, ::2],
    ],
)
def test_an_image_it_cannot_encode(image: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"encode|contiguous"):
        png.encode(image, {})
