"""The process of the container: TorchServe in the foreground, watched, and drained before it ends.

TorchServe itself drops what it is working on when it gets SIGTERM. So this waits, for up to
``DCGAN_DRAIN_S`` seconds (70), until no connection to the inference port is left, and stops it
only then. Connections that a client merely keeps open count too: the proxy keeps none.

TorchServe also lives on, and answers nothing, when its worker cannot be started (again). So this
ends it when no worker has been READY for ``DCGAN_NO_WORKER_S`` seconds, for a restart policy to
see. Without that variable it waits for a minute longer than the archive's model-config.yaml lets
a worker take to start, or TorchServe try again: 360 s.

Exit codes: 0 stopped by a signal, 1 TorchServe ended by itself, cannot start, or has no worker,
2 bad usage.
"""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
import zipfile
from pathlib import Path

import psutil
import yaml

from deploy import healthcheck
from deploy.java import NoJavaError
from deploy.lifecycle import ServerError, check_archive, clear, launch, stop

DRAIN_S = 70.0
"""Longer than the proxy waits for a reply: what it has accepted is finished."""
END_S = 10.0
"""What TorchServe gets to end once it is told to."""
MARGIN_S = 60.0
"""What it takes beyond the starts of workers: Java's own, and unpacking the archive."""
_PERIOD_S = 2.0


def main() -> int:
    """Run until TorchServe ends or SIGTERM or SIGINT comes; returns the exit code."""
    try:
        drain_s = _seconds("DCGAN_DRAIN_S")
        no_worker_s = _seconds("DCGAN_NO_WORKER_S")
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())
    healthcheck.DRAINING.unlink(missing_ok=True)
    try:
        settings = healthcheck.read_settings()
        for archive in settings.archives:
            check_archive(archive)
        if no_worker_s is None:
            no_worker_s = max(patience_s(archive) for archive in settings.archives)
        launcher = _start(settings)
    except (ServerError, NoJavaError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if reason := _watch(launcher, stopping, settings.description_url, no_worker_s):
        print(f"error: {reason}", file=sys.stderr)
        stop(launcher.pid, END_S)
        return 1
    healthcheck.DRAINING.touch()
    waited_s = drain(settings.inference_port, DRAIN_S if drain_s is None else drain_s)
    print(f"stopping; waited {waited_s:.1f} s for requests", file=sys.stderr)
    stop(launcher.pid, END_S)
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


def patience_s(archive: Path) -> float:
    """How long to wait for a worker: longer than one may take to start, and than TorchServe tries
    to start one again. Both are read from the archive; what is not there is TorchServe's default.
    """
    try:
        with zipfile.ZipFile(archive) as packed:
            given = yaml.safe_load(packed.read("model-config.yaml"))
    except (KeyError, yaml.YAMLError):  # TorchServe goes on without, and so says the worker
        given = None
    times = {"startupTimeout": 120, "maxRetryTimeoutInSec": 300}
    if isinstance(given, dict):
        times |= {key: given[key] for key in times if isinstance(given.get(key), int)}
    return max(times.values()) + MARGIN_S


def _seconds(name: str) -> float | None:
    """The value of a variable, None when it is not set."""
    if (text := os.environ.get(name)) is None:
        return None
    try:
        given = float(text)
    except ValueError:
        given = math.nan
    if not 0 <= given < math.inf:
        raise ValueError(f"{name} is {text!r}; give seconds, such as 70")
    return given


def _watch(
    launcher: subprocess.Popen[bytes], stopping: threading.Event, url: str, limit_s: float
) -> str:
    """Return when a signal has come, or with the reason when there is nothing to wait for."""
    missed_s, before = 0.0, time.monotonic()
    while not stopping.wait(_PERIOD_S):
        if launcher.poll() is not None:
            return f"TorchServe ended by itself ({launcher.returncode})"
        seen = _workers(url)
        now = time.monotonic()
        # A time in which the container itself was paused is not one without a worker.
        missed_s = 0.0 if "READY" in seen else missed_s + min(now - before, 3 * _PERIOD_S)
        before = now
        if missed_s > limit_s:
            return (
                f"no worker has been READY for {limit_s:g} s (now: {seen}). TorchServe has given "
                "it up or cannot start it: the log above says why. DCGAN_NO_WORKER_S is how long "
                "to wait"
            )
    return ""


def _workers(url: str) -> str:
    """The states of the workers, or why they are not known."""
    try:
        return ", ".join(healthcheck.worker_states(url, _PERIOD_S)) or "none"
    except ServerError as error:
        return str(error)


def _connected(port: int) -> bool:
    return any(
        c.laddr and c.laddr.port == port and c.status == psutil.CONN_ESTABLISHED
        for c in psutil.net_connections("tcp")
    )


def _start(settings: healthcheck.Settings) -> subprocess.Popen[bytes]:
    folder = Path(tempfile.gettempdir()).resolve()
    models = [f"{healthcheck.MODEL}={archive.name}" for archive in settings.archives]
    temporary = clear(folder / "torchserve")
    return launch(healthcheck.CONFIG, temporary, folder / "logs", "--models", *models)


if __name__ == "__main__":
    sys.exit(main())
