"""``python -m benchmarks.serving`` and the peers, each really started."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path

import psutil
import pytest
import requests
from PIL import Image

from benchmarks import serving
from benchmarks.closed_loop import Work, run
from benchmarks.peers import environments, launch
from benchmarks.peers.catalogue import PEERS
from benchmarks.servers import STORE

pytestmark = pytest.mark.contract


@pytest.fixture(scope="module")
def torchscript(tmp_path_factory: pytest.TempPathFactory) -> Path:
    with zipfile.ZipFile(STORE / "dcgan.mar") as packed:
        return Path(packed.extract("generator.pt", tmp_path_factory.mktemp("peers")))


@pytest.mark.parametrize("name", PEERS)
def test_a_peer_gives_pictures(name: str, torchscript: Path, tmp_path: Path) -> None:
    if not environments.is_installed(name):
        pytest.skip(f"no environment for {PEERS[name].title} in .peers/; make bench-peers")
    with launch.running(name, tmp_path, torchscript) as server:
        pictures = []
        for seed, count in ((7, 1), (7, 64), (8, 64)):
            reply = requests.post(
                server.url, server.body(seed, count),
                headers={"Content-Type": "application/json"}, timeout=60,
            )  # fmt: skip
            assert reply.status_code == 200
            content = reply.content
            with Image.open(io.BytesIO(content[content.index(b"\x89PNG") :])) as picture:
                assert picture.size == ((64, 64) if count == 1 else (530, 530))
                pictures.append(picture.convert("RGB").tobytes())
        assert pictures[1] != pictures[2]
        load = run(server.url, Work("16 at once", (1,), 16), 1.0, body=server.body)
        assert load.failed == 0
        assert load.images >= 16
        assert server.memory().worker_peak_mb > 200
        children = server.process.children(recursive=True)
    assert not server.process.is_running()
    _, alive = psutil.wait_procs(children, timeout=1)
    assert alive == []


def test_a_whole_run_with_a_peer_that_cannot_be_set_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pins = tmp_path / "pins.txt"
    pins.write_text("--no-index\nno-such-package==1.0\n")
    monkeypatch.setattr(environments, "home", lambda name: tmp_path / name)
    monkeypatch.setattr(environments, "requirements", lambda _: pins)
    out = tmp_path / "new" / "result.json"
    code = serving.main(
        ["--rounds", "2", "--seconds", "0.3", "--work", "image", "--connections", "2",
         "--peers", "litserve", "--precision", "float32", "--out", str(out)]
    )  # fmt: skip
    assert code == 0
    result = json.loads(out.read_text(encoding="utf-8"))
    assert list(result["servers"]) == ["ours", "stock"]
    assert "No matching distribution" in result["left_out"]["LitServe"]
    assert result["backend"].endswith("float32")
    assert result["command"].endswith(f"--precision float32 --out {out}")
    (row,) = result["rows"]
    assert row["work"]["name"] == "1 image, 2 connections"
    for name in ("ours", "stock"):
        assert len(row["turns"][name]) == 2
        for turn in row["turns"][name]:
            assert turn["load"]["failed"] == 0
            assert turn["load"]["images"] == turn["load"]["requests"] > 0
            assert turn["cpu_ms_per_image"] > 0
            assert turn["memory"]["tree_mb"] > turn["memory"]["worker_peak_mb"] / 2 > 50
    printed = capsys.readouterr()
    assert "| 1 image, 2 connections |" in printed.out
    assert "LitServe is left out: cannot be set up: pip: ERROR" in printed.out
