"""A TorchServe's beginning and end: what ``make serve``, the tests and the container share.

No more than the image of the container has: the standard library and psutil.
"""

from __future__ import annotations

import contextlib
import hashlib
import shutil
import zipfile
from pathlib import Path

import psutil


class ServerError(RuntimeError):
    """The server cannot start or serve; the message says why."""


def check_archive(archive: Path) -> str:
    """Compare the archive with the SHA-256 that the export wrote beside it, if it is there, and
    see that it is an archive at all: TorchServe unpacks what is none to an empty folder.

    Returns:
        the archive's SHA-256, hexadecimal.

    Raises:
        ServerError: the archive is missing, or it is not what was exported.
    """
    if not archive.is_file():
        raise ServerError(f"{archive} does not exist; make it: python -m export")
    with archive.open("rb") as opened:
        seen = hashlib.file_digest(opened, "sha256").hexdigest()
    beside = archive.with_name(archive.name + ".sha256")
    wanted = seen
    if beside.is_file():
        wanted = beside.read_text(encoding="utf-8", errors="replace").partition(" ")[0].strip()
    if seen != wanted:
        raise ServerError(
            f"{archive} is damaged or was changed: its SHA-256 is {seen}, {beside.name} says "
            f"{wanted[:64]!r}. Copy both again, or make them: python -m export"
        )
    try:
        with zipfile.ZipFile(archive) as packed:
            packed.getinfo("MAR-INF/MANIFEST.json")
    except (zipfile.BadZipFile, KeyError) as error:
        raise ServerError(
            f"{archive} is no model archive ({error}). Copy it again, or make it: python -m export"
        ) from error
    return seen


def clear(temporary: Path) -> None:
    """An empty folder for TorchServe's temporary files. Removes what a crash left there: unpacked
    models, sockets, and a pid file, whose number may be another process's by now.

    Raises:
        ServerError: a TorchServe that runs uses the folder.
        OSError: it cannot be made.
    """
    with contextlib.suppress(OSError, ValueError, psutil.Error):
        pid = int((temporary / ".model_server.pid").read_text(encoding="ascii"))
        if f"-Djava.io.tmpdir={temporary}" in psutil.Process(pid).cmdline():
            raise ServerError(f"a server (process {pid}) already runs in {temporary.parent}")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True, exist_ok=True)


def stop(pid: int, timeout_s: float = 30.0) -> None:
    """End a server started by ``Server.start``: SIGTERM to its processes, SIGKILL to the rest."""
    try:
        launcher = psutil.Process(pid)
        family = [*launcher.children(recursive=True), launcher]
    except psutil.NoSuchProcess:
        return
    for process in family[:1]:  # Java first: it ends its workers in order
        _signal(process, kill=False)
    _, alive = psutil.wait_procs(family, timeout=timeout_s)
    for process in alive:
        _signal(process, kill=True)
    psutil.wait_procs(alive, timeout=5)


def _signal(process: psutil.Process, kill: bool) -> None:
    with contextlib.suppress(psutil.NoSuchProcess):
        process.kill() if kill else process.terminate()
