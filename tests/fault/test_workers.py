"""A worker that is killed, hangs, or is overrun: who notices, and what comes after."""

import contextlib
import json
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest
import requests

from deploy.server import Ports, Server
from tests.support import live

LONG = {"seed": 1, "num_images": 256}


@pytest.fixture(scope="module")
def fragile(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server for these tests alone, of little patience and with a short queue."""
    folder = tmp_path_factory.mktemp("fragile")
    impatient = {"responseTimeout": 8, "jobQueueSize": 80}
    store = live.edited_archive(folder / "store", config=impatient)
    quiet = (("DCGAN_LOG_LEVEL", "error"),)
    made = Server(folder / "server", store, Ports.free(), environment=quiet)
    with made.running():
        yield made


def is_busy(process: psutil.Process) -> bool:
    """Whether it works: a worker that waits for a request uses no processor."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return process.cpu_percent(0.05) > 20
    return False


def test_killed_in_mid_batch(fragile: Server) -> None:
    right = live.post(fragile, live.GOOD).content
    before = live.worker(fragile)
    parent = live.java(before)
    with ThreadPoolExecutor(9) as pool:
        victim = pool.submit(live.post, fragile, LONG)
        live.wait(lambda: is_busy(before))
        waiting = [pool.submit(live.post, fragile, live.GOOD) for _ in range(8)]
        before.kill()
        reply = victim.result()
        # 507 when TorchServe sees the exit code of SIGKILL in time, else 500.
        assert reply.status_code in (500, 507)
        assert reply.json()["message"] == "Worker died."
        for later in (future.result() for future in waiting):
            # In the batch with the victim, or kept in the queue for the next worker.
            assert later.content == right or later.status_code in (500, 503, 507)
    live.wait(lambda: live.post(fragile, live.GOOD).status_code == 200)
    assert live.post(fragile, live.GOOD).content == right
    after = live.worker(fragile)
    assert after.pid != before.pid
    assert live.is_gone(before)
    assert live.java(after) == parent  # the front end lived on
    assert live.workers(parent) == [after]
    assert [path.name for path in (fragile.folder / "tmp").glob(".ts.sock*")] == [".ts.sock.9000"]


def test_hung(fragile: Server) -> None:
    """SIGSTOP: alive, silent, and deaf to SIGTERM."""
    right = live.post(fragile, live.GOOD).content
    before = live.worker(fragile)
    before.send_signal(signal.SIGSTOP)
    reply = live.post(fragile, live.GOOD)
    assert reply.status_code == 500
    assert reply.json()["message"] == "Worker died."
    live.wait(lambda: live.post(fragile, live.GOOD).status_code == 200)
    assert live.post(fragile, live.GOOD).content == right
    assert live.worker(fragile).pid != before.pid
    live.wait(lambda: live.is_gone(before))
    lines = [json.loads(line) for line in fragile.log.read_text().splitlines()]
    assert any(line["level"] == "error" for line in lines)  # though the level hides all else


def test_a_queue_that_is_full_and_a_worker_that_is_gone_are_told_apart(fragile: Server) -> None:
    """Both are 503 to a client of TorchServe; the description says which."""

    def described() -> dict[str, object]:
        return requests.get(fragile.describe_url, timeout=30).json()[0]

    size = described()["jobQueueStatus"]["remainingCapacity"]
    crowd = size + 60  # some are in the worker's batch
    before = live.worker(fragile)
    before.suspend()
    with ThreadPoolExecutor(crowd) as pool:
        futures = [pool.submit(live.post, fragile, live.GOOD) for _ in range(crowd)]
        live.wait(lambda: described()["jobQueueStatus"]["remainingCapacity"] == 0)
        assert described()["workers"][0]["status"] == "READY"
        overflow = live.post(fragile, live.GOOD)
        before.resume()
        replies = [future.result() for future in futures]
    assert overflow.status_code == 503
    assert overflow.json()["type"] == "ServiceUnavailableException"
    counted = [reply.status_code for reply in replies]
    assert set(counted) == {200, 503}
    assert counted.count(200) >= size
    assert live.worker(fragile) == before
    right = next(reply.content for reply in replies if reply.status_code == 200)
    before.kill()
    live.wait(lambda: described()["workers"][0]["status"] != "READY")
    with ThreadPoolExecutor(crowd) as pool:
        replies = list(pool.map(lambda _: live.post(fragile, live.GOOD, 120), range(crowd)))
    answered = [reply for reply in replies if reply.status_code == 200]
    assert len(answered) >= size  # they waited in the queue for the next worker
    assert {reply.content for reply in answered} == {right}
    refused = [reply for reply in replies if reply.status_code != 200]
    assert {(reply.status_code, reply.json()["message"]) for reply in refused} <= {
        (503, overflow.json()["message"])
    }


LOST = """

def _until_it_is_lost(self, latents, draw=OnnxBackend.__call__):
    import torch

    if getattr(self, "lost", False) or (latents == 99).any():
        self.lost = True  # as every call after it would fail
        raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")
    return draw(self, latents)


OnnxBackend.__call__ = _until_it_is_lost
"""


def test_a_gpu_that_is_lost_to_the_worker(tmp_path: Path) -> None:
    """The batch is answered, each request of it, before TorchServe starts another worker."""
    backend = "handler/backends/onnx.py"
    config = {"maxBatchDelay": 1000, "batchSize": 4, "handler": {"backend": "onnx"}}
    files: dict[live.Entry, bytes | None] = {backend: live.packed(backend) + LOST.encode()}
    store = live.edited_archive(tmp_path / "store", files, config)
    server = Server(tmp_path / "server", store, Ports.free())
    loses = {"noise": [99.0] * 100}
    with server.running(), ThreadPoolExecutor(8) as pool:
        right = live.post(server, live.GOOD).content
        before = live.worker(server)
        parent = live.java(before)
        batch = [pool.submit(live.post, server, each) for each in (loses, *[live.GOOD] * 3)]
        for reply in (future.result() for future in batch):
            assert (reply.status_code, reply.json()["type"]) == (500, "urn:dcgan:problem:internal")
        live.wait(lambda: live.is_gone(before), 30)
        assert server.reason_not_ready()
        assert live.post(server, live.GOOD, 120).content == right  # it waits for the next worker
        live.wait(lambda: not server.reason_not_ready())
        after = live.worker(server)
        assert after.pid != before.pid
        assert live.java(after) == parent
    assert live.is_gone(after)
    assert live.is_gone(parent)
    assert "the GPU is lost to this process" in server.log.read_text(encoding="utf-8")
