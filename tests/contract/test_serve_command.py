"""``make serve`` and ``make stop`` where it is not easy.

A long path that is not all ASCII, in a locale that is; a long TMPDIR; a proxy in the environment; a
second command at the same time; a launcher that was killed.
"""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path

import psutil
import requests

from deploy.server import HOST, Ports
from tests.support.checkouts import checkout, command, flags, said

DEEP = "/".join(["ein Ordner für Bilder"] * 5)


def test_a_life_in_a_hard_place(tmp_path: Path) -> None:
    folder = checkout(tmp_path / DEEP)
    assert len(str(folder)) > 100
    ports = Ports.free()
    (temporary := tmp_path / DEEP / "tmp").mkdir()
    hard = {
        "TMPDIR": str(temporary), "http_proxy": f"http://{HOST}:9", "ALL_PROXY": f"http://{HOST}:9",
        "no_proxy": "example.org", "NO_PROXY": "example.org", "LC_ALL": "C",
    }  # fmt: skip
    start = ("deploy.serve", "start", *flags(ports))
    first = command(folder, *start, "--grid", "first.png", **hard)
    state, deadline = folder / ".server" / "server.json", time.monotonic() + 60
    while not state.exists():
        assert time.monotonic() < deadline
        assert first.poll() is None, said(first)
        time.sleep(0.05)
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
