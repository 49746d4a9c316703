"""``python -m benchmarks.compare serving`` and the peers, each really started."""

import contextlib
import io
import itertools
import json
import subprocess
import sys
import zipfile
from pathlib import Path

import psutil
import pytest
import requests
from PIL import Image

from benchmarks import compare
from benchmarks.engine import Limits, asks, saturate, target
from benchmarks.peers import launch
from benchmarks.peers.launch import PEERS, Peer
from benchmarks.servers import STORE
from deploy.server import ROOT
from tests.support import live


@pytest.fixture(scope="module")
def torchscript(tmp_path_factory: pytest.TempPathFactory) -> Path:
    with zipfile.ZipFile(STORE / "dcgan.mar") as packed:
        return Path(packed.extract("generator.pt", tmp_path_factory.mktemp("peers")))


@pytest.mark.long
@pytest.mark.parametrize("name", PEERS)
def test_a_peer_gives_pictures(name: str, torchscript: Path, tmp_path: Path) -> None:
    if not launch.is_installed(name):
        pytest.skip(f"no environment for {PEERS[name].title} in .peers/; make bench-peers")
    with launch.running(name, tmp_path, torchscript) as server:
        pictures = []
        for seed, count in ((7, 1), (7, 64), (8, 64)):
            headers, body = {"Content-Type": "application/json"}, server.body(seed, count)
            reply = requests.post(server.url, body, headers=headers, timeout=60)
            assert reply.status_code == 200
            content = reply.content
            with Image.open(io.BytesIO(content[content.index(b"\x89PNG") :])) as picture:
                assert picture.size == ((64, 64) if count == 1 else (530, 530))
                pictures.append(picture.convert("RGB").tobytes())
        assert pictures[1] != pictures[2]
        to = target(server.url, "application/json")
        some = asks(itertools.repeat(1), 0, server.body)
        tally = saturate(to, 1.0, some, Limits(connections=16, timeout_s=60))
        assert set(tally.outcomes) == {"2xx"}
        assert tally.images >= 16
        assert server.memory()["worker_peak_mb"] > 200
        children = server.process.children(recursive=True)
    assert not server.process.is_running()
    _, alive = psutil.wait_procs(children, timeout=1)
    assert alive == []


_DIES = """
import os, sys
from http.server import BaseHTTPRequestHandler, HTTPServer

class Once(BaseHTTPRequestHandler):
    answered = False

    def do_POST(self):
        if Once.answered:
            os._exit(1)
        Once.answered = True
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"\\x89PNG\\r\\n\\x1a\\n")

HTTPServer(("127.0.0.1", int(sys.argv[1])), Once).serve_forever()
"""


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Little is waited for."""
    monkeypatch.setattr(compare, "_WARM_S", 0.2)
    monkeypatch.setattr(compare, "_PART_REPEATS", 1)


@pytest.mark.usefixtures("quick")
def test_a_whole_run_with_a_peer_that_cannot_be_set_up_and_one_that_dies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "litserve.txt").write_text("--no-index\nno-such-package==1.0\n")
    (tmp_path / "triton.txt").write_text("")
    monkeypatch.setattr(launch, "home", lambda name: tmp_path / name)
    monkeypatch.setattr(launch, "requirements", lambda name: tmp_path / f"{name}.txt")
    program = tmp_path / "dies.py"
    program.write_text(_DIES)
    monkeypatch.setitem(PEERS, "triton", Peer("Triton", f"{sys.executable} {program} {{port}}"))
    (tmp_path / "triton").mkdir()
    (tmp_path / "triton" / "ready").write_text(launch._digest("triton"))
    out = tmp_path / "new" / "result.json"
    work = "--rounds 2 --seconds 0.3 --work image --connections 2"
    arguments = f"serving {work} --peers litserve triton --precision float32 --out {out}"
    assert compare.main(arguments.split()) == 0
    result = json.loads(out.read_text(encoding="utf-8"))
    assert list(result["servers"]) == ["ours", "stock", "triton"]
    assert list(result["left_out"]) == ["LitServe"]
    assert "No matching distribution" in result["left_out"]["LitServe"]
    assert result["backend"].split()[1:3] == ["float32", "on"]
    assert result["command"].endswith(f"--precision float32 --out {out}")
    (row,) = result["rows"]
    assert row["work"]["name"] == "1 image, 2 connections"
    for name in ("ours", "stock"):
        assert len(row["turns"][name]) == 2
        for turn in row["turns"][name]:
            assert turn["load"]["failed"] == 0
            assert turn["load"]["images"] == turn["load"]["requests"] > 0
            assert turn["cpu_ms_per_image"] > 0
            assert turn["memory"]["private_mb"] > turn["memory"]["worker_peak_mb"] / 4 > 50
    (only,) = row["turns"]["triton"]  # not asked again for what it did not answer at all
    assert only["load"]["requests"] == 0
    assert only["load"]["p50_ms"] is None
    printed = capsys.readouterr()
    assert "| 1 image, 2 connections |" in printed.out
    assert "LitServe is left out: cannot be set up: pip: ERROR" in printed.out
    failed = only["load"]["failed"]
    assert f"Triton, 1 image, 2 connections: {failed} of {failed} requests failed" in printed.out


@pytest.mark.usefixtures("quick")
def test_the_way_without_the_network_is_measured_beside_a_blank_handler(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "result.json"
    code = compare.main(
        ["--network", "none", "--rounds", "1", "--seconds", "0.5", "--connections", "2",
         "--out", str(out)]
    )  # fmt: skip
    assert code == 0
    result = json.loads(out.read_text(encoding="utf-8"))
    assert list(result["servers"]) == ["ours", "blank"]
    for row in result["rows"]:
        loads = [turns[0]["load"] for turns in row["turns"].values()]
        assert [load["failed"] for load in loads] == [0, 0]
        assert all(load["requests"] for load in loads)
    # The network takes 0.7 ms of a processor an image at least, on any that is known here.
    assert result["rows"][1]["turns"]["ours"][0]["cpu_ms_per_image"] < 0.5
    assert "| work | ours / blank" in " ".join(capsys.readouterr().out.split())


def held_still(process: subprocess.Popen[bytes]) -> bool:
    """Whether a server is up, and waits for its turn."""
    assert process.poll() is None
    states = []
    for member in psutil.Process(process.pid).children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            states.append(member.status())
    return states.count(psutil.STATUS_STOPPED) > 2


def test_sigterm_leaves_no_server_behind(tmp_path: Path) -> None:
    flags = f"--work image --connections 1 --seconds 60 --out {tmp_path}/result.json".split()
    command = [sys.executable, "-m", "benchmarks.compare", "serving", *flags]
    family: list[psutil.Process] = []
    with subprocess.Popen(command, cwd=ROOT) as process:
        try:
            live.wait(lambda: held_still(process))
            family = psutil.Process(process.pid).children(recursive=True)
            process.terminate()
            assert process.wait(90) == 130
            _, alive = psutil.wait_procs(family, timeout=5)
        finally:
            process.kill()
            for member in family:
                with contextlib.suppress(psutil.NoSuchProcess):
                    member.kill()
    assert len(family) >= 3  # the launcher, Java, a worker
    assert alive == []
    assert not (tmp_path / "result.json").exists()
