"""Runs that go wrong, or well: what is said while they run, and the way back."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.support.tiny_runs import CPU, TINY, assert_same, journal, noise_pictures, shorten
from training import checkpoint
from training.config import TrainConfig
from training.data.avatars import load_avatars
from training.data.batches import first_equal
from training.data.decode import Pictures
from training.loop import MOST_ROLLBACKS, Outcome, train
from training.networks import new_generator
from training.step import Start, StepStats, Trainer

pytestmark = [pytest.mark.usefixtures("quick")]

SMALL = TrainConfig(
    batch_size=16, image_size=32, nz=16, ngf=8, ndf=8, max_steps=220, log_every=10,
    sample_every=50, checkpoint_every=10_000, on_dead="warn",
)  # fmt: skip


@pytest.fixture(scope="module")
def cats() -> Pictures:
    return load_avatars(32, "#c8d4e0", 0, 600)


def verdicts(config: TrainConfig, pictures: Pictures, out: Path) -> list[str]:
    """What was said, without the numbers."""
    train(config, pictures, out, CPU, torch.float32)
    return [entry["verdict"].split(":")[0] for entry in journal(out) if "verdict" in entry]


HEALTHY_RUNS: list[dict[str, Any]] = [
    {}, {"loss": "hinge"}, {"loss": "lsgan"}, {"latent": "uniform"},
    {"d_norm": "spectral", "loss": "hinge", "r1_gamma": 0.0}, {"label_smoothing": 0.1},
]  # fmt: skip


@pytest.mark.parametrize("settings", HEALTHY_RUNS, ids=str)
def test_nothing_is_said_of_a_healthy_run(
    cats: Pictures, tmp_path: Path, settings: dict[str, Any]
) -> None:
    assert verdicts(replace(SMALL, **settings), cats, tmp_path) == []


@pytest.mark.parametrize("loss", ["non-saturating", "hinge"])
def test_d_that_learns_a_hundred_times_as_fast(cats: Pictures, tmp_path: Path, loss: Any) -> None:
    config = replace(SMALL, loss=loss, lr_d=2e-2, lr_g=2e-5, r1_gamma=0.0, max_steps=400)
    assert verdicts(config, cats, tmp_path) == ["D too strong", "D has won"]


def test_learning_rates_of_one(cats: Pictures, tmp_path: Path) -> None:
    config = replace(SMALL, lr_d=1.0, lr_g=1.0, max_steps=60)
    assert verdicts(config, cats, tmp_path)[0] == "diverging"


def test_samples_that_become_one(cats: Pictures, tmp_path: Path) -> None:
    """A Generator whose first layer has lost the latents, and that does not learn them again."""
    config = replace(SMALL, lr_g=0.0, on_dead="stop")
    torch.manual_seed(0)
    one = new_generator(config.nz, config.ngf, 3, config.image_size)
    torch.nn.init.zeros_(one.layers[0].weight)
    torch.nn.init.normal_(one.layers[1].bias)  # one picture, which is not grey
    outcome = train(config, cats, tmp_path, CPU, torch.float32, start=Start(one))
    assert (outcome.ended, outcome.verdict.kind) == ("dead", "collapsed")
    assert outcome.step == 100  # the second grid


@pytest.mark.parametrize(
    ("count", "times", "batch_size"), [(4, 1, 2), (12, 1, 8), (1, 500, 8), (12, 100, 8), (63, 1, 8)]
)
def test_a_dozen_pictures_and_fewer(
    cats: Pictures, tmp_path: Path, count: int, times: int, batch_size: int
) -> None:
    """However often each stands there, and from the first line on."""
    images = np.tile(cats.images[:count], (times, 1, 1, 1))
    few = Pictures(images, "few", equal=first_equal(images))
    config = replace(SMALL, batch_size=batch_size, max_steps=20, held_out=0)
    assert verdicts(config, few, tmp_path / "none held out") == ["too little data"]
    assert verdicts(replace(config, held_out=256), few, tmp_path / "some") == ["too little data"]


def go(config: TrainConfig, out: Path) -> Outcome:
    return train(config, noise_pictures(), out, CPU, torch.float32)


def break_at(monkeypatch: pytest.MonkeyPatch, step: int, times: int) -> None:
    """Let Loss_G be no number after update ``step``, so many times."""
    update, left = Trainer.step, [times]

    def update_and_break(self: Trainer, real: torch.Tensor, number: int) -> StepStats:
        stats = update(self, real, number)
        if number + 1 == step and left[0]:
            left[0] -= 1
            return replace(stats, loss_g=torch.tensor(float("nan")))
        return stats

    monkeypatch.setattr(Trainer, "step", update_and_break)


ROLLBACK = replace(TINY, max_steps=12, on_dead="rollback", checkpoint_every=4)


def test_back_to_the_best_with_half_the_rates(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    break_at(monkeypatch, step=9, times=1)
    outcome = go(ROLLBACK, tmp_path)
    assert (outcome.ended, outcome.step) == ("finished", 12)
    entries = journal(tmp_path)
    (event,) = [entry for entry in entries if "event" in entry]
    assert event["step"] == 5  # the only grid before the end
    assert event["event"].startswith("update 9 was dead (diverged); back to update 5 with 0.5 of")
    steps = [entry["step"] for entry in entries if "loss_d" in entry]
    assert steps == list(range(1, 13))  # the file is of the run that led to the weights
    state = torch.load(tmp_path / "checkpoints" / "step_00000012.pt", weights_only=True)
    assert (state["lr_scale"], state["rollbacks"]) == (0.5, 1)
    assert state["adam_g"]["param_groups"][0]["lr"] == TINY.lr_g / 2
    assert state["adam_d"]["param_groups"][0]["lr"] == TINY.lr_d / 2


def test_killed_after_a_rollback_goes_on_from_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The checkpoint of update 8, from before the rollback, must not be the newest."""
    break_at(monkeypatch, step=9, times=1)
    whole = tmp_path / "whole"
    go(ROLLBACK, whole)
    break_at(monkeypatch, step=9, times=1)
    update = Trainer.step

    def die(self: Trainer, real: torch.Tensor, number: int) -> StepStats:
        if self.rollbacks:
            raise MemoryError
        return update(self, real, number)

    monkeypatch.setattr(Trainer, "step", die)
    out = tmp_path / "run"
    with pytest.raises(MemoryError):
        go(ROLLBACK, out)
    monkeypatch.undo()
    shorten(monkeypatch)
    assert go(replace(ROLLBACK, resume=True), out).ended == "finished"
    states = [torch.load(p / "checkpoints" / "step_00000012.pt", weights_only=True)
              for p in (whole, out)]  # fmt: skip
    assert_same(*states)


def test_a_way_back_that_cannot_be_saved_deletes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    break_at(monkeypatch, step=9, times=1)
    save = torch.save

    def full(state: dict[str, Any], path: Path) -> None:
        if state["rollbacks"]:
            raise OSError(28, "No space left on device")
        save(state, path)

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OSError, match="No space left"):
        go(ROLLBACK, tmp_path)
    names = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert names == ["best.pt", "step_00000004.pt", "step_00000008.pt"]
    assert [e["step"] for e in journal(tmp_path) if "loss_d" in e] == list(range(1, 10))


def test_the_way_back_is_taken_so_many_times(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    break_at(monkeypatch, step=9, times=100)
    outcome = go(ROLLBACK, tmp_path)
    assert (outcome.ended, outcome.step) == ("dead", 9)
    trainer = Trainer(ROLLBACK, 3, CPU, torch.float32)
    checkpoint.load_latest(tmp_path / "checkpoints", trainer)
    assert trainer.rollbacks == MOST_ROLLBACKS
    assert trainer.lr_scale == 0.5**MOST_ROLLBACKS
    assert outcome.best is not None
    assert outcome.best.is_file()


def test_nothing_to_go_back_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    break_at(monkeypatch, step=3, times=1)
    outcome = go(ROLLBACK, tmp_path)
    assert (outcome.ended, outcome.step, outcome.best) == ("dead", 3, None)


def test_a_verdict_is_said_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    break_at(monkeypatch, step=3, times=1)
    outcome = go(replace(ROLLBACK, on_dead="warn"), tmp_path)
    assert outcome.ended == "finished"
    assert [json.dumps(entry) for entry in journal(tmp_path)].count("verdict") == 0
    said = [e["verdict"].split(":")[0] for e in journal(tmp_path) if "verdict" in e]
    assert said == ["too little data", "diverged"]  # of 22 pictures, and of the number
