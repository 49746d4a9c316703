"""Many requests in few passes: each gets its own images back."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from handler.batching import generate
from handler.images import Images

pytestmark = pytest.mark.unit


class Echo:
    """Each image is filled with the first number of its latent."""

    name, device, nz, image_shape = "echo", "cpu", 2, (3, 4, 1)

    def __init__(self) -> None:
        self.batches: list[int] = []

    def __call__(self, latents: npt.NDArray[np.float32]) -> Images:
        self.batches.append(len(latents))
        return np.broadcast_to(
            latents[:, 0].astype(np.uint8)[:, None, None, None], (len(latents), 3, 4, 1)
        )


def rows(*values: int) -> npt.NDArray[np.float32]:
    return np.array([[value, 99] for value in values], np.float32)


@pytest.mark.parametrize("most", [1, 2, 3, 4, 64])
def test_images_come_back_to_their_request(most: int) -> None:
    echo = Echo()
    results = generate(echo, [rows(1, 2, 3), rows(4), rows(5, 6)], most)
    assert [images[:, 0, 0, 0].tolist() for images in results] == [[1, 2, 3], [4], [5, 6]]
    assert all(images.dtype == np.uint8 and images.flags.c_contiguous for images in results)
    assert max(echo.batches) <= most
    assert len(echo.batches) == -(-6 // most)


def test_no_requests() -> None:
    echo = Echo()
    assert generate(echo, [], 4) == []
    assert echo.batches == []


def test_a_failure_is_passed_on() -> None:
    class Failing(Echo):
        def __call__(self, latents: npt.NDArray[np.float32]) -> Images:
            raise RuntimeError(f"no memory for {len(latents)}")

    with pytest.raises(RuntimeError, match="no memory for 1"):
        generate(Failing(), [rows(1)], 4)
