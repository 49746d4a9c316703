"""How far pictures of one request may be apart: another processor or backend rounds otherwise."""

from typing import Any

import numpy as np
import numpy.typing as npt
import requests

from deploy.server import Server

LEAST_PSNR_DB = 45.0  # of short floats; the parity report of the archive has what is usual
MOST_GREY_LEVELS = 40  # the same, at the hardest edge: 29 among 6,000 seeds of the shipped weights


def precision_of(server: Server) -> str:
    """What the server computes in."""
    return requests.post(server.predict_url, json={}, timeout=60).headers["x-precision"]


def assert_same(ours: npt.NDArray[Any], theirs: npt.NDArray[Any], precision: str) -> None:
    """uint8 pictures of any shape: to one grey level in float32, close in short floats."""
    assert ours.shape == theirs.shape
    difference = np.abs(ours.astype(int) - theirs)
    if precision == "float32":
        assert difference.max() <= 1
        return
    assert difference.max() <= MOST_GREY_LEVELS
    psnr_db = 20 * np.log10(255 / max(1e-9, float(np.sqrt(np.mean(difference**2)))))
    assert psnr_db >= LEAST_PSNR_DB
