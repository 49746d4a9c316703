"""An archive is code: it is compared with the digest beside it. Where a server's sockets are, and
which process it is."""

from __future__ import annotations

import hashlib
import os
import socket
import subprocess
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from deploy import lifecycle
from deploy.lifecycle import ServerError, check_archive, clear, identity

DEEP = "/".join(["a-folder-with-a-long-name"] * 5)


@pytest.fixture
def short(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder of its own instead of /tmp, and a long TMPDIR."""
    assert tmp_path.exists()  # it is made with the usual TMPDIR
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        monkeypatch.setattr(lifecycle, "SHORT", (folder,))
        monkeypatch.setattr(tempfile, "tempdir", f"/tmp/{'x' * 100}")
        yield Path(folder)


def test_a_short_path_holds_its_sockets_itself(short: Path) -> None:
    temporary = short / "server" / "tmp"
    assert clear(temporary) == temporary
    assert list(temporary.iterdir()) == []


def test_a_long_path_gets_a_short_name_in_a_private_folder(short: Path, tmp_path: Path) -> None:
    temporary = tmp_path / DEEP / "tmp"
    name = clear(temporary)
    assert name.resolve() == temporary
    assert name.parent.parent == short
    assert name.parent.stat().st_mode & 0o777 == 0o700
    with socket.socket(socket.AF_UNIX) as opened:
        opened.bind(str(name / ".ts.sock.9000"))
    assert clear(temporary) == name  # the next start has the same
    other = clear(tmp_path / DEEP / "other")
    assert other != name
    assert list(temporary.iterdir()) == []
    temporary.rmdir()
    assert clear(tmp_path / DEEP / "other") == other
    assert list(name.parent.iterdir()) == [other]  # no link is left to what is gone


@pytest.mark.parametrize("squatter", ["open", "link", "file"])
def test_a_folder_that_others_can_write_to_is_not_used(
    short: Path, tmp_path: Path, squatter: str
) -> None:
    private = short / f"dcgan-{os.getuid()}"
    if squatter == "open":
        private.mkdir()
        private.chmod(0o777)
    elif squatter == "link":
        (tmp_path / "theirs").mkdir(mode=0o700)
        private.symlink_to(tmp_path / "theirs")
    else:
        private.touch()
    with pytest.raises(ServerError, match=r"sockets have no place.*107 bytes.*TMPDIR") as refused:
        clear(tmp_path / DEEP / "tmp")
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "theirs").is_dir() or not list((tmp_path / "theirs").iterdir())


def test_a_process_is_told_from_all_others_without_the_clock(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with subprocess.Popen(["sleep", "100"]) as one, subprocess.Popen(["sleep", "100"]) as other:
        before = identity(one.pid)
        assert before
        # As psutil tells it when the clock has been set since.
        monkeypatch.setattr(psutil.Process, "create_time", lambda _: 1.0)
        assert identity(one.pid) == before
        assert identity(os.getpid()) != before
        one.kill()
        os.waitid(os.P_PID, one.pid, os.WEXITED | os.WNOWAIT)
        assert identity(one.pid) is None  # a zombie
        other.kill()
    assert identity(one.pid) is None


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
