"""``make gallery``'s command, in a copy of the repository: it has a server of its own to stop."""

from __future__ import annotations

import contextlib
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from deploy.server import HOST, Ports
from tests.support import checkouts
from tests.support.checkouts import command, flags, said


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkouts.checkout(tmp_path_factory.mktemp("checkout"))


@contextlib.contextmanager
def gallery(checkout: Path, ports: Ports) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The command once it serves; gives the address that it prints last."""
    process = command(checkout, "deploy.gallery", "--port", "0", *flags(ports))
    try:
        assert process.stdout is not None
        lines = iter(process.stdout.readline, "")
        url = next((line.strip() for line in lines if line.rstrip().endswith("/gallery/")), None)
        assert url, process.communicate()[1]
        yield process, url
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
            process.communicate(timeout=60)


def serves(ports: Ports) -> bool:
    try:
        return requests.get(f"http://{HOST}:{ports.inference}/ping", timeout=5).ok
    except requests.ConnectionError:
        return False


def test_it_stops_what_it_started_and_nothing_else(checkout: Path) -> None:
    ports = Ports.free()
    with gallery(checkout, ports) as (first, url):
        assert "DCGAN gallery" in requests.get(url, timeout=5).text
        predictions = url.replace("/gallery/", "/predictions/dcgan")
        reply = requests.post(predictions, json={"seed": 1}, timeout=30)
        assert reply.headers["X-Seed"] == "1"
        with gallery(checkout, ports) as (second, other):  # finds a server that runs already
            assert other != url
            second.send_signal(signal.SIGTERM)
            assert said(second)[0] == 130
        assert serves(ports)
        first.send_signal(signal.SIGINT)
        assert said(first)[0] == 130
    assert not serves(ports)
    assert not (checkout / ".server" / "server.json").exists()


def test_a_taken_port_is_named_before_anything_starts(checkout: Path) -> None:
    with socket.create_server((HOST, 0)) as taken:
        port = str(taken.getsockname()[1])
        code, _, error = said(command(checkout, "deploy.gallery", "--port", port))
    assert code == 1
    assert f"port {port}" in error
    assert "make gallery GALLERY_PORT=" in error
    assert not (checkout / ".server" / "server.json").exists()


def test_bad_usage_exits_2(checkout: Path) -> None:
    assert said(command(checkout, "deploy.gallery", "--port", "many"))[0] == 2
    code, _, error = said(command(checkout, "deploy.gallery", "--port", "70000"))
    assert (code, "70000" in error) == (2, True)
