"""The soak against a real server for some seconds, and against one with a planted leak."""

import json
from pathlib import Path

import pytest
from PIL import Image

from benchmarks import soak
from tests.support import live


def run(tmp_path: Path, store: Path, seconds: int) -> tuple[int, dict[str, object]]:
    out = tmp_path / "soak.json"
    code = soak.main(
        ["--seconds", str(seconds), "--rate", "15", "--model-store", str(store), "--out", str(out)]
    )
    assert Image.open(out.with_suffix(".png")).size[0] > 500
    return code, json.loads(out.read_text())


def test_no_leak(tmp_path: Path) -> None:
    _, result = run(tmp_path, live.STORE, 12)
    # On a busy machine seconds are too few to tell whether the latency is flat.
    assert [failure for failure in result["failures"] if not failure.startswith("p50_ms")] == []
    assert result["outcomes"]["2xx"] > 100
    assert result["outcomes"]["4xx"] == result["hostile"] > 0
    assert result["hang_ups"] > 0
    assert len(result["worker_pids"]) == 1


LEAK = b"""
_KEPT = []

def _keep(report):
    for _ in report.requests:
        _KEPT.append((b"x" * 3_000_000, open("/dev/null")))

_log_requests = log_requests

def log_requests(report):
    _keep(report)
    _log_requests(report)
"""


def test_a_planted_leak_is_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """3 MB and a descriptor a request, kept by the handler."""
    name = "handler/telemetry.py"
    store = live.edited_archive(tmp_path / "store", {name: live.packed(name) + LEAK})
    code, result = run(tmp_path, store, 8)
    assert code == 1
    assert {name for name, trend in result["trends"].items() if trend["leaks"]} >= {
        "worker_rss_mb",
        "worker_fds",
    }
    said = capsys.readouterr().err
    assert "error: worker_rss_mb grows" in said
    assert "error: worker_fds grows" in said
