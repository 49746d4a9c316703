"""What a server refuses to start, and which lines of its log say why it cannot serve."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from deploy.lifecycle import ServerError
from deploy.server import Ports, Server, telling


def line(level: str, message: str) -> str:
    return json.dumps({"level": level, "message": message})


def test_the_reason_is_told_whatever_is_repeated_around_it() -> None:
    noise = [line("error", 'Cannot run program "nvidia-smi"')] * 40
    reason = line("info", "Failed to load model dcgan, exception there is no card.json")
    assert telling("\n".join([*noise, reason, *noise])) == [
        "info: Failed to load model dcgan, exception there is no card.json",
        'error: Cannot run program "nvidia-smi"',
    ]


def test_the_last_lines_count_where_none_tells_of_a_failure() -> None:
    assert telling("a\n\nb\nc\n", count=2) == ["b", "c"]


@pytest.mark.parametrize(
    "text", [f"{'0' * 64}  dcgan.mar\n", "", "\n", "not a digest", "\ufffd" * 200]
)
@pytest.mark.parametrize("other", [(), ("dcgan.mar",)])
def test_another_digest_refuses_to_start(
    tmp_path: Path, archive: Path, text: str, other: tuple[str, ...]
) -> None:
    """The first archive and further versions alike; nothing is written, nothing started."""
    archive.with_name("dcgan.mar.sha256").write_text(text, encoding="utf-8")
    first = archive.name
    if other:
        first = "first.mar"
        (tmp_path / first).write_bytes(archive.read_bytes())
    server = Server(tmp_path / "server", tmp_path, Ports(), archive=first, other_archives=other)
    seen = hashlib.sha256(archive.read_bytes()).hexdigest()
    with pytest.raises(ServerError, match=rf"dcgan\.mar is damaged .*{seen}.*python -m export"):
        server.start()
    assert not server.folder.exists()


@pytest.mark.parametrize("visible", [None, "", "0"])
def test_gpus_that_are_hidden_are_given_to_no_worker(
    tmp_path: Path, visible: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """TorchServe asks nvidia-smi, which does not hide them."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    own = () if visible is None else (("CUDA_VISIBLE_DEVICES", visible),)
    server = Server(tmp_path, tmp_path, Ports(), environment=own)
    lines = server._properties().splitlines()
    assert ("number_of_gpu=0" in lines) == (visible == "")
