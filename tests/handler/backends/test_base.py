"""Many requests in few passes: each gets its own images back."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from handler.backends import base
from handler.backends.base import generate
from handler.pixels import Images


class Echo:
    """Each image is filled with the first number of its latent."""

    name, device, nz, image_shape = "echo", "cpu", 2, (3, 4, 1)

    def __init__(self, fits: int = 1000) -> None:
        self.batches: list[int] = []
        self.freed = 0
        self.fits = fits  # images that the memory has room for

    def free_memory(self) -> None:
        self.freed += 1

    def __call__(self, latents: npt.NDArray[np.float32]) -> Images:
        if len(latents) > self.fits:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        self.batches.append(len(latents))
        return latents[:, 0].astype(np.uint8).repeat(12).reshape(-1, 3, 4, 1)


def rows(*values: int) -> npt.NDArray[np.float32]:
    return np.array([[value, 99] for value in values], np.float32)


def values(results: Sequence[Images | None]) -> list[list[int] | None]:
    """What each image is filled with, by request."""
    return [None if images is None else images[:, 0, 0, 0].tolist() for images in results]


@pytest.mark.parametrize("most", [1, 2, 3, 4, 64])
def test_images_come_back_to_their_request(most: int) -> None:
    echo = Echo()
    results = generate(echo, [rows(1, 2, 3), rows(4), rows(5, 6)], most)
    assert values(results) == [[1, 2, 3], [4], [5, 6]]
    assert all(i is not None and i.dtype == np.uint8 and i.flags.c_contiguous for i in results)
    assert max(echo.batches) <= most
    assert len(echo.batches) == -(-6 // most)


@pytest.mark.parametrize(
    ("deadline", "made"),
    [(0, []), (1, [[1, 2, 3]]), (2, [[1, 2, 3]]), (3, [[1, 2, 3], [4], [5, 6, 7]])],
)
def test_no_pass_is_begun_after_the_deadline(
    deadline: int, made: list[list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Passes of 3 images; each takes 1 on the clock."""
    echo = Echo()
    monkeypatch.setattr(base, "perf_counter", lambda: len(echo.batches))
    results = generate(echo, [rows(1, 2, 3), rows(4), rows(5, 6, 7)], 3, deadline)
    expected: list[Any] = [*made, None, None, None][:3]
    if deadline == 2:
        expected[1] = [4]  # in the second pass, with two of the last three
    assert values(results) == expected
    assert len(echo.batches) == deadline


def test_no_requests() -> None:
    echo = Echo()
    assert generate(echo, [], 4) == []
    assert echo.batches == []


@pytest.mark.parametrize("fits", [1, 2, 3, 5, 7])
def test_what_does_not_fit_is_made_in_halves(fits: int) -> None:
    echo = Echo(fits)
    results = generate(echo, [rows(*range(5)), rows(*range(5, 13))], 13)
    assert values(results) == [[*range(5)], [*range(5, 13)]]
    assert sum(echo.batches) == 13
    assert echo.freed > 0


def test_no_room_for_one_image_is_passed_on() -> None:
    echo = Echo(fits=0)
    with pytest.raises(torch.OutOfMemoryError):
        generate(echo, [rows(1, 2, 3)], 4)
    assert echo.freed > 0  # before the next request is tried


def test_another_failure_is_passed_on_at_once() -> None:
    class Failing(Echo):
        def __call__(self, latents: npt.NDArray[np.float32]) -> Images:
            raise RuntimeError(f"no such operator for {len(latents)}")

    failing = Failing()
    with pytest.raises(RuntimeError, match="for 2"):
        generate(failing, [rows(1, 2)], 4)
    assert failing.freed == 0
