"""Runs of a tiny network, for the tests of the training loop."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from training import checkpoint
from training.__main__ import main
from training.config import TrainConfig
from training.data.decode import Pictures
from training.distributed import CPU
from training.loop import train
from training.step import StepStats, Trainer

TINY = TrainConfig(
    batch_size=4,
    image_size=32,
    nz=6,
    ngf=2,
    ndf=2,
    lr_g_warmup_steps=0,
    lr_decay_steps=0,
    log_every=1,
    sample_every=5,
    checkpoint_every=5,
)


def shorten(monkeypatch: pytest.MonkeyPatch) -> None:
    """Measure BatchNorm and samples on few images."""
    monkeypatch.setattr("training.loop.FINAL_CALIBRATION", 64)
    monkeypatch.setattr("training.loop.PREVIEW_CALIBRATION", 64)
    monkeypatch.setattr("training.loop.DISTANCE_SEEDS", range(16))
    monkeypatch.setattr("training.loop.PREVIEW_SEEDS", range(16))
    monkeypatch.setattr("training.sliced.DIRECTIONS", 64)


def noise_pictures(count: int = 22) -> Pictures:
    rng = np.random.default_rng(0)
    return Pictures(rng.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8), "noise")


def noise_folder(path: Path, count: int = 12) -> Path:
    path.mkdir(exist_ok=True)
    rng = np.random.default_rng(1)
    for i in range(count):
        Image.fromarray(rng.integers(0, 256, (40, 40, 3), dtype=np.uint8)).save(path / f"{i}.png")
    return path


def flags(folder: Path, out: Path, *more: str) -> list[str]:
    places = ["--data", str(folder), "--out", str(out), "--cache", str(out.parent / "cache")]
    tiny = ["--batch-size", "4", "--image-size", "32", "--nz", "6", "--ngf", "2", "--ndf", "2"]
    plain = ["--lr-g-warmup-steps", "0", "--lr-decay-steps", "0"]  # so that a run may go on longer
    return [*places, *tiny, *plain, "--max-steps", "6", *more]


def printed(
    capsys: pytest.CaptureFixture[str], command: str | list[str], **options: object
) -> dict[str, Any]:
    """Run a command that has to succeed, its words in one text and more as options; gives the
    JSON that it prints."""
    capsys.readouterr()
    code = main(_words(command, options))
    captured = capsys.readouterr()
    assert code == 0, captured.err
    found: dict[str, Any] = json.loads(captured.out)
    return found


def refused(capsys: pytest.CaptureFixture[str], command: str | list[str], **options: object) -> str:
    """As ``printed``, of a command that is bad usage: gives what it says of it."""
    capsys.readouterr()
    try:
        code = main(_words(command, options))
    except SystemExit as stopped:  # the way out of what reads the flags
        code = int(str(stopped.code))
    captured = capsys.readouterr()
    assert (code, captured.out) == (2, "")
    return captured.err


def _words(command: str | list[str], options: dict[str, object]) -> list[str]:
    words = command.split() if isinstance(command, str) else [*command]
    for name, value in options.items():
        words += [f"--{name.replace('_', '-')}", str(value)]
    return words


def after_updates(
    monkeypatch: pytest.MonkeyPatch, do: Callable[[Trainer, int, StepStats], StepStats | None]
) -> None:
    """Let something follow each update, which is given its number from 0; what it returns, if
    anything, is what the update has measured."""
    update = Trainer.step

    def step(trainer: Trainer, real: torch.Tensor, number: int) -> StepStats:
        stats = update(trainer, real, number)
        return do(trainer, number, stats) or stats

    monkeypatch.setattr(Trainer, "step", step)


def run(config: TrainConfig, pictures: Pictures, out: Path) -> dict[str, torch.Tensor]:
    """Train to the end; returns the weights."""
    out.mkdir(exist_ok=True)
    outcome = train(config, pictures, out, CPU, torch.float32)
    assert outcome.ended == "finished"
    assert outcome.step == config.max_steps
    return load_file(outcome.weights)


def untrained(folder: Path, config: TrainConfig) -> Path:
    """The folder of a run whose only checkpoint, of update 3, is of weights from another seed."""
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(config.to_json())
    trainer = Trainer(replace(config, seed=5), 3, CPU, torch.float32)
    checkpoint.save(folder / "checkpoints", checkpoint.pack(trainer, 3), 3, kept=3)
    return folder


def spawn(command: list[str], **options: Any) -> subprocess.Popen[str]:
    # On so small a network more threads wait for one another, the more the busier the machine.
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    options |= {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "env": environment}
    return subprocess.Popen(command, text=True, **options)


def start(
    folder: Path, out: Path, *more: str, until: str = "checkpoints/step_*.pt"
) -> subprocess.Popen[str]:
    """A run of its own, started and left behind when there is a file of that pattern."""
    endless = ["--max-steps", "100000", "--checkpoint-every", "2", "--log-every", "1"]
    process = spawn([sys.executable, "-m", "training", *flags(folder, out), *endless, *more])
    wait(process, lambda: any(out.glob(until)))
    return process


def wait(process: subprocess.Popen[str], true: Callable[[], bool]) -> None:
    """Return when it is so; the process must not end before."""
    deadline = time.monotonic() + 120
    while not true():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)


def journal(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "stats.jsonl").read_text().splitlines()]


def latest_state(out: Path) -> dict[str, Any]:
    return state_of(out, max((out / "checkpoints").glob("step_*.pt")).name)


def state_of(out: Path, name: str) -> dict[str, Any]:
    """What a checkpoint of a run holds."""
    state: dict[str, Any] = torch.load(out / "checkpoints" / name, weights_only=True)
    return state


def assert_same(a: object, b: object, where: str = "") -> None:
    """Equal to the bit, through dicts and lists of tensors."""
    if isinstance(a, torch.Tensor):
        assert isinstance(b, torch.Tensor)
        assert torch.equal(a, b), where
    elif isinstance(a, dict):
        assert isinstance(b, dict)
        assert a.keys() == b.keys(), where
        for key in a:
            assert_same(a[key], b[key], f"{where}/{key}")
    elif isinstance(a, list):
        assert isinstance(b, list)
        for i, (x, y) in enumerate(zip(a, b, strict=True)):
            assert_same(x, y, f"{where}/{i}")
    else:
        assert a == b, where
