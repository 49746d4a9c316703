"""Our PNG files, read by two decoders that are not ours."""

import io
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.io import ImageReadMode, decode_png

from handler import png

# The last two with 3 channels: two whole stored blocks, and one byte more.
SIZES = [(1, 1), (1, 7), (7, 1), (5, 3), (64, 64), (101, 203), (3855, 11), (1, 43690)]


def picture(height: int, width: int, channels: int, kind: str) -> np.ndarray:
    shape = (height, width, channels)
    if kind == "flat":
        return np.full(shape, 200, np.uint8)
    return np.random.default_rng(0).integers(0, 256, shape, np.uint8)


@pytest.mark.parametrize("small", [False, True])
@pytest.mark.parametrize("kind", ["flat", "noise"])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("height", "width"), SIZES)
def test_two_decoders_read_it_back(
    height: int, width: int, channels: int, kind: str, small: bool
) -> None:
    image = picture(height, width, channels, kind)
    data = png.encode(image, "", small)
    opened = Image.open(io.BytesIO(data))
    opened.verify()  # checksums
    by_pillow = np.asarray(Image.open(io.BytesIO(data))).reshape(image.shape)
    assert np.array_equal(by_pillow, image)
    assert opened.mode == {1: "L", 3: "RGB"}[channels]
    tensor = torch.frombuffer(bytearray(data), dtype=torch.uint8)
    decoded = decode_png(tensor, ImageReadMode.UNCHANGED)
    assert np.array_equal(decoded.permute(1, 2, 0).numpy(), image)
    assert len(data) <= png.worst_case_bytes(height, width, channels)


@pytest.mark.parametrize("shape", [(64, 64, 3), (1058, 1058, 3), (1, 65534, 1)])
def test_what_is_not_deflated_has_as_many_bytes_as_the_bound(shape: tuple[int, int, int]) -> None:
    flat, noise = picture(*shape, "flat"), picture(*shape, "noise")
    assert len(png.encode(flat, "", small=False)) == png.worst_case_bytes(*shape)
    assert len(png.encode(noise, "", small=True)) <= png.worst_case_bytes(*shape)
    assert len(png.encode(flat, "", small=True)) < png.worst_case_bytes(*shape) / 10


def test_a_grid_is_the_same_file_from_any_number_of_threads() -> None:
    image = picture(300, 300, 3, "flat")
    image[::7] = picture(43, 300, 3, "noise")
    alone = png.encode(image, "", small=True)
    with ThreadPoolExecutor(3) as threads:
        assert png.encode(image, "", small=True, run=threads.map) == alone
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(alone))), image)
    assert len(alone) < 100_000  # of 270,000


def test_a_file_does_not_depend_on_where_the_memory_lies() -> None:
    """A thread's memory lies elsewhere. Each picture begins otherwise and has its beginning once
    more, so that a compressor that hashes its own address, to one of 8,192 slots, shows it."""
    image = picture(4, 48, 3, "flat")
    begins = np.random.default_rng(0).integers(0, 256, (40_000, 3), np.uint8)

    def files() -> list[int]:
        found = []
        for begin in begins:
            image[0, 0] = image[0, 20] = begin
            image[0, 19, 2] = 2  # the number of the filter, which stands before the first pixel
            found.append(hash(png.encode(image, "", small=True)))
        return found

    with ThreadPoolExecutor(1) as elsewhere:
        assert elsewhere.submit(files).result() == files()


def test_a_compressor_that_expands_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(png, "_segment", lambda data, _: bytes(data) + b"x" * 999)
    image = picture(5, 5, 3, "noise")
    data = png.encode(image, "", small=True)
    assert len(data) <= png.worst_case_bytes(5, 5, 3)
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(data))), image)


def test_its_text() -> None:
    image, text = picture(3, 3, 3, "flat"), '{"seed":1}'
    data, bare = (png.encode(image, told, small=True) for told in (text, ""))
    assert Image.open(io.BytesIO(data)).info == {"dcgan": text}
    assert Image.open(io.BytesIO(bare)).info == {}
    assert len(data) - len(bare) == png.text_bytes(text)
