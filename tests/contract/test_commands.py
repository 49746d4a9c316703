"""``make serve``, ``make stop`` and ``make gallery`` in a copy of the repository, in a hard place.

The copy has a server of its own to stop, and lies under a long path that is not all ASCII, in a
locale that is. A long TMPDIR; a proxy in the environment; a second command at the same time; a
launcher that was killed.
"""

import contextlib
import json
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import requests

from deploy.server import HOST, Ports
from tests.support import checkouts, live
from tests.support.checkouts import command, flags, said

DEEP = "/".join(["ein Ordner für Bilder"] * 5)


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkouts.checkout(tmp_path_factory.mktemp("checkout") / DEEP)


def test_a_life_in_a_hard_place(checkout: Path) -> None:
    folder, ports = checkout, Ports.free()
    assert len(str(folder)) > 100
    (temporary := folder / "tmp").mkdir()
    hard = {
        "TMPDIR": str(temporary), "http_proxy": f"http://{HOST}:9", "ALL_PROXY": f"http://{HOST}:9",
        "no_proxy": "example.org", "NO_PROXY": "example.org", "LC_ALL": "C",
    }  # fmt: skip
    start = ("deploy.serve", "start", *flags(ports))
    first = command(folder, *start, "--grid", "first.png", **hard)
    state = folder / ".server" / "server.json"
    live.wait(lambda: state.exists() or first.poll() is not None)
    assert first.poll() is None, said(first)
    second = command(folder, *start, "--grid", "second.png", **hard)  # the first one starts still
    done = [said(first), said(second)]
    assert [code for code, _, _ in done] == [0, 0], done
    launcher = psutil.Process(json.loads(state.read_text())["pid"])
    try:
        assert f"(process {launcher.pid}" in done[0][2]
        assert f"runs here already (process {launcher.pid})" in done[1][2]
        url = f"http://{HOST}:{ports.inference}/predictions/dcgan"
        assert requests.post(url, json={"seed": 1}, timeout=30).status_code == 200
        assert (folder / "first.png").read_bytes() == (folder / "second.png").read_bytes()
        assert list((folder / ".server" / "tmp").glob(".ts.sock.*"))
    finally:
        launcher.send_signal(signal.SIGKILL)
        launcher.wait(30)
        code, _, error = said(command(folder, "deploy.serve", "stop", **hard))
    assert (code, error) == (0, "stopped\n")
    assert ports.taken() == []
    assert said(command(folder, "deploy.serve", "stop"))[2] == "no server is running\n"


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
        assert requests.get(f"http://{HOST}:{ports.inference}/ping", timeout=5).ok
        first.send_signal(signal.SIGINT)
        assert said(first)[0] == 130
    assert ports.taken() == []
    assert not (checkout / ".server" / "server.json").exists()


def test_a_taken_port_is_named_before_anything_starts(checkout: Path) -> None:
    with socket.create_server((HOST, 0)) as taken:
        port = str(taken.getsockname()[1])
        code, _, error = said(command(checkout, "deploy.gallery", "--port", port))
    assert code == 1
    assert f"port {port}" in error
    assert "make gallery GALLERY_PORT=" in error
    assert not (checkout / ".server" / "server.json").exists()
