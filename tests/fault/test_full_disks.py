"""Full disks, on small file systems of their own."""

import json
import os
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
import requests

from deploy.server import Ports, Server, ServerError
from tests.support import live


@contextmanager
def small_disk(folder: Path, megabytes: int) -> Iterator[None]:
    """A tmpfs mounted on the folder."""
    folder.mkdir(parents=True)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(folder)]
    done = subprocess.run(mount, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"no file system can be mounted here: {done.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(folder: Path) -> Path:
    """A file that takes what is left."""
    ballast = folder / "ballast"
    with ballast.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            pass
    free = os.statvfs(folder)
    assert free.f_bavail == 0
    return ballast


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with small disks for its log and for its temporary files."""
    folder = tmp_path_factory.mktemp("small")
    server = Server(folder, live.STORE, Ports.free())
    archive_mb = live.ARCHIVE.stat().st_size // 1_000_000
    temporary = small_disk(folder / "tmp", 2 * archive_mb)
    with small_disk(folder / "logs", 1), temporary, server.running():
        yield server


def ask(server: Server, count: int, mark: str) -> list[bytes]:
    def one(_: int) -> bytes:
        reply = requests.post(
            server.predict_url, json=live.GOOD, timeout=60, headers={"X-Request-Id": mark}
        )
        assert reply.status_code == 200
        return reply.content

    with ThreadPoolExecutor(16) as pool:
        return list(pool.map(one, range(count)))


def test_the_disk_of_the_log_is_full(small: Server) -> None:
    """Requests are answered all the same, and the log goes on when there is room again.

    A worker whose output nobody took would stop after 64 kB in the pipe: hence the number.
    """
    (right,) = ask(small, 1, "before")
    worker = live.worker(small)
    ballast = fill(small.folder / "logs")
    assert ask(small, 500, "full") == [right] * 500
    ballast.unlink()
    ask(small, 20, "after")

    def logged() -> list[str]:
        lines = small.log.read_text(errors="replace").splitlines()
        return [line for line in lines if '"client_id":"after"' in line]

    live.wait(lambda: len(logged()) >= 19)  # the first may end a line that was cut off
    assert all(json.loads(line)["status"] == 200 for line in logged()[1:])
    assert live.worker(small) == worker


def test_the_disk_of_temporary_files_is_full(small: Server) -> None:
    (right,) = ask(small, 1, "before")
    worker = live.worker(small)
    ballast = fill(small.folder / "tmp")
    assert ask(small, 50, "full") == [right] * 50
    noise = ",".join(["0.5"] * 100)
    forms = [{"noise": (None, f"[{noise}]")}, {"seed": ("a" * 100, "1" + " " * 2_000_000)}]
    for form in forms:
        assert requests.post(small.predict_url, files=form, timeout=60).status_code == 200
    assert live.worker(small) == worker
    worker.kill()  # the next worker starts on the full disk
    live.wait(lambda: live.post(small, live.GOOD).status_code == 200)
    ballast.unlink()
    assert ask(small, 1, "after") == [right]


def test_a_server_that_finds_no_room_to_start_says_so(tmp_path: Path) -> None:
    server = Server(tmp_path / "server", live.STORE, Ports.free())
    with (
        small_disk(server.folder / "tmp", 4),
        pytest.raises(ServerError, match=r"No space left on device"),
        server.running(60),
    ):
        pass
