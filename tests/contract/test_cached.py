"""``python -m benchmarks.cached``, with the real proxy and server."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import cached
from tests.support.proxies import NEEDS_NGINX


@NEEDS_NGINX
@pytest.mark.long
def test_hits_are_told_from_misses(tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    assert cached.main(["--seconds", "0.5", "--queue", "4", "--rate", "20", "-o", str(out)]) == 0
    found = json.loads(out.read_text())
    assert found["command"].startswith("python -m benchmarks.cached --seconds 0.5")
    for name in ("misses_per_s", "hits_per_s", "not_modified_per_s"):
        assert found[name] > 0
    assert found["hits_by_misses"] == found["hits_per_s"] / found["misses_per_s"]
    assert found["hits_beside_a_full_queue"] == {"2xx": 10}
    for name in ("hits_ms", "hits_beside_a_full_queue_ms"):
        assert 0 < found[name]["p50"] <= found[name]["p99"]


def test_what_is_wrong_is_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cached.main(["--queue", "0"]) == 2
    assert "queue: seen 0; allowed is 1 to 2000" in capsys.readouterr().err
    monkeypatch.setenv("PATH", "")
    assert cached.main([]) == 1
    assert "make test-tools" in capsys.readouterr().err
