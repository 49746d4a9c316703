"""More to draw than can be drawn in time: told so, and no worker dies of it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import requests
import torch

from deploy.server import ROOT, Ports, Server
from tests.support import live
from training.networks import new_generator
from training.weights import save_generator

TIMEOUT_S = 6
CHANGES = {
    "model-config.yaml": ("responseTimeout: 60 ", f"responseTimeout: {TIMEOUT_S} "),
    "handler/backends/base.py": (
        "        parts = np.array_split(",
        "        __import__('time').sleep(0.02 * len(latents))\n        parts = np.array_split(",
    ),
}


def changed(name: str, content: bytes) -> bytes:
    old, new = CHANGES.get(name, ("", ""))
    assert old.encode() in content
    return content.replace(old.encode(), new.encode()) if old else content


@pytest.fixture(scope="module")
def slow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Pictures of 256 px, 20 ms or more for each, and little patience."""
    folder = tmp_path_factory.mktemp("slow")
    torch.manual_seed(0)
    weights = folder / "generator.safetensors"
    save_generator(weights, new_generator(100, 4, 3, 256).eval(), {"steps": 0})
    subprocess.run(
        [sys.executable, "-m", "export", "--weights", str(weights), "--out", str(folder)],
        cwd=ROOT, check=True, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    store = live.rewritten_archive(folder / "store", changed, folder / "dcgan.mar")
    made = Server(folder / "server", store, Ports.free())
    with made.running():
        yield made


def limits(server: Server) -> dict[str, Any]:
    reply = requests.get(server.describe_url, params={"customized": "true"}, timeout=30)
    told: dict[str, Any] = reply.json()[0]["customizedMetadata"]["limits"]
    return told


def test_a_batch_that_would_take_too_long_is_cut(slow: Server) -> None:
    told = limits(slow)
    assert told["max_batch_seconds"] == TIMEOUT_S / 2
    assert told["max_images"] == 30  # they fill a reply
    most = {"seed": 1, "num_images": 30, "padding": 0}
    assert live.post(slow, {**most, "num_images": 31}).status_code == 413
    before = live.worker(slow)
    with ThreadPoolExecutor(33) as pool:
        replies = list(pool.map(lambda _: live.post(slow, most), range(33)))
    answered = [reply for reply in replies if reply.status_code == 200]
    late = [reply for reply in replies if reply.status_code != 200]
    assert len({reply.content for reply in answered}) == 1
    assert late
    for reply in late:
        assert reply.status_code == 503
        assert reply.headers["Retry-After"] == str(TIMEOUT_S // 2)
        assert reply.json()["type"] == "urn:dcgan:problem:overloaded"
    assert live.worker(slow) == before
    assert live.post(slow, {"seed": 1}).status_code == 200
