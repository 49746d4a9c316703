"""Same request, same image: alone or in any batch, on any worker, any backend, after a restart.

Bit by bit in float32 on a CPU; where ``precision: auto`` means short floats, to a few grey levels.
The archive is repacked with other settings of its model-config.yaml and served beside the
server that the other tests use.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests
import yaml

from deploy.server import ROOT, Ports, Server
from tests.support.pixels import assert_same, precision_of

BODIES: list[dict[str, Any]] = [
    *({"seed": seed} for seed in range(16)),
    *({"seed": 100 + count, "num_images": count} for count in (2, 3, 5, 7, 31, 64, 65, 100)),
    {"walk": {"between": [1, 7, 42], "steps": 9}},
    {"mix": [{"weight": 1, "seeds": [1, 2, 3]}, {"weight": -1, "seeds": [4, 5, 6]}]},
    {"noise": np.linspace(-2, 2, 300).reshape(3, 100).tolist()},
]
HOSTILE: list[Any] = [{"seed": -1}, {"sede": 1}, [1], {"noise": [[1.0]]}, {"format": "x"}] * 3
Settings = Callable[[dict[str, Any]], None]


def repack(folder: Path, change: Settings) -> None:
    """dcgan.mar in ``folder``, with its model-config.yaml changed."""
    with (
        zipfile.ZipFile(ROOT / "model_store" / "dcgan.mar") as packed,
        zipfile.ZipFile(folder / "dcgan.mar", "w") as changed,
    ):
        for entry in packed.infolist():
            data = packed.read(entry)
            if entry.filename == "model-config.yaml":
                config = yaml.safe_load(data)
                change(config)
                data = yaml.safe_dump(config).encode()
            changed.writestr(entry, data)


@contextmanager
def served(folder: Path) -> Iterator[Server]:
    """A server of the archive in ``folder``."""
    live = Server(folder, folder, Ports.free())
    with live.running():
        yield live


def ask_together(server: Server, extra: dict[str, Any]) -> list[bytes]:
    """Every body at once, among requests that must be refused."""

    def post(body: dict[str, Any]) -> bytes:
        reply = requests.post(server.predict_url, json={**body, **extra}, timeout=60)
        assert reply.status_code == 200, reply.text
        return reply.content

    with ThreadPoolExecutor(len(BODIES) + len(HOSTILE)) as pool:
        refused = [pool.submit(requests.post, server.predict_url, json=b) for b in HOSTILE]
        answered = list(pool.map(post, BODIES))
        assert [reply.result().status_code for reply in refused] == [400] * len(HOSTILE)
        return answered


def in_float32(config: dict[str, Any]) -> None:
    config["handler"]["precision"] = "float32"


@pytest.fixture(scope="module")
def exact(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("exact")
    repack(folder, in_float32)
    with served(folder) as live:
        yield live


@pytest.fixture(scope="module")
def expected(exact: Server) -> list[bytes]:
    return [requests.post(exact.predict_url, json=body, timeout=60).content for body in BODIES]


def test_in_one_batch_as_alone(exact: Server, expected: list[bytes]) -> None:
    assert ask_together(exact, {}) == expected


def test_as_shipped_close_to_float32(server: Server, exact: Server) -> None:
    as_npy = {"format": "npy"}
    for ours, theirs in zip(ask_together(server, as_npy), ask_together(exact, as_npy), strict=True):
        pictures = np.load(io.BytesIO(ours)), np.load(io.BytesIO(theirs))
        assert_same(*pictures, precision_of(server), float32_levels=0)


def test_on_any_worker_in_small_batches_and_after_a_restart(
    tmp_path: Path, expected: list[bytes]
) -> None:
    def two_workers(config: dict[str, Any]) -> None:
        config |= {"minWorkers": 2, "maxWorkers": 2, "batchSize": 8, "maxBatchDelay": 20}
        config["handler"]["limits"]["max_batch_images"] = 16
        in_float32(config)

    repack(tmp_path, two_workers)
    for _ in range(2):
        with served(tmp_path) as live:
            for _ in range(3):
                assert ask_together(live, {}) == expected


@pytest.mark.parametrize("backend", ["torchscript", "packed"])
def test_other_backends_give_the_pixels_of_onnx_to_one_grey_level(
    tmp_path: Path, exact: Server, backend: str
) -> None:
    def chosen(config: dict[str, Any]) -> None:
        config["handler"]["backend"] = backend
        in_float32(config)

    repack(tmp_path, chosen)
    as_npy = {"format": "npy"}
    onnx = [np.load(io.BytesIO(reply)) for reply in ask_together(exact, as_npy)]
    with served(tmp_path) as live:
        alone = requests.post(live.predict_url, json=BODIES[0], timeout=60)
        assert alone.headers["x-backend"] == backend
        replies = ask_together(live, as_npy)
        assert replies == ask_together(live, as_npy)
    for ours, theirs in zip(onnx, (np.load(io.BytesIO(r)) for r in replies), strict=True):
        assert ours.shape == theirs.shape
        assert np.abs(ours.astype(int) - theirs).max() <= 1
