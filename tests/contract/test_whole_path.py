"""Pictures to a served PNG: train a tiny network on real avatars, export, pack, serve."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path

import requests
from PIL import Image

from deploy.server import Ports, Server, stop


def run(*arguments: str) -> dict[str, object]:
    done = subprocess.run(
        [sys.executable, "-m", *arguments], capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stderr[-3000:]
    result: dict[str, object] = json.loads(done.stdout)
    return result


def test_train_export_pack_serve(tmp_path: Path) -> None:
    trained = run(
        "training", "--out", str(tmp_path / "run"), "--max-steps", "5", "--batch-size", "8",
        "--image-size", "32", "--nz", "10", "--ngf", "4", "--ndf", "4",
    )  # fmt: skip
    assert trained["ended"] == "finished"
    assert (tmp_path / "run" / "samples" / "step_00000005.png").is_file()
    packed = run(
        "export", "--weights", str(trained["weights"]), "--out", str(tmp_path / "store"),
        "--model-version", "smoke-1",
    )  # fmt: skip
    server = Server(tmp_path / "server", tmp_path / "store", Ports.free())
    process = server.start()
    try:
        server.wait_until_ready(process, timeout_s=120)
        reply = requests.post(server.predict_url, json={"seed": 1, "num_images": 4}, timeout=60)
    finally:
        stop(process.pid)
    assert reply.status_code == 200
    assert reply.headers["x-model-version"] == "smoke-1"
    assert reply.headers["x-weights-sha256"] == packed["weights_sha256"]
    assert Image.open(io.BytesIO(reply.content)).size == (70, 70)
