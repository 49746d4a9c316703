"""The commands of the README and of docs/api.md, taken from them and run."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from deploy.server import ROOT, Server
from tests.support.documents import at, commands, run, text_of
from tests.support.pixels import assert_same, precision_of

README, API = "README.md", "docs/api.md"


def test_every_command_is_run_somewhere() -> None:
    """Those of the client and of curl by test_sizes.py, the others by more tests; no unknown
    ones."""
    known = (
        "curl ",
        "make ",
        "source .venv/bin/activate",
        "torchserve --start --models dcgan.mar",
        "torchserve --stop",
        "docker compose up",
        *(f".venv/bin/python -m {package}" for package in ("training", "export", "client")),
    )
    assert [c for c in commands(README) if not c.startswith(known)] == []


@pytest.mark.parametrize("command", commands(README, "make "))
def test_make_targets_exist(command: str) -> None:
    assert run(command.split("#")[0].replace("make", "make --dry-run"))


def test_weights_that_are_named_are_packed() -> None:
    """They were passed over while an archive was there."""
    packing = "-m export --weights any.safetensors"
    assert packing in run("make --dry-run serve WEIGHTS=any.safetensors")
    assert "-m export" not in run("make --dry-run --old-file=model_store/dcgan.mar serve")


def test_the_walk(tmp_path: Path) -> None:
    (command,) = commands(README, "-m training walk")
    run(f"{command} --out {tmp_path}/walk.png")
    assert Image.open(tmp_path / "walk.png").size[0] > 64


@pytest.mark.parametrize("command", commands(API))
def test_each_command_of_the_api_page(server: Server, tmp_path: Path, command: str) -> None:
    here = at(server.ports, command)
    said = run(here if "client" in command else f"cd {tmp_path} && {here}")
    for path in tmp_path.iterdir():
        documented = ROOT / "docs" / "api" / path.name
        if documented.exists():
            ours, shown = (np.asarray(Image.open(file)) for file in (path, documented))
            assert_same(ours, shown, precision_of(server))
    if "sede" in command:
        shown_problem, *_ = re.findall(r"```json\n(.*?)```", text_of(API), re.DOTALL)
        assert json.loads(said) == json.loads(shown_problem)
