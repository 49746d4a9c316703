"""The load tester against a live TorchServe."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from deploy.server import HOST, ROOT, Server


def test_three_seconds_at_twenty_a_second(server: Server, tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    ended = subprocess.run(
        [sys.executable, "-m", "benchmarks.load", "--url", server.predict_url,
         "--rate", "20", "--duration-s", "3", "--arrivals", "constant", "--warmup-s", "0.5",
         "--metrics-url", f"http://{HOST}:{server.ports.metrics}/metrics", "-o", str(out)],
        cwd=ROOT, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    (point,) = json.loads(out.read_text())["points"]
    assert point["arrivals"] == 60
    assert point["outcomes"] == {**dict.fromkeys(point["outcomes"], 0), "2xx": 60}
    assert point["latency_ms"]["samples"] == 60
    # The server tells the number of images of each reply.
    assert point["images_per_s"] == pytest.approx(point["throughput_per_s"])
    grown = point["resources"]["metrics"]["grown"]
    counted = [n for name, n in grown.items() if name.startswith("ts_inference_requests_total")]
    assert counted == [60]
