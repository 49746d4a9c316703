"""Every command of docs/experiments.md, taken from it and run, with less to do."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from benchmarks import experiments
from benchmarks.documents import filled, parts_of
from benchmarks.experiments import DOCUMENT, MAKERS, WEIGHTS, commands_of
from deploy.server import ROOT
from training.__main__ import main
from training.weights import load_generator, save_generator

COMMANDS = commands_of((ROOT / DOCUMENT).read_text(encoding="utf-8"))
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


def test_a_run_of_other_settings_is_not_reused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The run that curves and filters are of is trained anew, and the other one kept."""
    monkeypatch.setattr("training.loop.FINAL_CALIBRATION", 64)
    pictures, out = tmp_path / "pictures", tmp_path / "small"
    pictures.mkdir()
    for i in range(12):
        Image.new("RGB", (32, 32), (20 * i, 9 * i, 0)).save(pictures / f"{i}.png")
    wanted = [*LESS["train"].split(), "--data", str(pictures), "--cache", "None", "--out", str(out)]

    def train(*changed: str) -> None:
        assert main([*wanted, *changed]) == 0

    trained: list[list[str]] = []
    monkeypatch.setattr(experiments, "run", trained.append)
    for aside, changed in enumerate(
        (["--max-steps", "2"], ["--lr-d", "0.1"], ["--sample-every", "4"])
    ):
        train(*changed)
        experiments.picture(wanted)
        assert len(trained) == aside + 1
        assert not out.exists()
        (old,) = tmp_path.glob("small-until-*")
        assert (old / "generator.safetensors").is_file()
        old.rename(tmp_path / f"old-{aside}")
    train()
    experiments.picture(wanted)
    assert len(trained) == 3
    weights = out / "generator.safetensors"  # as of an interrupted run
    generator, info = load_generator(weights)
    save_generator(weights, generator, {**info.provenance, "steps": 3})
    experiments.picture(wanted)
    assert len(trained) == 4
    capsys.readouterr()


def test_parts_to_fill_have_makers() -> None:
    documents = [ROOT / DOCUMENT, ROOT / "model_store" / "MODEL_CARD.md"]
    parts = [part for path in documents for part in parts_of(path.read_text(encoding="utf-8"))]
    assert sorted(parts) == sorted(MAKERS)


def test_only_the_wanted_parts_are_filled() -> None:
    words = "a\n<!-- numbers: one -->\nold\n<!-- end -->\n<!-- numbers: two -->\n<!-- end -->\n"
    assert filled(words, {"one": "new\nlines\n"}) == (
        "a\n<!-- numbers: one -->\nnew\nlines\n<!-- end -->\n<!-- numbers: two -->\n<!-- end -->\n"
    )
    assert filled(filled(words, {"two": "x"}), {"two": "y"}).count("x") == 0


def test_an_unknown_part_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert experiments.main(["--only", "walks"]) == 2
    assert "no part 'walks'; choose from arithmetic, directions" in capsys.readouterr().err
