"""What the repository's files say, and how tests run the commands that they show."""

import os
import re
import subprocess
from typing import Any

import yaml

from deploy.server import HOST, ROOT, Ports


def text_of(path: str) -> str:
    """A file of the repository."""
    return (ROOT / path).read_text(encoding="utf-8")


def yaml_of(path: str) -> Any:
    """What one of YAML holds."""
    return yaml.safe_load(text_of(path))


def commands(document: str, part: str = "") -> list[str]:
    """Those of its ``sh`` blocks that contain the part, each in one line; one at least."""
    blocks = re.findall(r"```sh\n(.*?)```", text_of(document), re.DOTALL)
    lines = [c for block in blocks for c in block.replace("\\\n", " ").splitlines() if c.strip()]
    found = [line for line in lines if part in line]
    assert found, f"{document} shows no command with {part!r}"
    return found


def at(ports: Ports, command: str) -> str:
    """The command, sent there instead of to the default ports."""
    usual = Ports()
    command = command.replace(f"{HOST}:{usual.inference}", f"{HOST}:{ports.inference}")
    command = command.replace(f"{HOST}:{usual.management}", f"{HOST}:{ports.management}")
    if "-m client" in command and "--read" not in command:
        command += f" --url http://{HOST}:{ports.inference}"
    return command


def run(command: str) -> str:
    """Run by bash in the repository's root; gives stdout."""
    # On a tiny network more threads wait for one another.
    how = {"cwd": ROOT, "env": {**os.environ, "OMP_NUM_THREADS": "1"}, "timeout": 300}
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, **how)  # type: ignore[call-overload]
    assert done.returncode == 0, f"{command}\n{done.stderr[-2000:]}"
    return done.stdout
