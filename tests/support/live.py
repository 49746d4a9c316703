"""What the fault tests share: archives with changes, raw sockets, and what a server is made of."""

from __future__ import annotations

import contextlib
import socket
import time
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import requests

from deploy.server import HOST, ROOT, Server

STORE = ROOT / "model_store"
JSON = "application/json"
GOOD = {"seed": 7, "num_images": 2}


def changed_archive(store: Path, *changes: tuple[str, str]) -> Path:
    """A model store with the built archive, words of its model-config.yaml replaced."""

    def config(name: str, content: bytes) -> bytes | None:
        if name != "model-config.yaml":
            return content
        for old, new in changes:
            assert old.encode() in content
            content = content.replace(old.encode(), new.encode())
        return content

    return rewritten_archive(store, config)


def rewritten_archive(
    store: Path,
    change: Callable[[str, bytes], bytes | None],
    source: Path = STORE / "dcgan.mar",
) -> Path:
    """A model store with the built archive, or another, each file changed, or left out for None."""
    store.mkdir(parents=True, exist_ok=True)
    with (
        zipfile.ZipFile(source) as old,
        zipfile.ZipFile(store / "dcgan.mar", "w") as new,
    ):
        for name in old.namelist():
            if (content := change(name, old.read(name))) is not None:
                new.writestr(name, content)
    return store


def post(server: Server, body: Any, timeout_s: float = 60) -> requests.Response:
    return requests.post(server.predict_url, json=body, timeout=timeout_s)


def worker(server: Server) -> psutil.Process:
    """The only worker, as TorchServe tells it."""
    (described,) = requests.get(server.describe_url, timeout=30).json()
    (told,) = described["workers"]
    assert told["status"] == "READY"
    return psutil.Process(told["pid"])


def workers(java_process: psutil.Process) -> list[psutil.Process]:
    """Java has other children too: once a minute one that reads the system's metrics."""
    below = java_process.children(recursive=True)
    return [child for child in below if "model_service_worker" in str(child.cmdline())]


def java(worker_process: psutil.Process) -> psutil.Process:
    parent = worker_process.parent()
    assert parent is not None
    assert "java" in parent.name()
    return parent


def wait(true: Callable[[], Any], timeout_s: float = 120) -> None:
    """Return when it is so."""
    deadline = time.monotonic() + timeout_s
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def is_gone(process: psutil.Process) -> bool:
    return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


@dataclass(frozen=True)
class Answer:
    """One reply as it came over the wire; header names in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes


def talk(server: Server, sent: bytes, replies: int = 1, timeout_s: float = 30) -> list[Answer]:
    """Send bytes on one connection; the replies until there are so many and a moment more, or
    until the server closes. Fewer than asked for mean that it closed, or was silent for long."""
    received = b""
    with socket.create_connection((HOST, server.ports.inference), timeout_s) as opened:
        with contextlib.suppress(OSError):  # refused in mid-request: what came before counts
            opened.sendall(sent)
        with contextlib.suppress(OSError):
            while block := opened.recv(1 << 16):
                received += block
                if len(answers(received)) >= replies:
                    opened.settimeout(0.3)  # for one that must not come
    return answers(received)


def answers(received: bytes) -> list[Answer]:
    """The whole replies in what one connection gave."""
    found = []
    while b"\r\n\r\n" in received:
        head, _, rest = received.partition(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        assert first.startswith("HTTP/1.")
        headers = {
            name.lower(): value.strip() for name, _, value in (x.partition(":") for x in lines)
        }
        length = int(headers.get("content-length", 0))
        if len(rest) < length:
            break
        found.append(Answer(int(first.split()[1]), headers, rest[:length]))
        received = rest[length:]
    return found


def head(server: Server, *lines: str, target: str = "", method: str = "POST") -> bytes:
    """The head of a request, its empty line included; lines in Latin-1."""
    target = target or f"/predictions/{server.model}"
    first = (f"{method} {target} HTTP/1.1", f"Host: {HOST}:{server.ports.inference}")
    return "".join(f"{line}\r\n" for line in (*first, *lines, "")).encode("latin-1")
