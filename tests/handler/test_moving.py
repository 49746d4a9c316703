"""Our moving pictures, read by Pillow and by a browser."""

import base64
import io
import json
import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Page

from handler import moving
from handler.pixels import Images
from handler.wire import MEDIA_TYPES, MOVING, Moving
from tests.support.gallery_browser import chromium, needs_chromium

TEXT = '{"model":"<&>","request":{"seed":1}}'
SHAPES = [(64, 64, 3), (64, 64, 1), (7, 5, 3), (1, 1, 1), (256, 256, 3), (61, 90, 1)]


def frames_of(name: str, *shape: int) -> Images:
    """4 frames: the second, as the third, is the first one's equal; or any."""
    noise = np.random.default_rng(0).integers(0, 256, (4, *shape), np.uint8)
    if name == "noise":
        return noise
    return np.ascontiguousarray(noise[[0, 0, 0, 1]] // 64 * 64)


def encoded(kind: Moving, frames: Images, fps: float = 12, loop: int = 0) -> bytes:
    return moving.encode(kind, frames, TEXT, fps, loop, small=True)


def by_pillow(data: bytes) -> tuple[list[np.ndarray], list[float], Image.Image]:
    """Frames, ms that each lasts, and the picture."""
    picture = Image.open(io.BytesIO(data))
    frames, lasting = [], []
    for i in range(getattr(picture, "n_frames", 1)):
        picture.seek(i)
        frames.append(np.asarray(picture.convert("RGB")))
        lasting.append(picture.info["duration"])
    return frames, lasting, picture


def as_rgb(frame: np.ndarray) -> np.ndarray:
    return np.broadcast_to(frame, (*frame.shape[:2], 3))


def near(kind: Moving, found: np.ndarray, frame: np.ndarray) -> bool:
    """Equal, but for the colours of a GIF."""
    if kind == "gif" and frame.shape[2] == 3:
        return bool(np.abs(found.astype(int) - frame).mean() < 20)
    return np.array_equal(found, as_rgb(frame))


@pytest.mark.parametrize("kind", MOVING)
@pytest.mark.parametrize("name", ["noise", "equal"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_every_image_is_a_frame_and_no_file_is_longer_than_was_foreseen(
    kind: Moving, name: str, shape: tuple[int, int, int]
) -> None:
    frames = frames_of(name, *shape)
    once, one = moving.likely_bytes(kind, shape, TEXT)
    for small in (True, False):
        data = moving.encode(kind, frames, TEXT, 12, 0, small)
        assert len(data) <= once + len(frames) * one
        found, lasting, picture = by_pillow(data)
        assert picture.format == ("PNG" if kind == "apng" else kind.upper())
        assert len(found) == len(frames)
        assert all(map(near, [kind] * 4, found, frames))
        assert lasting == ([80, 90, 80, 80] if kind == "gif" else [83, 84, 83, 83])


@pytest.mark.parametrize("kind", MOVING)
def test_the_recipe_is_in_the_file(kind: Moving) -> None:
    info = by_pillow(encoded(kind, frames_of("noise", 8, 8, 3)))[2].info
    if kind == "apng":
        text = info["dcgan"]
    elif kind == "gif":
        text = info["comment"].decode("ascii")
    else:
        text = ElementTree.fromstring(info["xmp"]).findtext(".//{*}description//{*}li")
    assert json.loads(text) == json.loads(TEXT)


@pytest.mark.parametrize("kind", MOVING)
def test_a_text_of_any_length_is_foreseen(kind: Moving) -> None:
    frames = frames_of("noise", 2, 2, 3)[:1]
    for length in (0, 1, 254, 255, 256, 510, 511):
        text = "<" * length
        once, one = moving.likely_bytes(kind, (2, 2, 3), text)
        data = moving.encode(kind, frames, text, 12, 0, small=True)
        assert len(data) <= once + one
        assert by_pillow(data)[2].size == (2, 2)


@pytest.mark.parametrize(
    ("fps", "count", "gif", "others"),
    [
        (50, 3, [20, 20, 20], [20, 20, 20]),
        (40, 4, [20, 30, 30, 20], [25, 25, 25, 25]),
        (30, 3, [30, 40, 30], [33, 34, 33]),
        (0.1, 1, [10_000], [10_000]),
    ],
)
def test_frames_last_as_long_as_they_should(
    fps: float, count: int, gif: list[int], others: list[int]
) -> None:
    frames = np.zeros((count, 2, 2, 3), np.uint8)
    for kind in MOVING:
        _, lasting, _ = by_pillow(encoded(kind, frames, fps))
        assert lasting == (gif if kind == "gif" else others)


@pytest.mark.parametrize("loop", [0, 1, 2, 65_535])
@pytest.mark.parametrize("kind", MOVING)
def test_how_often_it_is_played(kind: Moving, loop: int) -> None:
    info = by_pillow(encoded(kind, frames_of("noise", 4, 4, 3), loop=loop))[2].info
    if kind == "gif":  # after the first time, and nothing for once
        assert info.get("loop") == {0: 0, 1: None}.get(loop, loop - 1)
    else:
        assert info["loop"] == loop


@pytest.mark.parametrize("kind", MOVING)
def test_the_file_is_the_same_from_any_number_of_threads(kind: Moving) -> None:
    frames = frames_of("noise", 32, 32, 3)
    with ThreadPoolExecutor(3) as threads:
        found = moving.encode(kind, frames, TEXT, 12, 0, small=True, run=threads.map)
    assert found == encoded(kind, frames)


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    empty = tmp_path_factory.mktemp("page") / "empty.html"
    empty.write_text("<!doctype html>")
    with chromium() as browser:
        opened = browser.new_page()
        opened.goto(empty.as_uri())
        yield opened


# WebCodecs: what the browser itself draws.
DECODE = """async ([data, type]) => {
  const bytes = Uint8Array.from(atob(data), c => c.charCodeAt(0));
  const decoder = new ImageDecoder({data: bytes, type});
  await decoder.tracks.ready;
  await decoder.completed;
  const track = decoder.tracks.selectedTrack, frames = [];
  for (let i = 0; i < track.frameCount; i++) {
    const {image} = await decoder.decode({frameIndex: i});
    const canvas = new OffscreenCanvas(image.displayWidth, image.displayHeight);
    const drawn = canvas.getContext("2d");
    drawn.drawImage(image, 0, 0);
    const {data} = drawn.getImageData(0, 0, canvas.width, canvas.height);
    frames.push([image.duration / 1000, Array.from(data)]);
  }
  return {frames, repeats: track.repetitionCount};
}"""


@needs_chromium
@pytest.mark.parametrize("loop", [0, 1, 3])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("kind", MOVING)
def test_a_browser_sees_the_same(page: Page, kind: Moving, channels: int, loop: int) -> None:
    frames = frames_of("equal", 16, 24, channels)
    data = base64.b64encode(encoded(kind, frames, 20, loop)).decode("ascii")
    media = "image/png" if kind == "apng" else MEDIA_TYPES[kind]
    found: dict[str, Any] = page.evaluate(DECODE, [data, media])
    assert [lasts for lasts, _ in found["frames"]] == [50] * 4
    for (_, levels), frame in zip(found["frames"], frames, strict=True):
        drawn = np.array(levels, np.uint8).reshape(16, 24, 4)
        assert np.array_equal(drawn[..., :3], as_rgb(frame))
    assert found["repeats"] == (math.inf if loop == 0 else loop - 1)
