"""SIGTERM under load without a drain before it; and a clock that jumps."""

import contextlib
import json
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import psutil
import pytest
import requests

from deploy.lifecycle import stop
from deploy.server import Ports, Server
from tests.support import live

FAKETIME = Path("/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1")
LONG = {"seed": 1, "num_images": 100}


def client(server: Server, right: bytes, seen: list[str]) -> None:
    """Asks again and again until nobody answers any more."""
    with contextlib.suppress(requests.RequestException), requests.Session() as session:
        while True:
            reply = session.post(server.predict_url, json=LONG, timeout=60)
            whole = reply.status_code == 200 and reply.content == right
            seen.append("whole" if whole else f"{reply.status_code} {reply.text[:100]}")


def test_sigterm_under_load(tmp_path: Path) -> None:
    """TorchServe drops what it works on: broken connections, but no wrong and no half reply."""
    server = Server(tmp_path / "server", live.STORE, Ports.free())
    with server.running() as process, ThreadPoolExecutor(8) as pool:
        family = psutil.Process(process.pid).children(recursive=True)
        right = live.post(server, LONG).content
        seen: list[str] = []
        clients = [pool.submit(client, server, right, seen) for _ in range(8)]
        live.wait(lambda: len(seen) > 8)
        stop(process.pid)
        for each in clients:
            each.result()
        assert set(seen) == {"whole"}
        assert all(live.is_gone(member) for member in family)
    assert server.ports.taken() == []


@pytest.mark.long  # it slows Java down tenfold
@pytest.mark.skipif(not FAKETIME.exists(), reason="needs libfaketime: apt-get install faketime")
def test_the_clock_jumps(tmp_path: Path) -> None:
    """By a day, forth and back, for TorchServe and its worker: nothing times out or restarts."""
    clock = tmp_path / "clock"
    clock.write_text("+0")
    faked = (
        ("LD_PRELOAD", str(FAKETIME)), ("FAKETIME_TIMESTAMP_FILE", str(clock)),
        ("FAKETIME_CACHE_DURATION", "1"), ("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
    )  # fmt: skip
    server = Server(tmp_path / "server", live.STORE, Ports.free(), environment=faked)
    with server.running():
        worker = live.worker(server)
        right = live.post(server, live.GOOD).content
        for days in (1, -1):
            clock.write_text(f"{days:+}d")
            live.wait(lambda days=days: days_ahead(server, right) == days)
            assert [live.post(server, live.GOOD).content for _ in range(3)] == [right] * 3
        assert live.worker(server) == worker


def days_ahead(server: Server, right: bytes) -> int:
    """Of the worker's clock, as the log tells it of a request."""
    assert live.post(server, live.GOOD).content == right
    lines = [json.loads(line) for line in server.log.read_text().splitlines()]
    told = [line["time"] for line in lines if line["message"] == "request"][-1]
    return round((datetime.fromisoformat(told) - datetime.now(UTC)).total_seconds() / 86400)
