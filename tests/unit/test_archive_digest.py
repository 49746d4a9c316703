"""An archive is code: before a start it is compared with the digest that lies beside it."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from deploy.server import Ports, Server, ServerError, check_archive

pytestmark = pytest.mark.unit


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    path = tmp_path / "dcgan.mar"
    path.write_bytes(b"an archive")
    return path


def record(archive: Path, text: str) -> None:
    archive.with_name(f"{archive.name}.sha256").write_text(text, encoding="utf-8")


def test_the_digest_of_the_export_is_accepted(archive: Path) -> None:
    digest = hashlib.sha256(b"an archive").hexdigest()
    record(archive, f"{digest}  dcgan.mar\n")
    assert check_archive(archive) == digest


def test_no_digest_file_is_fine(archive: Path) -> None:
    assert check_archive(archive) == hashlib.sha256(b"an archive").hexdigest()


@pytest.mark.parametrize(
    "text", [f"{'0' * 64}  dcgan.mar\n", "", "\n", "not a digest", "\ufffd" * 200]
)
@pytest.mark.parametrize("other", [(), ("dcgan.mar",)])
def test_another_digest_refuses_to_start(
    tmp_path: Path, archive: Path, text: str, other: tuple[str, ...]
) -> None:
    """The first archive and further versions alike; nothing is written, nothing started."""
    record(archive, text)
    first = archive.name
    if other:
        first = "first.mar"
        (tmp_path / first).write_bytes(b"fine")
    server = Server(tmp_path / "server", tmp_path, Ports(), archive=first, other_archives=other)
    seen = hashlib.sha256(b"an archive").hexdigest()
    with pytest.raises(ServerError, match=rf"dcgan\.mar is damaged .*{seen}.*python -m export"):
        server.start()
    assert not server.folder.exists()
