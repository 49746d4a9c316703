"""Which peers there are, how each is started and how it is asked."""

from __future__ import annotations

import json
import sysconfig
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from benchmarks.closed_loop import Body, json_body
from deploy.server import HOST, ROOT

FOLDER = Path(__file__).resolve().parent


@dataclass(frozen=True)
class Peer:
    """One other server.

    Args:
        title: for tables.
        command: the folder of the environment's programs and a port, to a command line.
        path: of the URL that answers.
        body: what a request says.
        environment: variables over those of this process.
    """

    title: str
    command: Callable[[Path, int], list[str]]
    path: str = "/predict"
    body: Body = json_body
    environment: tuple[tuple[str, str], ...] = ()


class PeerError(RuntimeError):
    """A peer cannot be set up or started; the message says why."""


def requirements(name: str) -> Path:
    """The file with its exact pins."""
    return FOLDER / name / "requirements.txt"


def home(name: str) -> Path:
    """Its environment."""
    return ROOT / ".peers" / name


def triton_body(seed: int, num_images: int) -> bytes:
    """The same request in Triton's protocol, the reply asked for as bytes rather than JSON."""
    numbers = {"seed": seed, "num_images": num_images}
    return json.dumps(
        {
            "inputs": [
                {"name": name, "shape": [1, 1], "datatype": "INT64", "data": [number]}
                for name, number in numbers.items()
            ],
            "outputs": [{"name": "png", "parameters": {"binary_data": True}}],
        }
    ).encode()


def _module(name: str) -> str:
    return f"benchmarks.peers.{name}"


PEERS = {
    "fastapi": Peer(
        "FastAPI",
        lambda programs, port: [
            str(programs / "uvicorn"), f"{_module('fastapi')}.server:app",
            "--host", HOST, "--port", str(port),
        ],
    ),
    "litserve": Peer(
        "LitServe",
        lambda programs, port: [
            str(programs / "python"), "-m", f"{_module('litserve')}.server", str(port)
        ],
    ),
    "bentoml": Peer(
        "BentoML",
        lambda programs, port: [
            str(programs / "bentoml"), "serve", f"{_module('bentoml')}.service:Dcgan",
            "--host", HOST, "--port", str(port),
        ],
        environment=(("BENTOML_DO_NOT_TRACK", "True"),),
    ),
    "triton": Peer(
        "Triton",
        lambda programs, port: [
            str(programs / "python"), "-m", f"{_module('triton')}.server", str(port)
        ],
        path="/v2/models/dcgan/infer",
        body=triton_body,
        # Its stub must find the libpython of this Python and not another one of the system.
        environment=(("LD_LIBRARY_PATH", str(sysconfig.get_config_var("LIBDIR"))),),
    ),
}  # fmt: skip
