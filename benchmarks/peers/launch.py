"""The other servers: which there are, an environment for each, and one that runs.

An environment has its own packages, and borrows torch from the project's .venv: torch and what it
brings are 5.6 GB. A ``.pth`` file puts the site-packages of the running interpreter behind those of
the environment, so that a peer's pins win and the rest is shared.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import signal
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
import requests

from benchmarks.engine import Body, json_body
from benchmarks.peers.model import PATH_VARIABLE
from benchmarks.servers import Running
from deploy.lifecycle import stop
from deploy.server import HOST, ROOT, Ports, ask, telling

_PNG = b"\x89PNG\r\n\x1a\n"
_GRACE_S = 15.0  # for a server to end, once it was told to


@dataclass(frozen=True)
class Peer:
    """One other server."""

    title: str
    command: str  # a program of its environment and arguments, with ``{port}`` for the port
    path: str = "/predict"
    body: Body = json_body
    environment: tuple[tuple[str, str], ...] = ()  # variables over those of this process


class PeerError(RuntimeError):
    """A peer cannot be set up or started; the message says why."""


def requirements(name: str) -> Path:
    """The file with its exact pins."""
    return Path(__file__).with_name(f"{name}.txt")


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


PEERS = {
    "fastapi": Peer(
        "FastAPI", f"uvicorn benchmarks.peers.fastapi:app --host {HOST} --port {{port}}"
    ),
    "litserve": Peer("LitServe", "python -m benchmarks.peers.litserve {port}"),
    "bentoml": Peer(
        "BentoML",
        f"bentoml serve benchmarks.peers.bentoml:Dcgan --host {HOST} --port {{port}}",
        environment=(("BENTOML_DO_NOT_TRACK", "True"),),
    ),
    "triton": Peer(
        "Triton",
        "python -m benchmarks.peers.triton {port}",
        path="/v2/models/dcgan/infer",
        body=triton_body,
        # Its stub must find the libpython of this Python and not another one of the system.
        environment=(("LD_LIBRARY_PATH", str(sysconfig.get_config_var("LIBDIR"))),),
    ),
}


def is_installed(name: str) -> bool:
    """Its environment is there and was made from the pins of now."""
    stamp = home(name) / "ready"
    return stamp.is_file() and stamp.read_text(encoding="utf-8") == _digest(name)


def install(name: str) -> None:
    """Make the environment, unless it is there.

    Raises:
        PeerError: venv or pip failed; their last line says why.
    """
    if is_installed(name):
        return
    print(f"setting up {PEERS[name].title} in {home(name)}", file=sys.stderr)
    _call("venv", sys.executable, "-m", "venv", "--clear", "--without-pip", str(home(name)))
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    own = home(name) / "lib" / version / "site-packages"
    (own / "project.pth").write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")
    pip = [sys.executable, "-m", "pip", "--python", str(home(name) / "bin" / "python")]
    quietly = ["--quiet", "--no-input", "--disable-pip-version-check"]
    _call("pip", *pip, "install", *quietly, "--requirement", str(requirements(name)))
    (home(name) / "ready").write_text(_digest(name), encoding="utf-8")


def _digest(name: str) -> str:
    made_from = [requirements(name).read_bytes(), sysconfig.get_path("purelib").encode()]
    return hashlib.sha256(b"\n".join(made_from)).hexdigest()


def _call(what: str, *command: str) -> None:
    ended = subprocess.run(command, capture_output=True, text=True)
    if ended.returncode:
        lines = [line for line in (ended.stdout + ended.stderr).splitlines() if line.strip()]
        errors = [line for line in lines if line.startswith("ERROR")]
        said = (errors or lines or [f"exit code {ended.returncode}"])[-1]
        raise PeerError(f"cannot be set up: {what}: {said}")


@contextmanager
def running(
    name: str, folder: Path, torchscript: Path, timeout_s: float = 120.0
) -> Iterator[Running]:
    """Start a peer, wait for its first picture, stop it at the end.

    Args:
        name: one of ``PEERS``.
        folder: for its log.
        torchscript: the generator, noise float32 (N, 100) -> float32 (N, 3, 64, 64) in [-1, 1].
        timeout_s: longest wait for the first picture, s.

    Raises:
        PeerError: no environment, or no picture; with the end of its log.
    """
    if not is_installed(name):
        raise PeerError("has no environment; run: make bench-peers")
    peer, port = PEERS[name], Ports.free().inference
    program, *arguments = peer.command.format(port=port).split()
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / f"{name}.log"
    environment = {
        **os.environ,
        **dict.fromkeys(("no_proxy", "NO_PROXY"), HOST),  # its own processes talk there as well
        PATH_VARIABLE: str(torchscript.resolve()),
        **dict(peer.environment),
    }
    began = time.perf_counter()
    with log.open("wb") as output:
        process = subprocess.Popen(
            [home(name) / "bin" / program, *arguments],
            cwd=ROOT,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        url = f"http://{HOST}:{port}{peer.path}"
        while not _answers(url, peer.body(0, 1)):
            ended = process.poll() is not None
            if ended or time.perf_counter() - began > timeout_s:
                late = f"gave no picture within {timeout_s:.0f} s"
                what = f"ended ({process.returncode})" if ended else late
                said = telling(log.read_text(errors="replace"), 4)
                raise PeerError("\n  ".join([what, *said]))
            time.sleep(0.2)
        ready_s = time.perf_counter() - began
        yield Running(url, psutil.Process(process.pid), ready_s, peer.body)
    finally:
        stop(process.pid, _GRACE_S)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # children of a first process that has ended
        process.wait()


def _answers(url: str, body: bytes) -> bool:
    try:
        reply = ask(
            "POST", url, data=body, headers={"Content-Type": "application/json"}, timeout=30
        )
    except requests.RequestException:
        return False
    return reply.ok and _PNG in reply.content
