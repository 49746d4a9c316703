"""Pictures of many pixels, which are allowed, do not exhaust the memory."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from PIL import Image

from training.data import decode as pictures
from training.data.decode import MAX_PIXELS, PictureSpec, from_image

SCALE = """
import resource
from PIL import Image
from training.data.decode import PictureSpec, from_image

def peak_bytes():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

image = Image.new("{mode}", {size}, 1)
before = peak_bytes()
from_image(image, PictureSpec())
print(peak_bytes() - before)
"""


@pytest.mark.parametrize("mode", ["F", "I;16"])
def test_the_largest_pictures_are_scaled_in_little_memory(mode: str) -> None:
    """Beside what Pillow needs for them itself; in a process of its own."""
    size = (9_900, 10_000)
    assert 0.98 < size[0] * size[1] / MAX_PIXELS < 1
    command = [sys.executable, "-c", SCALE.format(mode=mode, size=size)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    # A byte a pixel for the result, and some rows of floats.
    assert int(done.stdout) < 2.5 * size[0] * size[1]


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


def test_small_pictures_are_not_held_up(monkeypatch: pytest.MonkeyPatch) -> None:
    together = threading.Barrier(4, timeout=60)

    def look(image: Image.Image) -> Image.Image:
        together.wait()
        return image

    monkeypatch.setattr(pictures, "_to_8_bit", look)
    decode_together(40)


def decode_together(width: int) -> None:
    made = [Image.new("RGB", (width, width)) for _ in range(8)]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda image: from_image(image, PictureSpec(image_size=32)), made))
