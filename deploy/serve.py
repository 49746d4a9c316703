"""``make serve`` and ``make stop``: one background server a checkout, and a first grid.

Exit codes: 0 serving (or stopped), 1 the server cannot start or serve, 2 bad usage, 130 after
Ctrl-C, which stops the server only if this command has started it.
"""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated

import requests
import tyro
from filelock import FileLock

from client.errors import from_reply
from client.files import write
from deploy import lifecycle
from deploy.java import NoJavaError
from deploy.lifecycle import ServerError, check_archive, find_java
from deploy.server import ROOT, START_S, Ports, Server, ask

FOLDER = ROOT / ".server"
STATE = FOLDER / "server.json"
GRID_IMAGES = 64
FAILURES = (ServerError, NoJavaError, OSError, requests.RequestException)
"""What ``start`` and ``stop`` raise when it cannot be done."""


@dataclass(frozen=True)
class Start:
    """Start the server unless it runs, wait until it serves, write a first grid."""

    ports: Annotated[Ports, tyro.conf.arg(name="")] = field(default_factory=Ports)
    grid: Path = Path("grid.png")
    """Where the first grid goes: 64 images, or as many as one request of this model may ask for."""
    timeout_s: float = START_S
    """How long to wait for readiness, and then for the grid while others keep the server busy."""

    def __post_init__(self) -> None:
        self.ports.check()


@dataclass(frozen=True)
class Stop:
    """Stop the server that Start left running."""


@dataclass(frozen=True)
class Running:
    """A server of this checkout, as it was recorded at its start.

    Args:
        pid: of its launcher.
        archive_sha256: of what it serves.
    """

    pid: int
    ports: Ports
    archive_sha256: str


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    try:
        command = tyro.cli(Start | Stop, prog="python -m deploy.serve", args=arguments)
        if isinstance(command, Stop):
            print("stopped" if stop() else "no server is running", file=sys.stderr)
        else:
            start(command)
    except FAILURES as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def start(command: Start) -> Running | None:
    """Have the server serve, and write the first grid. One that runs already is used, and waited
    for while it starts; it is never stopped, busy or not, unless its archive has changed.

    Returns:
        the server, if this call has started it.

    Raises:
        ServerError, NoJavaError, OSError, requests.RequestException: no server, or no grid. What
            this call has started is stopped if it does not serve, and also after Ctrl-C.
    """
    server = Server(FOLDER, ROOT / "model_store", command.ports)
    sha256 = check_archive(server.model_store / server.archive)
    launcher = None
    with _alone():
        process = _process()
        running = None if process is None else _recorded()
        if running is not None and running.ports != command.ports:
            raise ServerError(
                f"this checkout's server runs on port {running.ports.inference}; make stop ends it"
            )
        if process is not None and running is not None and running.archive_sha256 != sha256:
            print("the archive has changed since the server started: restarting", file=sys.stderr)
            _end(process)
            running = None
        if running is None:
            launcher = server.start()
            running = Running(launcher.pid, command.ports, sha256)
            write(STATE, json.dumps(asdict(running)).encode())
    try:
        if launcher is not None:
            print(
                f"starting TorchServe (process {launcher.pid}, log {server.log})", file=sys.stderr
            )
            server.wait_until_ready(launcher, command.timeout_s)
        else:
            _wait_for(server, running, command.timeout_s)
        grid, asked = _first_grid(server, command.timeout_s)
    except (ServerError, KeyboardInterrupt):
        if launcher is not None:
            stop(running)
        raise
    write(command.grid, grid)
    print(f"serving; {command.grid} was made by:\n", file=sys.stderr)
    print(
        f"curl --fail-with-body -X POST {server.predict_url} -H 'Content-Type: application/json' "
        f"-d '{json.dumps(asked)}' -o {command.grid}"
    )
    return running if launcher is not None else None


def stop(only: Running | None = None) -> bool:
    """Stop the server of this checkout; with ``only``, unless another one was started since.

    Returns:
        whether one ran.
    """
    with _alone():
        if only not in (None, _recorded()) or (process := _process()) is None:
            return False
        _end(process)
        return True


def _recorded() -> Running | None:
    try:
        facts = json.loads(STATE.read_text(encoding="utf-8"))
        return Running(**{**facts, "ports": Ports(**facts["ports"])})
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _process() -> int | None:
    """The server's Java, which lives on where its launcher was killed; None if it does not run."""
    return find_java((FOLDER / "tmp").resolve())


def _end(process: int) -> None:
    lifecycle.stop(process)
    STATE.unlink(missing_ok=True)


def _alone() -> FileLock:
    """No other command of this checkout starts or stops its server meanwhile."""
    FOLDER.mkdir(exist_ok=True)
    return FileLock(FOLDER / "lock")


def _wait_for(server: Server, running: Running, timeout_s: float) -> None:
    """As ``Server.wait_until_ready``, for a server that another command has started."""
    deadline = time.monotonic() + timeout_s
    print(f"a server runs here already (process {running.pid})", file=sys.stderr)
    while reason := server.reason_not_ready():
        if _process() is None:
            raise ServerError(f"the server has ended meanwhile; its log: {server.log}")
        if time.monotonic() > deadline:
            raise ServerError(
                f"the server that runs already (process {running.pid}) does not serve after "
                f"{timeout_s:.0f} s: {reason}. make stop ends it; its log: {server.log}"
            )
        time.sleep(0.2)


def _first_grid(server: Server, timeout_s: float) -> tuple[bytes, dict[str, int]]:
    """The grid, and the request that it answers.

    Raises:
        TimeoutError: the server has too much to do.
        ServerError: it refuses; the error holds what it says.
    """
    deadline = time.monotonic() + timeout_s
    while True:
        with contextlib.suppress(requests.Timeout):
            described = ask("GET", f"{server.describe_url}?customized=true", timeout=60)
            if described.status_code != requests.codes.unavailable:
                request = {"seed": 1, "num_images": min(GRID_IMAGES, _max_images(described))}
                reply = ask("POST", server.predict_url, json=request, timeout=60)
                if reply.ok:
                    return reply.content, request
                if reply.status_code != requests.codes.unavailable:
                    said = from_reply(reply)
                    raise ServerError(f"{server.predict_url} refuses {json.dumps(request)}: {said}")
        if time.monotonic() > deadline:
            raise TimeoutError(
                f"the server runs, but has been too busy for the first grid for {timeout_s:.0f} s; "
                "try again later, or see who asks it"
            )
        time.sleep(0.5)


def _max_images(described: requests.Response) -> int:
    """What the model says that one request may ask for; enough if it says nothing of it."""
    try:
        return int(described.json()[0]["customizedMetadata"]["limits"]["max_images"])
    except (ValueError, LookupError, TypeError):
        return GRID_IMAGES


if __name__ == "__main__":
    sys.exit(main())
