"""A live server in the tests: archives with changes, raw sockets, and what a server is made of."""

import contextlib
import importlib
import importlib.resources
import json
import socket
import sys
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any, TypeVar

import psutil
import requests
import yaml
from grpc_tools import protoc

from deploy.server import HOST, ROOT, Server
from tests.support.web import Answering, serving

STORE = ROOT / "model_store"
ARCHIVE = STORE / "dcgan.mar"
MANIFEST = "MAR-INF/MANIFEST.json"
JSON = "application/json"
GOOD = {"seed": 7, "num_images": 2}
Entry = str | zipfile.ZipInfo


def edited_archive(
    target: Path,
    files: Mapping[Entry, bytes | None] | None = None,
    config: Mapping[str, Any] | None = None,
    manifest: Mapping[str, Any] | None = None,
) -> Path:
    """The built archive with changes, in the file ``target`` or as dcgan.mar in that folder.

    Args:
        target: a .mar file, or a folder; made.
        files: name -> content, of files that are replaced or added; None leaves one out.
        config: keys of model-config.yaml with new values; mappings are merged.
        manifest: the same of the model in MAR-INF/MANIFEST.json.

    Returns:
        the folder.
    """
    target = target if target.suffix else target / ARCHIVE.name
    target.parent.mkdir(parents=True, exist_ok=True)
    changed = dict(files or {})
    if config:
        settings = yaml.safe_load(packed("model-config.yaml"))
        changed["model-config.yaml"] = yaml.safe_dump(merged(settings, config)).encode()
    if manifest:
        facts = merged(json.loads(packed(MANIFEST)), {"model": manifest})
        changed[MANIFEST] = json.dumps(facts).encode()
    with zipfile.ZipFile(ARCHIVE) as old, zipfile.ZipFile(target, "w") as new:
        for name in dict.fromkeys([*old.namelist(), *changed]):
            content = changed[name] if name in changed else old.read(name)
            if content is not None:
                new.writestr(name, content)
    return target.parent


def packed(name: str) -> bytes:
    """A file of the built archive."""
    with zipfile.ZipFile(ARCHIVE) as archive:
        return archive.read(name)


def merged(below: Any, above: Mapping[str, Any]) -> dict[str, Any]:
    """``above`` over ``below``; what is a mapping in both is merged."""
    return dict(below) | {
        key: merged(below[key], value) if isinstance(value, Mapping) and key in below else value
        for key, value in above.items()
    }


def compiled(folder: Path, name: str) -> tuple[Any, Any]:
    """Modules of the messages and of the services of inference or management, from the
    definition that TorchServe's own jar carries."""
    with zipfile.ZipFile(str(importlib.resources.files("ts") / "frontend/model-server.jar")) as jar:
        for path in (f"proto/{name}.proto", "google/rpc/status.proto"):
            jar.extract(path, folder)
    well_known = importlib.resources.files("grpc_tools") / "_proto"
    arguments = ["protoc", f"-I{folder}/proto", f"-I{folder}", f"-I{well_known}"]
    arguments += [f"--python_out={folder}", f"--grpc_python_out={folder}"]
    assert protoc.main([*arguments, f"{name}.proto", "google/rpc/status.proto"]) == 0
    sys.path.insert(0, str(folder))
    try:
        return (
            importlib.import_module(f"{name}_pb2"),
            importlib.import_module(f"{name}_pb2_grpc"),
        )
    finally:
        sys.path.remove(str(folder))


class Listener(ThreadingHTTPServer):
    """Serves the archive to everybody, and counts the connections, whatever they speak."""

    daemon_threads = True
    connections = 0

    def get_request(self) -> tuple[socket.socket, tuple[str, int]]:
        self.connections += 1
        return super().get_request()


class _Archive(Answering):
    def do_GET(self) -> None:
        self.say(200, ARCHIVE.read_bytes())


@contextlib.contextmanager
def listener() -> Iterator[tuple[str, Listener]]:
    """host:port of a listener, and the listener."""
    with serving(Listener((HOST, 0), _Archive)) as opened:
        yield f"{HOST}:{opened.server_port}", opened


def post(server: Server, body: Any, timeout_s: float = 60) -> requests.Response:
    return requests.post(server.predict_url, json=body, timeout=timeout_s)


def described(server: Server) -> dict[str, Any]:
    """What the model says of itself: its limits, weights, directions, backend."""
    (version,) = requests.get(f"{server.describe_url}?customized=true", timeout=30).json()
    facts: dict[str, Any] = version["customizedMetadata"]
    return facts


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


T = TypeVar("T")


def wait(true: Callable[[], T], timeout_s: float = 120) -> T:
    """Return when it is so, and what is so."""
    deadline = time.monotonic() + timeout_s
    while not (found := true()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return found


def is_gone(process: psutil.Process) -> bool:
    return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


@dataclass(frozen=True)
class Answer:
    """One reply as it came over the wire; header names in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes


def talk(server: Server, sent: bytes, replies: int = 1) -> list[Answer]:
    """Send bytes on one connection; the replies until there are so many and a moment more, or
    until the server closes. Fewer than asked for mean that it closed, or was silent for long."""
    received = b""
    with socket.create_connection((HOST, server.ports.inference), 30) as opened:
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


def head(server: Server, *lines: str, target: str = "/predictions/dcgan") -> bytes:
    """The head of a POST, its empty line included; lines in Latin-1."""
    first = (f"POST {target} HTTP/1.1", f"Host: {HOST}:{server.ports.inference}")
    return "".join(f"{line}\r\n" for line in (*first, *lines, "")).encode("latin-1")
