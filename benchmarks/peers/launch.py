"""A peer that runs for as long as a benchmark does."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import requests

from benchmarks.peers.catalogue import PEERS, PeerError
from benchmarks.peers.environments import is_installed, programs
from benchmarks.peers.model import PATH_VARIABLE
from benchmarks.running import Running
from deploy.server import HOST, ROOT, ask

_PNG = b"\x89PNG\r\n\x1a\n"


@contextmanager
def running(
    name: str, folder: Path, torchscript: Path, timeout_s: float = 120.0
) -> Iterator[Running]:
    """Start a peer, wait for its first picture, stop it at the end.

    Args:
        name: one of ``PEERS``; its environment is there.
        folder: for its log.
        torchscript: the generator, noise float32 (N, 100) -> float32 (N, 3, 64, 64) in [-1, 1].
        timeout_s: longest wait for the first picture, s.

    Raises:
        PeerError: no environment, or no picture; with the end of its log.
    """
    if not is_installed(name):
        raise PeerError("has no environment; run: make bench-peers")
    peer, port = PEERS[name], _free_port()
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
            peer.command(programs(name), port), cwd=ROOT, env=environment,
            stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True,
        )  # fmt: skip
    try:
        url = f"http://{HOST}:{port}{peer.path}"
        while not _answers(url, peer.body(0, 1)):
            if process.poll() is not None:
                raise PeerError(f"ended ({process.returncode}){_end_of(log)}")
            if time.perf_counter() - began > timeout_s:
                raise PeerError(f"gave no picture within {timeout_s:.0f} s{_end_of(log)}")
            time.sleep(0.2)
        ready_s = time.perf_counter() - began
        yield Running(url, psutil.Process(process.pid), ready_s, peer.body)
    finally:
        _stop(process)


def _answers(url: str, body: bytes) -> bool:
    try:
        reply = ask(
            "POST", url, data=body, headers={"Content-Type": "application/json"}, timeout=30
        )
    except requests.RequestException:
        return False
    return reply.ok and _PNG in reply.content


def _stop(process: subprocess.Popen[bytes]) -> None:
    """SIGTERM to the first process, SIGKILL to what is left; return when all have ended."""
    family: list[psutil.Process] = []
    with contextlib.suppress(psutil.NoSuchProcess):
        family = psutil.Process(process.pid).children(recursive=True)
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(15)
    _, alive = psutil.wait_procs(family, timeout=2)
    for member in alive:  # Triton's are in a session of their own
        with contextlib.suppress(psutil.NoSuchProcess):
            member.kill()
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)  # children of a first process that ended by itself
    process.wait()
    psutil.wait_procs(alive, timeout=5)


def _end_of(log: Path) -> str:
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return "".join(f"\n  {line[:300]}" for line in lines[-4:])


def _free_port() -> int:
    with socket.create_server((HOST, 0)) as free:
        port: int = free.getsockname()[1]
    return port
