"""An environment for each peer: its own packages, and torch borrowed from the project's .venv.

torch and what it brings are 5.6 GB. A ``.pth`` file puts the site-packages of the running
interpreter behind those of the environment, so that a peer's pins win and the rest is shared.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
import sysconfig
from pathlib import Path

from benchmarks.peers.catalogue import PEERS, PeerError, home, requirements


def programs(name: str) -> Path:
    """The folder of the environment's programs."""
    return home(name) / "bin"


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
    _call(
        "pip", sys.executable, "-m", "pip", "--python", str(programs(name) / "python"), "install",
        "--quiet", "--no-input", "--disable-pip-version-check",
        "--requirement", str(requirements(name)),
    )  # fmt: skip
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
