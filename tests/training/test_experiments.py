"""Every command of docs/experiments.md, taken from it and run, with less to do."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest
from PIL import Image

from deploy.server import ROOT
from training.__main__ import main
from training.weights import load_generator, save_generator

WEIGHTS = ROOT / "model_store" / "generator.safetensors"
PYTHON = ".venv/bin/python -m training "
BLOCKS = re.findall(
    r"```sh\n(.*?)```", (ROOT / "docs" / "experiments.md").read_text(encoding="utf-8"), re.DOTALL
)
LINES = [line for block in BLOCKS for line in block.replace("\\\n", " ").splitlines()]
COMMANDS = [shlex.split(line.split(PYTHON, 1)[1]) for line in LINES if PYTHON in line]
# Added to a command, so that all of them take seconds; what comes last counts.
LESS = {
    "train": "--max-steps 4 --sample-every 2 --batch-size 8 --ngf 4 --ndf 4 --image-size 32",
    "evaluate": "--samples 32",
    "neighbours": "--samples 32",
    "arithmetic": "--trials 1 --bases 16 --samples 1000",
    "directions": "--directions 3",
    "filters": "--pictures 64",
}
ON_WEIGHTS = {"evaluate", "compare", "neighbours", "walk", "arithmetic", "directions", "layers",
              "enlarge"}  # fmt: skip
PICTURES = {"compare", "neighbours", "walk", "arithmetic", "directions", "filters", "layers",
            "enlarge", "curves", "animation"}  # fmt: skip


def name_of(command: list[str]) -> str:
    return "train" if command[0].startswith("-") else command[0]


AS_SHOWN = {"compare", "walk", "layers", "enlarge"}  # nothing is made smaller


def test_the_page_shows_every_command() -> None:
    assert {name_of(command) for command in COMMANDS} == {"train", "evaluate", *PICTURES}


def test_every_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    generator, info = load_generator(WEIGHTS)
    few = tmp_path / "few.safetensors"  # the shipped weights, as if trained on fewer pictures
    save_generator(few, generator, {**info.provenance, "pictures": 500})
    for command in COMMANDS:
        there = [part.replace("docs/experiments", str(tmp_path)) for part in command]
        there = [part.replace("runs/small", str(tmp_path / "small")) for part in there]
        name = name_of(command)
        less = LESS.get(name, "").split() + (["--weights", str(few)] if name in ON_WEIGHTS else [])
        assert main([*there, *less]) == 0, (command, capsys.readouterr().err[-2000:])
        told = json.loads(capsys.readouterr().out)
        if name in PICTURES:
            shown = ROOT / "docs" / "experiments" / Path(told["out"]).name
            with Image.open(told["out"]) as image, Image.open(shown) as on_the_page:
                image.load()
                assert image.format == on_the_page.format
                if name in AS_SHOWN:
                    assert image.size == on_the_page.size
                else:
                    assert min(image.size) >= 64
