"""The process of the container: TorchServe in the foreground, drained before it is stopped.

TorchServe itself drops what it is working on when it gets SIGTERM. So this waits, for up to
``DCGAN_DRAIN_S`` seconds (70), until no connection to the inference port is left, and stops it
only then. Connections that a client merely keeps open count too: the proxy keeps none.

Exit codes: 0 stopped by a signal, 1 TorchServe ended by itself or cannot start, 2 bad usage.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import psutil

from deploy.java import NoJavaError, find_java_home

INFERENCE_PORT = 8080
DRAIN_S = 70.0
"""Longer than the proxy waits for a reply: what it has accepted is finished."""
END_S = 10.0
"""What TorchServe gets to end once it is told to."""
DRAINING = Path(tempfile.gettempdir()) / "draining"
"""Exists while the server is being stopped; deploy/healthcheck.py reports unhealthy then."""


def main() -> int:
    """Run until TorchServe ends or SIGTERM or SIGINT comes; returns the exit code."""
    text = os.environ.get("DCGAN_DRAIN_S", str(DRAIN_S))
    try:
        drain_s = float(text)
    except ValueError:
        print(f"error: DCGAN_DRAIN_S is {text!r}; give seconds, such as 70", file=sys.stderr)
        return 2
    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())
    DRAINING.unlink(missing_ok=True)
    try:
        launcher = _start()
    except (NoJavaError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    while launcher.poll() is None and not stopping.wait(0.2):
        pass
    if not stopping.is_set():
        print(f"error: TorchServe ended by itself ({launcher.returncode})", file=sys.stderr)
        return 1
    DRAINING.touch()
    waited_s = drain(INFERENCE_PORT, drain_s)
    print(f"stopping; waited {waited_s:.1f} s for requests", file=sys.stderr)
    _stop(launcher.pid)
    return 0


def drain(port: int, limit_s: float) -> float:
    """Wait until nobody is connected to ``port`` of this machine, or ``limit_s`` have passed.

    Returns:
        The seconds waited.
    """
    started = time.monotonic()
    while (waited_s := time.monotonic() - started) < limit_s and _connected(port):
        time.sleep(0.1)
    return waited_s


def _connected(port: int) -> bool:
    return any(
        c.laddr and c.laddr.port == port and c.status == psutil.CONN_ESTABLISHED
        for c in psutil.net_connections("tcp")
    )


def _start() -> subprocess.Popen[bytes]:
    temporary = tempfile.gettempdir()
    environment = {
        **os.environ, "JAVA_HOME": str(find_java_home()), "TEMP": temporary,
        "LOG_LOCATION": f"{temporary}/logs", "METRICS_LOCATION": f"{temporary}/logs",
    }  # fmt: skip
    command = [
        str(Path(sys.executable).parent / "torchserve"), "--start", "--foreground", "--ncs",
        "--ts-config", "config.properties", "--models", "dcgan=dcgan.mar",
    ]  # fmt: skip
    return subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL)


def _stop(launcher_pid: int) -> None:
    """SIGTERM to Java, which ends its workers and with that the launcher; then SIGKILL."""
    launcher = psutil.Process(launcher_pid)
    family = [*launcher.children(recursive=True), launcher]
    family[0].terminate()
    _, alive = psutil.wait_procs(family, timeout=END_S)
    for process in alive:
        process.kill()


if __name__ == "__main__":
    sys.exit(main())
