"""``make serve`` and ``make stop``: one background server a checkout, and a first grid.

Exit codes: 0 serving (or stopped), 1 the server cannot start or serve, 2 bad usage.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any

import psutil
import requests
import tyro

from deploy.java import NoJavaError
from deploy.lifecycle import ServerError, check_archive, stop
from deploy.server import ROOT, Ports, Server
from training.files import atomic_path

FOLDER = ROOT / ".server"
STATE = FOLDER / "server.json"
REQUEST = {"seed": 1, "num_images": 64}


@dataclass(frozen=True)
class Start:
    """Start the server unless it runs, wait until it serves, write a first grid."""

    ports: Annotated[Ports, tyro.conf.arg(name="")] = field(default_factory=Ports)
    grid: Path = Path("grid.png")
    """Where the first grid of 64 images goes."""
    timeout_s: float = 120.0
    """How long to wait for readiness."""


@dataclass(frozen=True)
class Stop:
    """Stop the server that Start left running."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    command = tyro.cli(Start | Stop, prog="python -m deploy.serve", args=arguments)
    try:
        if isinstance(command, Stop):
            print("stopped" if _stop_running() else "no server is running", file=sys.stderr)
        else:
            _serve(command)
    except (ServerError, NoJavaError, OSError, requests.RequestException) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        _stop_running()
        return 130
    return 0


def _serve(command: Start) -> None:
    server = Server(FOLDER, ROOT / "model_store", command.ports)
    wanted = {
        "ports": asdict(command.ports),
        "archive_sha256": check_archive(server.model_store / server.archive),
    }
    running = find_running()
    if running is not None and running["ports"] != wanted["ports"]:
        raise ServerError(
            f"this checkout's server runs on port {running['ports']['inference']}; "
            "make stop ends it"
        )
    if running is not None and running["archive_sha256"] != wanted["archive_sha256"]:
        print("the archive has changed since the server started: restarting", file=sys.stderr)
        _stop_running()
        running = None
    if running is None or not server.is_ready():
        _stop_running()
        _start(server, wanted, command.timeout_s)
    reply = requests.post(server.predict_url, json=REQUEST, timeout=60)
    reply.raise_for_status()
    with atomic_path(command.grid) as beside:
        beside.write_bytes(reply.content)
    print(f"serving; {command.grid} was made by:\n", file=sys.stderr)
    print(
        f"curl -X POST {server.predict_url} -H 'Content-Type: application/json' "
        f"-d '{json.dumps(REQUEST)}' -o {command.grid}"
    )


def _start(server: Server, wanted: dict[str, Any], timeout_s: float) -> None:
    FOLDER.mkdir(exist_ok=True)
    process = server.start()
    state = {**wanted, "pid": process.pid, "created": psutil.Process(process.pid).create_time()}
    with atomic_path(STATE) as beside:
        beside.write_text(json.dumps(state), encoding="utf-8")
    print(f"starting TorchServe (process {process.pid}, log {server.log})", file=sys.stderr)
    try:
        server.wait_until_ready(process, timeout_s)
    except ServerError:
        _stop_running()
        raise


def find_running() -> dict[str, Any] | None:
    """The recorded server, if that very process still exists (a pid alone can be reused)."""
    try:
        state: dict[str, Any] = json.loads(STATE.read_text(encoding="utf-8"))
        process = psutil.Process(state["pid"])
        alive = abs(process.create_time() - state["created"]) < 1.0
        return state if alive and process.status() != psutil.STATUS_ZOMBIE else None
    except (OSError, ValueError, KeyError, psutil.NoSuchProcess):
        return None


def _stop_running() -> bool:
    state = find_running()
    if state is not None:
        stop(state["pid"])
    STATE.unlink(missing_ok=True)
    return state is not None


if __name__ == "__main__":
    sys.exit(main())
