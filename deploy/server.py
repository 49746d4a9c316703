"""A TorchServe process: start it, know when it really serves, stop it.

Used by ``make serve``, by the tests and by the benchmarks. What ready means is in healthcheck.py.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import requests

from client.files import write
from deploy.healthcheck import reason_not_ready
from deploy.java import BASE_CONFIG as BASE_CONFIG
from deploy.lifecycle import ServerError as ServerError
from deploy.lifecycle import check_archive, clear, find_java, launch, stop

ROOT = Path(__file__).resolve().parent.parent
LOG_CONFIG = ROOT / "deploy" / "log4j2.xml"
HOST = "127.0.0.1"
START_S = 360.0
"""How long a start may take: longer than ``startupTimeout`` of model-config.yaml, after which
TorchServe itself says what was wrong."""
_LOAD_FAILURE = re.compile(
    r"Failed to load model|Load model failed|Backend worker monitoring thread interrupted or "
    r"backend worker process died|Backend worker process died\.|Invalid configuration"
)
_TELLING = re.compile(r"Error\b|error:|Exception|warn:|Failed to load model")
_LINE_CHARS = 300


def ask(method: str, url: str, **arguments: Any) -> requests.Response:
    """``requests.request`` to a server on this machine: by no proxy, whatever http_proxy says."""
    with requests.Session() as session:
        session.trust_env = False
        return session.request(method, url, **arguments)


@dataclass(frozen=True)
class Ports:
    """TCP ports, all on 127.0.0.1."""

    inference: int = 8080
    management: int = 8081
    metrics: int = 8082
    grpc_inference: int = 7070
    grpc_management: int = 7071

    def check(self) -> None:
        """ValueError if one of them is none, or two are the same."""
        owners: dict[int, str] = {}
        for name, port in vars(self).items():
            if not 1 <= port <= 65535:
                raise ValueError(f"{name} is {port}; it must be 1 to 65535")
            if (owner := owners.setdefault(port, name)) != name:
                raise ValueError(f"{owner} and {name} are both {port}; each takes one of its own")

    @staticmethod
    def free() -> Ports:
        """Ports that nothing listens on at the moment."""
        sockets = [socket.create_server((HOST, 0)) for _ in fields(Ports)]
        ports = [s.getsockname()[1] for s in sockets]
        for opened in sockets:
            opened.close()
        return Ports(*ports)

    def taken(self) -> list[str]:
        """Names and numbers of ports that cannot be bound."""
        found = []
        for name, port in vars(self).items():
            try:
                socket.create_server((HOST, port)).close()
            except OSError as error:
                found.append(f"{name} {port} ({os.strerror(error.errno or 0)})")
        return found


@dataclass(frozen=True)
class Server:
    """One TorchServe with a folder of its own for temporary files, logs and settings.

    Args:
        folder: temporary files, logs and the settings in use.
        model_store: folder that holds ``archive``.
        archive: file name in the model store.
        model: the name that requests use.
        other_archives: file names of further versions of the model; ``archive`` is the one that
            requests get unless they name a version.
        settings: properties over those of config.properties.
        environment: variables over those of this process, for TorchServe and its workers.
    """

    folder: Path
    model_store: Path
    ports: Ports
    archive: str = "dcgan.mar"
    model: str = "dcgan"
    other_archives: tuple[str, ...] = ()
    settings: tuple[tuple[str, str], ...] = ()
    environment: tuple[tuple[str, str], ...] = ()

    @property
    def predict_url(self) -> str:
        return f"http://{HOST}:{self.ports.inference}/predictions/{self.model}"

    @property
    def describe_url(self) -> str:
        return f"http://{HOST}:{self.ports.management}/models/{self.model}"

    @property
    def log(self) -> Path:
        """One JSON object a line, of TorchServe and its workers; bounded, see log4j2.xml."""
        return self.folder / "logs" / "torchserve.log"

    @property
    def temporary(self) -> Path:
        """TorchServe's unpacked archives, sockets and pid file."""
        return (self.folder / "tmp").resolve()

    @property
    def console(self) -> Path:
        """What the launcher and Java print when they cannot log."""
        return self.folder / "console.log"

    def start(self) -> subprocess.Popen[bytes]:
        """Start TorchServe in a process group of its own; it goes on when this process ends.

        Returns when ``find_java`` finds it, or its launcher has ended. The log of an earlier start
        in the same folder becomes ``torchserve.previous.log``.

        Raises:
            ServerError: a port is taken, a server already runs in the folder, or an archive is
                missing, is none, or is not the one whose digest lies beside it.
            NoJavaError: no Java.
        """
        archives = (self.archive, *self.other_archives)
        for archive in archives:
            check_archive(self.model_store / archive)
        if taken := self.ports.taken():
            raise ServerError(
                f"port taken: {', '.join(taken)}. Stop what listens there (make stop, if it is "
                "this server), or choose others: make serve PORT=9080"
            )
        temporary = clear(self.temporary)
        config = (self.folder / "config.properties").resolve()
        write(config, self._properties().encode())
        if self.log.exists():
            self.log.replace(self.log.with_suffix(".previous.log"))
        models = [f"{self.model}={archive}" for archive in archives]
        arguments = ["--model-store", str(self.model_store.resolve()), "--models", *models]
        # With another locale Java cannot open a path that is not all ASCII.
        own = {"DCGAN_LOG_TO": "file", "LC_ALL": "C.UTF-8", **dict(self.environment)}
        with self.console.open("wb") as console:
            output = {"stdout": console, "stderr": subprocess.STDOUT}
            group = {"cwd": self.folder, "start_new_session": True}
            logs = self.log.parent.resolve()
            process = launch(config, temporary, logs, *arguments, env=own, **output, **group)
        try:
            while find_java(self.temporary) is None and process.poll() is None:
                time.sleep(0.05)
        except KeyboardInterrupt:
            stop(process.pid)
            raise
        return process

    @contextlib.contextmanager
    def running(self, timeout_s: float = START_S) -> Iterator[subprocess.Popen[bytes]]:
        """The server, ready, for the length of a ``with`` block; gives its launcher. At the end
        nobody may use it any more.

        Raises:
            ServerError, NoJavaError: as ``start`` and ``wait_until_ready``.
        """
        process, patience_s = self.start(), 30.0
        try:
            self.wait_until_ready(process, timeout_s)
            yield process
            patience_s = 0.0  # Java by itself takes 2 s, for requests that are still to come
        finally:
            stop(process.pid, patience_s)

    def wait_until_ready(self, process: subprocess.Popen[bytes], timeout_s: float) -> None:
        """Return when a real image has been served.

        Raises:
            ServerError: TorchServe ended, the model failed to load, or time ran out.
        """
        deadline = time.monotonic() + timeout_s
        while reason := self.reason_not_ready():
            if process.poll() is not None:
                raise ServerError(f"TorchServe ended ({process.returncode}).{self._log_end()}")
            if _LOAD_FAILURE.search(self._log_text()):
                raise ServerError(f"the model failed to load.{self._log_end()}")
            if time.monotonic() > deadline:
                raise ServerError(f"not ready after {timeout_s:.0f} s: {reason}.{self._log_end()}")
            time.sleep(0.2)

    def reason_not_ready(self) -> str:
        """Empty when every worker of every version is READY and one image comes back."""
        versions = 1 + len(self.other_archives)
        return reason_not_ready(self.describe_url, self.predict_url, versions, timeout_s=30)

    def _properties(self) -> str:
        ports = self.ports
        own = {
            "inference_address": f"http://{HOST}:{ports.inference}",
            "management_address": f"http://{HOST}:{ports.management}",
            "metrics_address": f"http://{HOST}:{ports.metrics}",
            "grpc_inference_port": str(ports.grpc_inference),
            "grpc_management_port": str(ports.grpc_management),
            "model_store": str(self.model_store.resolve()),
            "load_models": self.archive,
            "metrics_config": str(ROOT / "handler" / "metrics.yaml"),
            "system_metrics_cmd": _python(ROOT / "deploy" / "system_metrics.py"),
            # As a URI: TorchServe splits vmargs at blanks.
            "vmargs": f"-Dlog4j.configurationFile={LOG_CONFIG.as_uri()}",
            **dict(self.settings),
        }
        if {**os.environ, **dict(self.environment)}.get("CUDA_VISIBLE_DEVICES") == "":
            own["number_of_gpu"] = "0"  # which TorchServe takes for all of them, and CUDA for none
        kept = [
            line
            for line in BASE_CONFIG.read_text(encoding="utf-8").splitlines()
            if line.strip() and not line.startswith("#") and line.split("=")[0] not in own
        ]
        # To Java a backslash is an escape, and what is not ASCII is Latin-1 unless it is escaped as
        # in JSON.
        lines = [*kept, *(f"{key}={json.dumps(value)[1:-1]}" for key, value in own.items()), ""]
        return "\n".join(lines)

    def _log_text(self) -> str:
        return "".join(
            path.read_text(encoding="utf-8", errors="replace")
            for path in (self.console, self.log)
            if path.exists()
        )

    def _log_end(self) -> str:
        lines = "\n  ".join(telling(self._log_text()))
        return f"\n  {lines}\nThe whole log: {self.log}"


def _python(script: Path) -> str:
    """Arguments of a Python that runs the script. TorchServe splits them at blanks, and a path may
    have some."""
    name = ascii(str(script)).replace(" ", "\\x20")
    return f"-c exec(open({name}).read())"


def telling(text: str, count: int = 8) -> list[str]:
    """The last lines that tell of a failure, or the last ones where none does, 300 characters
    each; JSON lines as ``level: message``. What is said again and again is given once."""
    lines = [_readable(line) for line in text.splitlines() if line.strip()]
    chosen = [line for line in lines if _TELLING.search(line)] or lines
    distinct = list(dict.fromkeys(line[:_LINE_CHARS] for line in reversed(chosen)))
    return distinct[:count][::-1]


def _readable(line: str) -> str:
    try:
        entry = json.loads(line)
        return f"{entry['level']}: {entry['message']} {entry.get('error', '')}".strip()
    except (ValueError, KeyError, TypeError, AttributeError):
        return line
