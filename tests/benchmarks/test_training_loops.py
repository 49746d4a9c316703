"""The loops run, and what they compare is the same work."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from benchmarks.compare import main
from benchmarks.training_loops import OurLoop, TrainingConfig, UsualLoop, write_pictures
from training.config import recipe_defaults
from training.data.sources import load_folder
from training.losses import StepDraws

CPU = torch.device("cpu")


def test_both_loops_do_the_same_arithmetic(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the same weights, pictures and latents: the same losses, update after update."""
    write_pictures(tmp_path, 12)
    config = TrainingConfig(batch_size=4, image_size=32, width=2, workers=1)
    recipe = replace(recipe_defaults("paper"), batch_size=4, image_size=32, ngf=2, ndf=2)
    images = load_folder(tmp_path, replace(recipe, cache=None)).images
    usual, ours = UsualLoop(config, tmp_path, CPU), OurLoop(recipe, images, CPU, torch.float32)
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


def test_every_loop_has_a_row(capsys: pytest.CaptureFixture[str]) -> None:
    flags = {"batch-size": 4, "image-size": 32, "width": 2, "steps": 1, "rounds": 1, "pictures": 8}
    assert main(["training", *(f"--{name}={value}" for name, value in flags.items())]) == 0
    result = json.loads(capsys.readouterr().out)
    assert all(result[name]["steps_per_s"] > 0 for name in ("usual", "paper", "stable"))
    assert result["usual"]["times_the_usual"] == 1.0
    assert (result["batch_size"], result["ngf"]) == (4, 2)
