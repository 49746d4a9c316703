"""The commands: those that docs/post.md shows, and what each says of bad input."""

import io
import json
import re
import shlex
import sys
from dataclasses import fields
from functools import partial
from pathlib import Path

import pytest
import torch
from PIL import Image

from deploy.server import ROOT
from tests.support.generators import AVATARS, lively, photos, weights
from tests.support.tiny_runs import refused
from training.__main__ import COMMANDS, command_class, main, summary
from training.config import TrainConfig
from training.data.avatars import load_avatars
from training.weights import load_generator, save_generator

Captured = pytest.CaptureFixture[str]

WEIGHTS = ROOT / "model_store" / "generator.safetensors"
PYTHON = ".venv/bin/python -m training "
BLOCKS = re.findall(
    r"```sh\n(.*?)```", (ROOT / "docs" / "post.md").read_text(encoding="utf-8"), re.DOTALL
)
LINES = [line for block in BLOCKS for line in block.replace("\\\n", " ").splitlines()]
SHOWN = [shlex.split(line.split(PYTHON, 1)[1]) for line in LINES if PYTHON in line]
# Added to a command, so that all of them take seconds; what comes last counts.
LESS = {
    "train": "--max-steps 4 --sample-every 2 --batch-size 8 --ngf 4 --ndf 4 --image-size 32",
    "evaluate": "--samples 32",
    "neighbours": "--samples 32",
    "arithmetic": "--terms 3 --trials 1 --samples 200",
    "directions": "--concepts glasses --steps 1 --samples 8 --closed-form 1",
    "walk": "--legs 2",
    "probe": "--labels 20",
    "ablations": "--only guidelines nz-2 --max-steps 2",
}
OF_A_RUN = {"train", "filters", "probe", "curves", "animation", "ablations"}
AS_SHOWN = {"compare", "walk", "enlarge"}  # no picture is made smaller

OF_WEIGHTS = ("walk", "enlarge", "directions", "compare", "evaluate")
PHOTOS = ["--data", "photos", "--cache", "None", "--samples", "8"]
BAD = [
    (["walk", "--seeds", "1"], "give two or more"),
    (["walk", "--seeds", "1", "-2"], "--seeds is (1, -2); it must be greater than or equal to 0"),
    (["arithmetic", "--terms", "0"], "--terms is 0; it must be greater than or equal to 1"),
    (["evaluate", "--samples", "4"], "--samples is 4; it must be greater than or equal to 8"),
    (["evaluate", "--weights", "absent.safetensors"], "absent.safetensors does not exist"),
    (["evaluate", "--beside", "absent.json"], "is no result of this command"),
    (["evaluate", "--markdown", "table.txt"], "give .md"),
    (["evaluate", "--data", "absent"], "no data 'absent'"),
    (["evaluate", *PHOTOS, "--inception-weights", "absent.pth"], "absent.pth cannot be read"),
    (["walk", "--out", "f/w.png"], "f/w.png'"),
    (["train", "--out", "f/run"], "Not a directory: 'f/run'"),
    (["walk", "--steps", "1"], "--steps is 1; it must be greater than or equal to 2"),
    (["walk", "--weights", "absent.safetensors"], "absent.safetensors does not exist"),
    (["compare", "--data", "avatarz"], "avatars"),
    (["compare", "--count", "257"], "has 256 pictures; lower --count"),
    (["curves", "--run-folder", "absent"], "give the folder of a run"),
    (["animation", "--run-folder", "absent"], "has no step_*.png"),
    (["filters", "--checkpoint", "absent.pt"], "absent.pt does not exist"),
]


@pytest.mark.parametrize(("arguments", "words"), BAD)
def test_bad_input_is_told(
    arguments: list[str],
    words: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: Captured,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "f").touch()
    photos(tmp_path / "photos", 16)
    if arguments[0] in OF_WEIGHTS and "--weights" not in arguments:
        arguments = [*arguments, "--weights", str(weights(tmp_path, lively(), **AVATARS))]
    said = refused(capsys, arguments)
    assert said.startswith("error: ")
    assert words in said
    assert not (tmp_path / "runs").exists()  # nothing was written


def test_too_little_memory_is_told(monkeypatch: pytest.MonkeyPatch, capsys: Captured) -> None:
    monkeypatch.setattr("training.__main__.settle", lambda *_: torch.empty(2**50))
    assert main([]) == 1
    assert "error: there is not enough memory (" in capsys.readouterr().err


def test_an_unknown_flag_is_bad_usage(capsys: Captured) -> None:
    assert "--steps" in refused(capsys, "walk --stepz 3")


@pytest.mark.parametrize("name", ["evaluat", "layer", "comparee"])
def test_an_unknown_command_is_bad_usage(name: str, capsys: Captured) -> None:
    said = refused(capsys, name)
    assert f"no command {name!r}" in said
    assert all(known in said for known in ("train", *COMMANDS))
    assert ("did you mean 'evaluate'" in said) == (name == "evaluat")


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_says_what_it_does_and_helps(name: str, capsys: Captured) -> None:
    assert command_class(name).__name__ == name.capitalize()
    assert summary(name)[-1] in ".:,"
    with pytest.raises(SystemExit) as stopped:
        main([name, "--help"])
    assert stopped.value.code == 0
    said = " ".join(capsys.readouterr().out.split())
    assert f"python -m training {name} [-h]" in said
    assert summary(name) in said


def test_help_has_a_line_for_every_command_and_every_setting(capsys: Captured) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["--help"])
    assert stopped.value.code == 0
    said = capsys.readouterr().out
    for name in ("train", *COMMANDS):
        assert re.search(rf"^  {name} +{re.escape(summary(name))}$", said, re.MULTILINE)
    for field in fields(TrainConfig):  # those of training itself
        assert f"--{field.name.replace('_', '-')}" in said


def test_train_may_be_named(capsys: Captured) -> None:
    flags = ["--dry-run", "--image-size", "32", "--ngf", "2", "--ndf", "2"]
    assert main(["train", *flags]) == main(flags) == 0
    first, second = capsys.readouterr().out.split("\n}\n{\n")
    assert first.removeprefix("{\n") == second.removesuffix("\n}\n")


@pytest.mark.parametrize("encoding", ["ascii", "utf-8"])
def test_a_name_that_stdout_cannot_hold(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, encoding: str
) -> None:
    """One with an accent and, from an old disk, one that is no UTF-8."""
    line = {"step": 10, "loss_d": 1.5, "loss_g": 0.5}
    (tmp_path / "stats.jsonl").write_text(json.dumps(line) + "\n")
    (tmp_path / "config.json").write_text(TrainConfig().to_json())
    shown = io.TextIOWrapper(io.BytesIO(), encoding)
    monkeypatch.setattr(sys, "stdout", shown)
    out = tmp_path / "é\udce9.png"
    assert main(["curves", "--run-folder", str(tmp_path), "--out", str(out)]) == 0
    shown.seek(0)
    assert json.load(shown)["out"] == str(out)


def name_of(command: list[str]) -> str:
    return "train" if command[0].startswith("-") else command[0]


def test_the_page_shows_every_command() -> None:
    assert {name_of(command) for command in SHOWN} == {"train", *COMMANDS}


@pytest.mark.usefixtures("quick")
def test_every_command_of_the_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    monkeypatch.chdir(ROOT)
    few_avatars = partial(load_avatars, count=128)
    monkeypatch.setattr("training.data.sources.load_avatars", few_avatars)
    monkeypatch.setattr("training.lab.latent_plots.UNSEEN", 50)
    monkeypatch.setattr("training.lab.probe.TESTED", 20)
    monkeypatch.setattr("training.lab.directions.LATENTS", 8)
    for name, less in (("SAMPLES", 64), ("BATCH", 4), ("WIDTH", 2)):
        monkeypatch.setattr(f"training.lab.ablations.{name}", less)
    # A referee that learns in no time, and not much.
    monkeypatch.setattr("training.lab.judge.SHIPPED_REFEREE", tmp_path / "absent")
    monkeypatch.setattr("training.lab.judge.KEPT", tmp_path / "judges")
    monkeypatch.setattr("training.lab.judge.PICTURES", 128)
    monkeypatch.setattr("training.lab.judge.MEASURED_ON", 50)
    generator, info = load_generator(WEIGHTS)
    few = tmp_path / "few.safetensors"  # the shipped weights, as if trained on fewer pictures
    save_generator(few, generator, {**info.provenance, "pictures": 128})
    for command in SHOWN:
        there = [part.replace("docs/post", str(tmp_path)) for part in command]
        there = [part.replace("model_store/directions", str(tmp_path / "d")) for part in there]
        there = [part.replace("runs/one", str(tmp_path / "one")) for part in there]
        name = name_of(command)
        less = LESS.get(name, "").split()
        less += ["--runs", str(tmp_path / "ablations")] if name == "ablations" else []
        less += [] if name in OF_A_RUN else ["--weights", str(few)]
        assert main([*there, *less]) == 0, (command, capsys.readouterr().err[-2000:])
        said = json.loads(capsys.readouterr().out)
        if name not in ("train", "evaluate", "probe"):
            picture = Path(said.get("picture", said["out"]))
            shown = ROOT / "docs" / "post" / picture.name
            with Image.open(picture) as image, Image.open(shown) as on_the_page:
                image.load()
                assert image.format == on_the_page.format
                if name in AS_SHOWN:
                    assert image.size == on_the_page.size
                else:
                    assert min(image.size) >= 64
