"""A TorchServe's beginning and end: what ``make serve``, the tests and the container share.

No more than the image of the container has: the standard library and psutil.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import shutil
import socket
import stat
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import psutil

from deploy.java import find_java_home

SHORT = ("/tmp", "/var/tmp", "/dev/shm")
"""Where paths are short on Linux, whatever TMPDIR is."""


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
        ServerError: a TorchServe that runs uses the folder, or no name of it can hold sockets.
        OSError: it cannot be made.
    """
    if (pid := find_java(temporary)) is not None:
        raise ServerError(f"a server (process {pid}) already runs in {temporary.parent}")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True, exist_ok=True)
    return _name_for_sockets(temporary)


def find_java(temporary: Path) -> int | None:
    """The process of the TorchServe whose temporary files are there, None if none runs."""
    with contextlib.suppress(OSError, ValueError, psutil.Error):
        pid = int((temporary / ".model_server.pid").read_text(encoding="ascii"))
        for argument in psutil.Process(pid).cmdline():
            option, _, folder = argument.partition("=")
            if option == "-Djava.io.tmpdir" and Path(folder).resolve() == temporary.resolve():
                return pid
    return None


def _name_for_sockets(temporary: Path) -> Path:
    """``temporary`` itself, or where sockets cannot be made under that name, a link to it in a
    short folder that is private to this user.

    The path of a socket may have 107 bytes (unix(7)). TorchServe starts nevertheless, and then a
    worker again and again, which ends with "AF_UNIX path too long".
    """
    names = [temporary]
    for base in dict.fromkeys((tempfile.gettempdir(), *SHORT)):
        digest = hashlib.sha256(os.fsencode(temporary)).hexdigest()[:16]
        names.append(Path(base) / f"dcgan-{os.getuid()}" / digest)
    reasons = []
    for name in names:
        try:
            if name != temporary:
                _link(name, temporary)
            with socket.socket(socket.AF_UNIX) as probe:
                probe.bind(str(name / ".ts.sock.65535"))
        except OSError as error:
            reasons.append(f"{name}: {error.strerror or error}")
        else:
            (temporary / ".ts.sock.65535").unlink()
            return name
    raise ServerError(
        f"TorchServe's sockets have no place ({'; '.join(reasons)}). The path of a socket may have "
        "107 bytes: move the folder to a shorter path, or set TMPDIR to a short one"
    )


def _link(name: Path, target: Path) -> None:
    """Point ``name`` at ``target``, in a folder that no other user can write to.

    Raises:
        OSError: it cannot be made, or the folder is another user's.
    """
    with contextlib.suppress(FileExistsError):
        name.parent.mkdir(mode=0o700)
    folder = name.parent.lstat()
    if not stat.S_ISDIR(folder.st_mode) or folder.st_uid != os.getuid() or folder.st_mode & 0o077:
        raise PermissionError(errno.EPERM, f"{name.parent} is not a private folder of this user")
    for link in name.parent.iterdir():
        if link == name or not link.exists():  # or what it leads to is gone
            link.unlink(missing_ok=True)
    name.symlink_to(target)


def identity(pid: int) -> str | None:
    """What no other process has, ever: the boot, and the clock ticks from it to the process's
    start (proc_pid_stat(5)). No step of the wall clock changes it. None if the process has ended.
    """
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return None
    state, *fields = text.rpartition(")")[2].split()  # the 3rd field and those after it
    return None if state in "ZX" else f"{boot} {fields[18]}"


def stop(pid: int, timeout_s: float = 30.0) -> None:
    """End a server by its launcher's process or Java's: SIGTERM to Java, which ends its workers in
    order, SIGKILL to what is left."""
    try:
        root = psutil.Process(pid)
        family = [*root.children(recursive=True), root]
    except psutil.NoSuchProcess:
        return
    _signal(next(filter(_is_java, family), root), kill=False)
    _, alive = psutil.wait_procs(family, timeout=timeout_s)
    for process in alive:
        _signal(process, kill=True)
    psutil.wait_procs(alive, timeout=5)


def _is_java(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.Error):
        return "org.pytorch.serve.ModelServer" in process.cmdline()
    return False


def _signal(process: psutil.Process, kill: bool) -> None:
    with contextlib.suppress(psutil.NoSuchProcess):
        process.kill() if kill else process.terminate()
