"""The speed benchmarks run, and what they compare is the same work."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from benchmarks.compare import main
from benchmarks.training_loops import (
    OurLoop,
    TrainingConfig,
    UsualLoop,
    compare,
    write_pictures,
)
from training.config import recipe_defaults
from training.losses import StepDraws

CPU = torch.device("cpu")
TINY = TrainingConfig(
    batch_size=4, image_size=32, width=2, steps=1, rounds=1, pictures=12, workers=1
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pictures")
    write_pictures(path, TINY.pictures)
    return path


def test_every_loop_has_a_row(folder: Path) -> None:
    result = compare(TINY, folder, CPU)
    for name in ("usual", "paper", "stable"):
        row = result[name]
        assert isinstance(row, dict)
        assert row["steps_per_s"] > 0
    assert result["usual"]["times_the_usual"] == 1.0  # type: ignore[index]
    assert (result["batch_size"], result["ngf"], result["device"]) == (4, 2, "cpu")


def test_both_loops_do_the_same_arithmetic(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the same weights, pictures and latents: the same losses, update after update."""
    recipe = replace(recipe_defaults("paper"), batch_size=4, image_size=32, ngf=2, ndf=2)
    usual, ours = UsualLoop(TINY, folder, CPU), OurLoop(recipe, folder, CPU)
    usual.generator.load_state_dict(ours.trainer.generator.state_dict())
    usual.discriminator.load_state_dict(ours.trainer.discriminator.state_dict())
    source = ours.source()
    for step in range(3):
        batch, latents = next(source), StepDraws(recipe.seed, step, 4, CPU).normal(100)
        with monkeypatch.context() as patched:
            patched.setattr(torch, "randn", lambda *_, latents=latents, **__: latents)
            usual.update(batch)
        ours.update(batch)
        theirs = [float(word) for word in usual.line.split()[1::2][:2]]
        losses = [ours.pending[step].loss_d.item(), ours.pending[step].loss_g.item()]
        assert losses == pytest.approx(theirs, abs=1e-3)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--steps", "0"], "steps: seen 0; allowed is 1 to 10000"),
        (["--pictures", "8", "--batch-size", "16"], "pictures: seen 8; a batch takes 16"),
    ],
)
def test_bad_usage(arguments: list[str], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["training", *arguments]) == 2
    assert told in capsys.readouterr().err


def test_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    flags = {"batch-size": 4, "image-size": 32, "width": 2, "steps": 1, "rounds": 1, "pictures": 8}
    assert main(["training", *(f"--{name}={value}" for name, value in flags.items())]) == 0
    assert json.loads(capsys.readouterr().out)["usual"]["times_the_usual"] == 1.0
