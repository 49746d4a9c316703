"""An archive is code: before a start it is compared with the digest that lies beside it."""

from __future__ import annotations

import hashlib
import io
import zipfile
from pathlib import Path

import pytest

from deploy.lifecycle import ServerError, check_archive
from deploy.server import Ports, Server

with zipfile.ZipFile(packed := io.BytesIO(), "w") as made:
    made.writestr("MAR-INF/MANIFEST.json", "{}")
ARCHIVE = packed.getvalue()


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    path = tmp_path / "dcgan.mar"
    path.write_bytes(ARCHIVE)
    return path


def record(archive: Path, text: str) -> None:
    archive.with_name(f"{archive.name}.sha256").write_text(text, encoding="utf-8")


def test_the_digest_of_the_export_is_accepted(archive: Path) -> None:
    digest = hashlib.sha256(ARCHIVE).hexdigest()
    record(archive, f"{digest}  dcgan.mar\n")
    assert check_archive(archive) == digest


def test_no_digest_file_is_fine(archive: Path) -> None:
    assert check_archive(archive) == hashlib.sha256(ARCHIVE).hexdigest()


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
        (tmp_path / first).write_bytes(ARCHIVE)
    server = Server(tmp_path / "server", tmp_path, Ports(), archive=first, other_archives=other)
    seen = hashlib.sha256(ARCHIVE).hexdigest()
    with pytest.raises(ServerError, match=rf"dcgan\.mar is damaged .*{seen}.*python -m export"):
        server.start()
    assert not server.folder.exists()


@pytest.mark.parametrize("content", [b"", b"<html>404</html>", ARCHIVE[:-30]])
def test_what_is_no_archive_is_refused(archive: Path, content: bytes) -> None:
    archive.write_bytes(content)
    with pytest.raises(ServerError, match=r"dcgan\.mar is no model archive .*python -m export"):
        check_archive(archive)


def test_a_zip_without_a_manifest_is_refused(archive: Path) -> None:
    with zipfile.ZipFile(archive, "w") as other:
        other.writestr("x", "")
    with pytest.raises(ServerError, match=r"no model archive .*MANIFEST"):
        check_archive(archive)
