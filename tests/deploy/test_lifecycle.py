"""An archive is code: it is compared with the digest beside it. Where a server's sockets are, and
which process it is."""

from __future__ import annotations

import errno
import hashlib
import shutil
import socket
import subprocess
import tempfile
import zipfile
from pathlib import Path

import pytest

from deploy.lifecycle import ServerError, check_archive, clear, find_java

DEEP = "/".join(["a-folder-with-a-long-name"] * 5)


def test_the_path_of_a_socket_is_short(tmp_path: Path) -> None:
    temporary = tmp_path / "tmp"
    assert clear(temporary) == temporary
    assert list(temporary.iterdir()) == []
    deep = tmp_path / DEEP / "tmp"
    name = clear(deep)
    assert name.resolve() == deep
    assert name.parent.stat().st_mode & 0o777 == 0o700
    with socket.socket(socket.AF_UNIX) as opened:
        opened.bind(str(name / ".ts.sock.9000"))
    other = clear(deep)
    assert list(deep.iterdir()) == []
    assert not name.parent.exists()
    deep.rmdir()
    last = clear(tmp_path / DEEP / "other")
    assert not other.parent.exists()
    shutil.rmtree(last.parent)


def test_where_no_short_name_can_be_made_it_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(**_: object) -> str:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(tempfile, "mkdtemp", full)
    with pytest.raises(ServerError, match=r"107 bytes.*No space left.*shorter path$"):
        clear(tmp_path / DEEP / "tmp")


def test_a_server_is_told_by_its_folder(tmp_path: Path) -> None:
    """Not by the number alone, which another process may have."""
    java = ["python3", "-c", "import time; time.sleep(100)", f"-Djava.io.tmpdir={tmp_path}"]
    (tmp_path / "other").mkdir()
    with subprocess.Popen(java) as process:
        for folder in (tmp_path, tmp_path / "other"):
            (folder / ".model_server.pid").write_text(str(process.pid))
        assert find_java(tmp_path) == process.pid
        assert find_java(tmp_path / "other") is None
        process.kill()
    assert find_java(tmp_path) is None


@pytest.mark.parametrize("beside", [True, False])
def test_the_digest_of_the_export_is_accepted(archive: Path, beside: bool) -> None:
    digest = hashlib.sha256(archive.read_bytes()).hexdigest()
    if beside:
        archive.with_name("dcgan.mar.sha256").write_text(f"{digest}  dcgan.mar\n")
    assert check_archive(archive) == digest


@pytest.mark.parametrize("content", [b"", b"<html>404</html>", None])
def test_what_is_no_archive_is_refused(archive: Path, content: bytes | None) -> None:
    archive.write_bytes(archive.read_bytes()[:-30] if content is None else content)
    with pytest.raises(ServerError, match=r"dcgan\.mar is no model archive .*python -m export"):
        check_archive(archive)


def test_a_zip_without_a_manifest_is_refused_and_so_is_nothing(archive: Path) -> None:
    with zipfile.ZipFile(archive, "w") as other:
        other.writestr("x", "")
    with pytest.raises(ServerError, match=r"no model archive .*MANIFEST"):
        check_archive(archive)
    archive.unlink()
    with pytest.raises(ServerError, match=r"dcgan\.mar does not exist.*python -m export"):
        check_archive(archive)
