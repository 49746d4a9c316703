"""A TorchServe's beginning and end: what ``make serve``, the tests and the container share.

No more than the image of the container has: the standard library and psutil.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import psutil

from deploy.java import find_java_home

SOCKET_PATH_BYTES = 107
"""What the path of a socket may have on Linux (unix(7))."""


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


def launch(
    config: Path, temporary: Path, logs: Path, *arguments: str, **started: Any
) -> subprocess.Popen[bytes]:
    """Start TorchServe in the foreground of its launcher.

    Args:
        temporary: for its temporary files, as ``clear`` names it.
        started: arguments of ``Popen``; ``env`` goes over the variables of this process.

    Raises:
        NoJavaError: no Java.
    """
    environment = {
        **os.environ,
        "JAVA_HOME": str(find_java_home()),
        "TS_CONFIG_FILE": str(config),
        **dict.fromkeys(("TEMP", "TMPDIR"), str(temporary)),
        **dict.fromkeys(("LOG_LOCATION", "METRICS_LOCATION"), str(logs)),
        **started.pop("env", {}),
    }
    torchserve = str(Path(sys.executable).parent / "torchserve")
    command = [torchserve, "--start", "--foreground", "--ncs", *arguments]
    process: subprocess.Popen[bytes] = subprocess.Popen(
        command, env=environment, stdin=subprocess.DEVNULL, **started
    )
    return process


def clear(temporary: Path) -> Path:
    """An empty folder for TorchServe's temporary files. Removes what a crash left there: unpacked
    models, sockets, and a pid file, whose number may be another process's by now.

    Returns:
        the name for TorchServe to know it by, short enough for the paths of its sockets.

    Raises:
        ServerError: a TorchServe that runs uses the folder, or its path is too long for sockets.
        OSError: it cannot be made.
    """
    if (pid := find_java(temporary)) is not None:
        raise ServerError(f"a server (process {pid}) already runs in {temporary.parent}")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True, exist_ok=True)
    return _name_for_sockets(temporary)


def find_java(temporary: Path) -> int | None:
    """The process of the TorchServe whose temporary files are there, None if none runs. It is told
    by the folder on its command line: a number alone can be another process's by now."""
    with contextlib.suppress(OSError, ValueError, psutil.Error):
        pid = int((temporary / ".model_server.pid").read_text(encoding="ascii"))
        for argument in psutil.Process(pid).cmdline():
            option, _, folder = argument.partition("=")
            if option == "-Djava.io.tmpdir" and Path(folder).resolve() == temporary.resolve():
                return pid
    return None


def _name_for_sockets(temporary: Path) -> Path:
    """``temporary`` itself, or where that is too long, a link to it in a private folder of /tmp.

    With a longer path TorchServe starts, and then a worker again and again, which ends with
    "AF_UNIX path too long".
    """
    if len(os.fsencode(temporary / ".ts.sock.65535")) <= SOCKET_PATH_BYTES:
        return temporary
    for folder in Path("/tmp").glob("dcgan-*"):
        link = folder / "tmp"
        with contextlib.suppress(PermissionError):  # of another user's
            # Of an earlier start, or to what is gone.
            if link.is_symlink() and (link.readlink() == temporary or not link.exists()):
                shutil.rmtree(folder, ignore_errors=True)
    try:
        link = Path(tempfile.mkdtemp(prefix="dcgan-", dir="/tmp")) / "tmp"
        link.symlink_to(temporary)
    except OSError as error:
        raise ServerError(
            f"the path of a socket may have {SOCKET_PATH_BYTES} bytes, and {temporary} leaves too "
            f"few; a short name in /tmp cannot be made ({error.strerror}): move the checkout to a "
            "shorter path"
        ) from None
    return link


def stop(pid: int, timeout_s: float = 30.0) -> None:
    """End a server by its launcher's process or Java's: SIGTERM to Java, which ends its workers in
    order, SIGKILL to what is left."""
    try:
        root = psutil.Process(pid)
        family = [*root.children(recursive=True), root]
    except psutil.NoSuchProcess:
        return
    with contextlib.suppress(psutil.NoSuchProcess):
        next(filter(_is_java, family), root).terminate()
    _, alive = psutil.wait_procs(family, timeout=timeout_s)
    for process in alive:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(alive, timeout=5)


def _is_java(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.Error):
        return "org.pytorch.serve.ModelServer" in process.cmdline()
    return False
