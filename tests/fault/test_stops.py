"""SIGTERM under load, with and without a drain before it; and a clock that jumps."""

from __future__ import annotations

import contextlib
import json
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import psutil
import pytest
import requests

from deploy.entrypoint import drain
from deploy.lifecycle import stop
from deploy.server import Ports, Server
from tests.support import live

FAKETIME = Path("/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1")
LONG = {"seed": 1, "num_images": 100}


def load(server: Server, pool: ThreadPoolExecutor, right: bytes) -> list[str]:
    """What 8 clients that ask again and again see, until nobody answers any more."""

    def client(_: int) -> list[str]:
        seen = []
        with contextlib.suppress(requests.RequestException), requests.Session() as session:
            while True:
                reply = session.post(server.predict_url, json=LONG, timeout=60)
                whole = reply.status_code == 200 and reply.content == right
                seen.append("whole" if whole else f"{reply.status_code} {reply.text[:100]}")
        return seen

    futures = [pool.submit(client, i) for i in range(8)]
    return [outcome for future in futures for outcome in future.result()]


def test_sigterm_under_load(tmp_path: Path) -> None:
    """TorchServe drops what it works on: broken connections, but no wrong and no half reply."""
    server = Server(tmp_path / "server", live.STORE, Ports.free())
    with server.running() as process, ThreadPoolExecutor(9) as pool:
        family = psutil.Process(process.pid).children(recursive=True)
        right = live.post(server, LONG).content
        outcomes = pool.submit(load, server, pool, right)
        live.wait(lambda: server.log.read_text().count('"images":100') > 8)
        stop(process.pid)
        assert set(outcomes.result()) == {"whole"}
        assert all(live.is_gone(member) for member in family)
    assert server.ports.taken() == []


def test_a_drain_before_sigterm_loses_nothing(tmp_path: Path) -> None:
    """As the container does it: the proxy has stopped sending, what is there is finished."""
    server = Server(tmp_path / "server", live.STORE, Ports.free())
    with server.running() as process, ThreadPoolExecutor(8) as pool:
        right = live.post(server, LONG).content
        futures = [pool.submit(once, server) for _ in range(8)]
        live.wait(lambda: connections(server) == 8)
        assert drain(server.ports.inference, 60) < 60
        stop(process.pid)
        assert [future.result() for future in futures] == [right] * 8


def once(server: Server) -> bytes:
    """On a connection of its own, as the proxy asks."""
    headers = {"Connection": "close"}
    return requests.post(server.predict_url, json=LONG, headers=headers, timeout=120).content


def connections(server: Server) -> int:
    return sum(
        c.status == psutil.CONN_ESTABLISHED and c.laddr.port == server.ports.inference
        for c in psutil.net_connections("tcp")
    )


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
        for offset, days in (("+1d", 1), ("-1d", -1)):
            clock.write_text(offset)
            live.wait(lambda days=days: days_ahead(server, right) == days)
            assert [live.post(server, live.GOOD).content for _ in range(3)] == [right] * 3
        assert live.worker(server) == worker


def days_ahead(server: Server, right: bytes) -> int:
    """Of the worker's clock, as the log tells it of a request."""
    assert live.post(server, live.GOOD).content == right
    lines = [json.loads(line) for line in server.log.read_text().splitlines()]
    told = [line["time"] for line in lines if line["message"] == "request"][-1]
    return round((datetime.fromisoformat(told) - datetime.now(UTC)).total_seconds() / 86400)
