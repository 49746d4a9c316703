"""Runs of a tiny network: what is written, exact resume, interruption, verdicts."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from training import checkpoint
from training.__main__ import main
from training.config import TrainConfig
from training.data.pictures import Pictures
from training.loop import batches, train
from training.step import Trainer
from training.weights import load_generator

pytestmark = pytest.mark.unit

TINY = TrainConfig(
    batch_size=4, image_size=32, nz=6, ngf=2, ndf=2, log_every=1, sample_every=5, checkpoint_every=5
)
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def quick_calibration(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("training.loop.FINAL_CALIBRATION", 64)
    monkeypatch.setattr("training.loop.PREVIEW_CALIBRATION", 64)


@pytest.fixture(scope="module")
def pictures() -> Pictures:
    rng = np.random.default_rng(0)
    return Pictures(rng.integers(0, 256, (22, 32, 32, 3), dtype=np.uint8), "noise")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(1)
    for i in range(12):
        Image.fromarray(rng.integers(0, 256, (40, 40, 3), dtype=np.uint8)).save(path / f"{i}.png")
    return path


def flags(folder: Path, out: Path, *more: str) -> list[str]:
    return ["--data", str(folder), "--out", str(out), "--batch-size", "4", "--image-size", "32",
            "--nz", "6", "--ngf", "2", "--ndf", "2", "--max-steps", "6", *more]  # fmt: skip


def run(config: TrainConfig, pictures: Pictures, out: Path) -> dict[str, torch.Tensor]:
    out.mkdir(exist_ok=True)
    outcome = train(config, pictures, out, CPU, torch.float32)
    assert outcome.ended == "finished"
    assert outcome.step == config.max_steps
    return load_file(outcome.weights)


def latest_state(out: Path) -> dict[str, object]:
    newest = max((out / "checkpoints").glob("*.pt"))
    state: dict[str, object] = torch.load(newest, weights_only=True)
    return state


def assert_same(a: object, b: object, where: str = "") -> None:
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


def test_starts_from_the_weights_of_another_run(tmp_path: Path, pictures: Pictures) -> None:
    first = run(replace(TINY, max_steps=3), pictures, tmp_path / "first")
    start, _ = load_generator(tmp_path / "first" / "generator.safetensors")
    trainer = Trainer(TINY, 3, CPU, torch.float32)
    trainer.start_from(start)
    for network in (trainer.generator, trainer.ema.generator):
        for name, value in network.state_dict().items():
            assert torch.equal(value, first[name]), name


def test_generator_rests_at_the_start_of_its_warmup(pictures: Pictures) -> None:
    trainer = Trainer(replace(TINY, lr_g_warmup_steps=4), 3, CPU, torch.float32)
    before = {name: value.clone() for name, value in trainer.generator.named_parameters()}
    real = next(batches(pictures, 4, 0, 0))
    trainer.step(real, 0)
    assert all(torch.equal(value, before[name])
               for name, value in trainer.generator.named_parameters())  # fmt: skip
    trainer.step(real, 1)
    assert trainer.adam_g.param_groups[0]["lr"] == pytest.approx(TINY.lr_g / 4)
    assert not torch.equal(next(trainer.generator.parameters()), before["layers.0.weight"])


def test_weights_of_another_shape_are_no_start(
    tmp_path: Path, folder: Path, pictures: Pictures, capsys: pytest.CaptureFixture[str]
) -> None:
    run(replace(TINY, max_steps=1, nz=7), pictures, tmp_path / "first")
    weights = tmp_path / "first" / "generator.safetensors"
    assert main(flags(folder, tmp_path / "second", "--start-from", str(weights))) == 2
    assert "was trained with nz 7, this run has nz 6" in capsys.readouterr().err
    assert not (tmp_path / "second").exists()


def test_a_run_leaves_what_it_promises(pictures: Pictures, tmp_path: Path) -> None:
    run(replace(TINY, max_steps=11), pictures, tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "stats.jsonl").read_text().splitlines()]
    steps = [line["step"] for line in lines if "loss_d" in line]
    assert steps == list(range(1, 12))
    numbers = {"loss_d", "loss_g", "d_x", "d_g_z1", "d_g_z2", "seconds"}
    assert numbers <= lines[0].keys()
    names = sorted(p.name for p in (tmp_path / "samples").iterdir())
    assert names == ["real.png", "step_00000005.png", "step_00000010.png", "step_00000011.png"]
    _, info = load_generator(tmp_path / "generator.safetensors")
    assert (info.nz, info.ngf, info.image_size, info.channels) == (6, 2, 32, 3)
    assert info.provenance["steps"] == 11
    assert not list(tmp_path.rglob(".*"))  # nothing half-written is left


def test_only_the_newest_checkpoints_are_kept(pictures: Pictures, tmp_path: Path) -> None:
    run(replace(TINY, max_steps=9, checkpoint_every=2), pictures, tmp_path)
    kept = sorted(p.name for p in (tmp_path / "checkpoints").iterdir())
    assert kept == ["step_00000006.pt", "step_00000008.pt", "step_00000009.pt"]


@pytest.mark.parametrize(
    "extra", [{}, {"r1_gamma": 0.0, "diffaugment": True, "d_norm": "spectral"}]
)
def test_stopping_changes_nothing(
    pictures: Pictures, tmp_path: Path, extra: dict[str, object]
) -> None:
    config = replace(TINY, max_steps=8, **extra)  # type: ignore[arg-type]
    whole = run(config, pictures, tmp_path / "whole")
    run(replace(config, max_steps=4), pictures, tmp_path / "halves")
    halves = run(replace(config, resume=True), pictures, tmp_path / "halves")
    assert_same(whole, halves)
    assert_same(latest_state(tmp_path / "whole"), latest_state(tmp_path / "halves"))


def test_a_seed_is_a_run(pictures: Pictures, tmp_path: Path) -> None:
    config = replace(TINY, max_steps=2)
    first = run(config, pictures, tmp_path / "first")
    again = run(config, pictures, tmp_path / "again")
    other = run(replace(config, seed=1), pictures, tmp_path / "other")
    assert_same(first, again)
    assert not all(torch.equal(first[k], other[k]) for k in first)


def test_batches_continue_where_they_stopped(pictures: Pictures) -> None:
    whole = batches(pictures, 4, seed=3, first_step=0)
    expected = [next(whole) for _ in range(13)]  # five batches an epoch: two epochs and a bit
    late = batches(pictures, 4, seed=3, first_step=7)
    assert torch.equal(next(late), expected[7])
    first, second = torch.cat(expected[:5]), torch.cat(expected[5:10])
    assert len(torch.unique(first.flatten(1), dim=0)) == 20  # no picture twice in an epoch
    assert not torch.equal(first, second)
    assert first.shape == (20, 3, 32, 32)
    assert first.min() >= -1
    assert first.max() <= 1


def test_a_damaged_checkpoint_falls_back_to_the_one_before(
    pictures: Pictures, tmp_path: Path
) -> None:
    run(replace(TINY, max_steps=6, checkpoint_every=3), pictures, tmp_path)
    newest = tmp_path / "checkpoints" / "step_00000006.pt"
    newest.write_bytes(newest.read_bytes()[:1000])
    trainer = Trainer(TINY, 3, CPU, torch.float32)
    assert checkpoint.load_latest(tmp_path / "checkpoints", trainer) == 3
    (tmp_path / "checkpoints" / "step_00000003.pt").write_bytes(b"")
    with pytest.raises(checkpoint.CheckpointError, match=r"step_00000006.pt.*step_00000003.pt"):
        checkpoint.load_latest(tmp_path / "checkpoints", trainer)


def test_a_checkpoint_that_cannot_be_written_leaves_the_old_ones(
    pictures: Pictures, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(replace(TINY, max_steps=3), pictures, tmp_path)
    before = {p.name: p.read_bytes() for p in (tmp_path / "checkpoints").iterdir()}

    def disk_full(_state: object, path: Path) -> None:
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", disk_full)
    with pytest.raises(OSError, match="No space left"):
        checkpoint.save(tmp_path / "checkpoints", Trainer(TINY, 3, CPU, torch.float32), 9)
    assert {p.name: p.read_bytes() for p in (tmp_path / "checkpoints").iterdir()} == before


def test_a_diverged_run_stops_and_says_so(pictures: Pictures, tmp_path: Path) -> None:
    outcome = train(replace(TINY, lr_g=1e30, lr_d=1e30), pictures, tmp_path, CPU, torch.float32)
    assert outcome.ended == "dead"
    assert outcome.verdict.words.startswith("diverged")
    assert outcome.step < 20
    assert "diverged" in (tmp_path / "stats.jsonl").read_text()


def test_command_line_from_pictures_to_weights(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    assert main(flags(folder, out)) == 0
    captured = capsys.readouterr()
    result = json.loads(captured.out)
    assert result["ended"] == "finished"
    assert Path(result["weights"]).is_file()
    assert "12 pictures" in captured.err
    assert "Loss_D" in captured.err
    assert main(flags(folder, out)) == 2  # the folder is not overwritten
    assert "--resume" in capsys.readouterr().err
    assert main(["--out", str(out), "--resume", "--max-steps", "8"]) == 0  # settings are the run's
    assert json.loads(capsys.readouterr().out)["steps"] == 8
    assert main(["--out", str(out), "--resume", "--nz", "7"]) == 2
    assert "nz: the run has 6, asked for 7" in capsys.readouterr().err


def test_dry_run_trains_nothing(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(flags(folder, tmp_path / "run", "--dry-run")) == 0
    shown = capsys.readouterr().out
    assert '"max_steps": 6' in shown
    assert "Generator" in shown
    assert "(1, 3, 32, 32)" in shown
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [(["--data", "no/such/folder"], "no/such/folder"), (["--image-size", "50"], "32, 64, 128, 256"),
     (["--resume", "--out", "no/such/run"], "no run to resume")],
)  # fmt: skip
def test_bad_usage_exits_2(
    arguments: list[str], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        code = main(arguments)
    except SystemExit as stopped:  # the flag parser's own way out
        code = int(str(stopped.code))
    assert code == 2
    assert expected in " ".join(capsys.readouterr().err.split())


def start(folder: Path, out: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "training", *flags(folder, out), "--max-steps", "100000",
               "--checkpoint-every", "2", "--log-every", "1"]  # fmt: skip
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while not list((out / "checkpoints").glob("step_*.pt")):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return process


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_saves_and_exits_130(folder: Path, tmp_path: Path, number: int) -> None:
    out = tmp_path / "run"
    process = start(folder, out)
    process.send_signal(number)
    stdout, _ = process.communicate(timeout=120)
    assert process.returncode == 130
    result = json.loads(stdout)
    assert result["ended"] == "interrupted"
    assert latest_state(out)["step"] == result["steps"]
    load_generator(Path(result["weights"]))
    # What was saved is a state that an uninterrupted run goes through.
    assert main(flags(folder, tmp_path / "whole", "--max-steps", str(result["steps"]))) == 0
    assert_same(latest_state(out), latest_state(tmp_path / "whole"))


def test_kill_9_leaves_a_run_that_goes_on(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    process = start(folder, out)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate(timeout=60)
    step = int(str(latest_state(out)["step"]))
    assert main(["--out", str(out), "--resume", "--max-steps", str(step + 3)]) == 0
    lines = [json.loads(line) for line in (out / "stats.jsonl").read_text().splitlines()]
    steps = [line["step"] for line in lines if "loss_d" in line]
    assert steps == list(range(1, step + 4))  # none twice, none missing
