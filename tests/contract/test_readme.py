"""The commands of the README, taken from it and run."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from deploy.server import ROOT, Server

pytestmark = pytest.mark.contract

BLOCKS = re.findall(r"```sh\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.S)
COMMANDS = [c for block in BLOCKS for c in block.replace("\\\n", " ").splitlines() if c.strip()]
TINY = " --max-steps {} --batch-size 4 --image-size 32 --nz 4 --ngf 2 --ndf 2"


def commands(part: str) -> list[str]:
    found = [c for c in COMMANDS if part in c]
    assert found, f"the README shows no command with {part!r}"
    return found


def run(command: str) -> str:
    done = subprocess.run(
        ["bash", "-c", command], cwd=ROOT, capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, f"{command}\n{done.stderr[-2000:]}"
    return done.stdout


def test_every_command_is_run_somewhere() -> None:
    """Those of make and torchserve by other tests or by being here at all; no unknown ones."""
    known = ("curl ", "make ", ".venv/bin/python -m training", ".venv/bin/python -m export",
             "source .venv/bin/activate", "torchserve --start --models dcgan.mar")  # fmt: skip
    assert [c for c in COMMANDS if not c.startswith(known)] == []


@pytest.mark.parametrize("command", commands("make "))
def test_make_targets_exist(command: str) -> None:
    assert run(command.split("#")[0].replace("make", "make --dry-run"))


def test_curl(server: Server, tmp_path: Path) -> None:
    for command in commands("curl"):
        moved = command.replace(
            "http://127.0.0.1:8080", f"http://127.0.0.1:{server.ports.inference}"
        )
        moved = moved.replace(
            "http://127.0.0.1:8081", f"http://127.0.0.1:{server.ports.management}"
        )
        run(f"cd {tmp_path} && {moved}")
    image = Image.open(tmp_path / "grid.png")
    assert image.size == (530, 530)


def test_training_on_your_own_pictures(tmp_path: Path) -> None:
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    rng = np.random.default_rng(0)
    for i in range(8):
        Image.fromarray(rng.integers(0, 256, (40, 40, 3), dtype=np.uint8)).save(
            pictures / f"{i}.png"
        )
    first, resumed = commands("-m training --data path") + commands("--resume")
    (export,) = commands("-m export")

    def moved(command: str) -> str:
        return command.replace("path/to/pictures", str(pictures)).replace(
            "runs/mine", f"{tmp_path}/r"
        )

    run(moved(first) + TINY.format(2))
    run(moved(resumed) + " --max-steps 3")
    run(moved(export) + f" --out {tmp_path}/store")
    assert (tmp_path / "store" / "dcgan.mar").is_file()


def test_compose_file_publishes_the_inference_port_on_this_machine_only() -> None:
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))
    ports = [port for s in compose["services"].values() for port in s.get("ports", [])]
    assert ports == ["127.0.0.1:8080:8080"]
