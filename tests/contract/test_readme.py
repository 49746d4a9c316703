"""The commands of the README and of docs/api.md, taken from them and run."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from deploy.server import ROOT, Server
from tests.support.pixels import assert_same, precision_of


def commands_of(document: str) -> list[str]:
    text = (ROOT / document).read_text(encoding="utf-8")
    blocks = re.findall(r"```sh\n(.*?)```", text, re.DOTALL)
    return [c for block in blocks for c in block.replace("\\\n", " ").splitlines() if c.strip()]


COMMANDS = commands_of("README.md")
API_COMMANDS = commands_of("docs/api.md")
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
    """Those of make, torchserve and compose by other tests; no unknown ones."""
    known = (
        "curl ",
        "make ",
        "source .venv/bin/activate",
        "torchserve --start --models dcgan.mar",
        "torchserve --stop",
        "docker compose up",
        *(f".venv/bin/python -m {package}" for package in ("training", "export", "client")),
    )
    assert [c for c in COMMANDS if not c.startswith(known)] == []


@pytest.mark.parametrize("command", commands("make "))
def test_make_targets_exist(command: str) -> None:
    assert run(command.split("#")[0].replace("make", "make --dry-run"))


def at(server: Server, command: str) -> str:
    """The command, sent to the tests' server instead of the default ports."""
    command = command.replace("127.0.0.1:8080", f"127.0.0.1:{server.ports.inference}")
    command = command.replace("127.0.0.1:8081", f"127.0.0.1:{server.ports.management}")
    if "-m client" in command and "--read" not in command:
        command += f" --url http://127.0.0.1:{server.ports.inference}"
    return command


def test_curl(server: Server, tmp_path: Path) -> None:
    for command in commands("curl"):
        run(f"cd {tmp_path} && {at(server, command)}")
    image = Image.open(tmp_path / "grid.png")
    assert image.size == (530, 530)


def test_the_client(server: Server, tmp_path: Path) -> None:
    for command in commands("-m client"):
        moved = command
        for name in ("grid.png", "walk.gif", "mix.png"):
            moved = moved.replace(name, str(tmp_path / name))
        run(at(server, moved))
    assert {path.name for path in tmp_path.iterdir()} == {"grid.png", "walk.gif", "mix.png"}


def test_the_walk(tmp_path: Path) -> None:
    (command,) = commands("-m training walk")
    run(f"{command} --out {tmp_path}/walk.png")
    assert Image.open(tmp_path / "walk.png").size[0] > 64


@pytest.mark.parametrize("command", API_COMMANDS)
def test_each_command_of_the_api_page(server: Server, tmp_path: Path, command: str) -> None:
    said = run(at(server, command) if "client" in command else f"cd {tmp_path} && "
               + at(server, command))  # fmt: skip
    for path in tmp_path.iterdir():
        documented = ROOT / "docs" / "api" / path.name
        if documented.exists():
            ours, shown = (np.asarray(Image.open(file)) for file in (path, documented))
            assert_same(ours, shown, precision_of(server), float32_levels=1)
    if "sede" in command:
        shown_problem = re.findall(
            r"```json\n(.*?)```", (ROOT / "docs/api.md").read_text(encoding="utf-8"), re.DOTALL
        )
        assert json.loads(said) == json.loads(shown_problem[0])


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
