"""Is a TorchServe ready? The one answer that ``make serve``, the tests and the container go by.

Ready is: every worker of every version is READY, and one image comes back. TorchServe's own /ping
says Healthy before the model is loaded, and when it could not be loaded at all. A server that is
too busy for one image more is ready too: it must be neither restarted nor taken for broken.

As a command it asks from inside the container; with ``--alive`` only whether any worker is READY,
for a liveness probe. Exit codes: 0 yes, 1 no, with the reason on stderr, 2 bad usage.
"""

from __future__ import annotations

import json
import sys
import tempfile
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from deploy.lifecycle import ServerError

# Of the container, whose processes start in the folder of config.properties: /opt/dcgan.
CONFIG = Path("config.properties")
MODEL = "dcgan"
"""The name that requests use."""
DRAINING = Path(tempfile.gettempdir()) / "draining"
"""Exists while the server is being stopped; the health check reports unhealthy then."""

_PNG = b"\x89PNG\r\n\x1a\n"
# What is asked is on this machine, where no proxy leads to, whatever http_proxy says.
_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def worker_states(description_url: str, timeout_s: float = 5.0) -> list[str]:
    """The state of each worker of every version of the model.

    Raises:
        ServerError: TorchServe does not tell them.
    """
    seen = _versions(description_url, timeout_s)
    return [worker["status"] for version in seen for worker in version["workers"]]


def reason_not_ready(
    description_url: str, prediction_url: str, versions: int = 1, timeout_s: float = 5.0
) -> str:
    """Why requests cannot be answered; empty when they can.

    Args:
        description_url, prediction_url: of the model, on this machine.
        versions: how many of it have to be loaded.
        timeout_s: longest wait for each answer.
    """
    try:
        if reason := _unready(_versions(description_url, timeout_s), versions):
            return reason
        request = urllib.request.Request(
            prediction_url, b'{"seed": 0}', {"Content-Type": "application/json"}
        )
        try:
            with _OPENER.open(request, timeout=timeout_s) as reply:
                return "" if reply.read().startswith(_PNG) else "the reply is not a PNG"
        except urllib.error.HTTPError as error:
            # With its workers READY, TorchServe says 503 when the queue is full, and when the
            # handler itself failed, which is no sign of work.
            busy = error.code == 503 and b"InternalServerException" not in error.read(4096)
            return "" if busy else f"{error.url} answered {error.code}"
        except TimeoutError:
            seen = _versions(description_url, timeout_s)
            waiting = any(version["jobQueueStatus"]["pendingRequests"] for version in seen)
            return _unready(seen, versions) or (
                "" if waiting else f"no image came back within {timeout_s:g} s"
            )
    except ServerError as error:
        return str(error)
    except OSError as error:
        return f"TorchServe does not answer: {error}"


def _unready(seen: list[Any], versions: int) -> str:
    if len(seen) != versions:
        return f"{len(seen)} of {versions} versions are loaded"
    states = [worker["status"] for version in seen for worker in version["workers"]]
    if not all(version["workers"] for version in seen) or set(states) != {"READY"}:
        return f"not every worker is READY: {states}"
    return ""


def _versions(description_url: str, timeout_s: float) -> list[Any]:
    """Descriptions of all versions, as TorchServe gives them."""
    try:
        with _OPENER.open(f"{description_url}/all", timeout=timeout_s) as reply:
            described: list[Any] = json.load(reply)
        for version in described:
            version["workers"], version["jobQueueStatus"]["pendingRequests"]
    except urllib.error.HTTPError as error:
        raise ServerError(f"{error.url} answered {error.code}") from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ServerError(f"TorchServe does not answer: {error}") from error
    return described


@dataclass(frozen=True)
class Settings:
    """What config.properties says.

    Args:
        archives: those that TorchServe is to load.
        inference_port, management_port: on the loopback interface, whatever else they are bound to.
    """

    archives: tuple[Path, ...]
    inference_port: int
    management_port: int

    @property
    def description_url(self) -> str:
        return f"http://127.0.0.1:{self.management_port}/models/{MODEL}"

    @property
    def prediction_url(self) -> str:
        return f"http://127.0.0.1:{self.inference_port}/predictions/{MODEL}"


def read_settings() -> Settings:
    """The settings in the folder that this process was started in.

    Raises:
        ServerError: one that is needed is missing or makes no sense.
        OSError: there is no such file.
    """
    lines = CONFIG.read_text(encoding="utf-8").splitlines()
    pairs = [line.split("=", 1) for line in lines if "=" in line and not line.startswith("#")]
    given = {key.strip(): value.strip() for key, value in pairs}
    try:
        store = Path(given["model_store"])
        names = given["load_models"].split(",")
        return Settings(
            tuple(store / name.strip() for name in names),
            _port(given["inference_address"]),
            _port(given["management_address"]),
        )
    except KeyError as error:
        raise ServerError(f"{CONFIG.resolve()} does not set {error.args[0]}") from error


def _port(address: str) -> int:
    port = urlsplit(address).port
    if port is None:
        raise ServerError(
            f"{CONFIG.resolve()} has the address {address!r}; give a port as well, such as "
            "http://127.0.0.1:8080"
        )
    return port


def main(arguments: list[str]) -> int:
    """Answer for the container; returns the exit code."""
    if arguments not in ([], ["--alive"]):
        print("usage: python -m deploy.healthcheck [--alive]", file=sys.stderr)
        return 2
    try:
        settings = read_settings()
        if arguments:
            states = worker_states(settings.description_url)
            reason = "" if "READY" in states else f"no worker is READY: {states}"
        elif DRAINING.exists():
            reason = "the server is being stopped"
        else:
            reason = reason_not_ready(
                settings.description_url, settings.prediction_url, len(settings.archives)
            )
    except (ServerError, OSError) as error:
        reason = str(error)
    if reason:
        print(reason, file=sys.stderr)
    return 1 if reason else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
