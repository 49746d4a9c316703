"""Runs of a tiny network: what is written, verdicts, the command line."""

import json
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.support.tiny_runs import CPU, TINY, flags, run
from training.__main__ import main
from training.data.batches import batches, to_pictures
from training.data.decode import Pictures
from training.loop import train
from training.start import starting_networks
from training.step import Start, Trainer
from training.weights import load_generator

pytestmark = [pytest.mark.usefixtures("quick")]


def test_starts_from_the_weights_of_another_run(tmp_path: Path, pictures: Pictures) -> None:
    first = run(replace(TINY, max_steps=3), pictures, tmp_path / "first")
    start, _ = load_generator(tmp_path / "first" / "generator.safetensors")
    trainer = Trainer(TINY, 3, CPU, torch.float32)
    trainer.start_from(Start(start))
    for network in (trainer.generator, trainer.ema.generator):
        for name, value in network.state_dict().items():
            assert torch.equal(value, first[name]), name


def test_generator_rests_at_the_start_of_its_warmup(pictures: Pictures) -> None:
    trainer = Trainer(replace(TINY, lr_g_warmup_steps=4), 3, CPU, torch.float32)
    before = {name: value.clone() for name, value in trainer.generator.named_parameters()}
    real = to_pictures(next(batches(pictures.images, np.arange(22), 4, 0, 0)), CPU)
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


@pytest.mark.parametrize("norm", ["none", "spectral"])
def test_starts_from_the_discriminator_of_another_run(
    tmp_path: Path, folder: Path, pictures: Pictures, norm: Any
) -> None:
    run(replace(TINY, max_steps=3, d_norm=norm), pictures, tmp_path / "first")
    path = tmp_path / "first" / "checkpoints" / "step_00000003.pt"
    config = replace(TINY, d_norm=norm, d_group=2, start_d_from=path)
    start = pickle.loads(pickle.dumps(starting_networks(config, 3)))  # as torchrun does
    assert start.generator is None
    trainer = Trainer(config, 3, CPU, torch.float32)
    trainer.start_from(start)
    begun = trainer.discriminator.state_dict()
    assert not begun.pop("layers.6.deviation_weight").any()  # new: it compares nothing yet
    saved = torch.load(path, weights_only=True)["discriminator"]
    assert begun.keys() == saved.keys()
    assert all(torch.equal(begun[name], saved[name]) for name in saved)
    assert starting_networks(replace(config, resume=True), 3).discriminator is None
    options = ["--d-norm", norm, "--start-d-from", str(path)]
    assert main(flags(folder, tmp_path / "second", *options)) == 0
    _, info = load_generator(tmp_path / "second" / "generator.safetensors")
    assert info.provenance["start_d_from"] == str(path)


@pytest.mark.parametrize(
    ("file", "options", "words"),
    [
        ("generator.safetensors", [], "a safetensors file, not a checkpoint of a run"),
        ("nothing.pt", [], "nothing.pt does not exist; give one of a run's checkpoints"),
        ("checkpoints/step_00000001.pt", ["--ndf", "3"], "has ndf 3, channels 3"),
        ("checkpoints/step_00000001.pt", ["--d-norm", "none"], "d_norm none, d_group 0: "),
    ],
)
def test_what_is_no_discriminator_of_this_shape_is_no_start(
    tmp_path: Path, folder: Path, pictures: Pictures, capsys: pytest.CaptureFixture[str],
    file: str, options: list[str], words: str,
) -> None:  # fmt: skip
    run(replace(TINY, max_steps=1), pictures, tmp_path / "first")
    given = ["--start-d-from", str(tmp_path / "first" / file), *options]
    assert main(flags(folder, tmp_path / "second", *given)) == 2
    assert words in capsys.readouterr().err
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


def test_a_log_file_is_not_flooded(
    pictures: Pictures, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A line of numbers an update goes to stats.jsonl; the bar is drawn when it is due."""
    run(replace(TINY, max_steps=30), pictures, tmp_path)
    shown = capsys.readouterr().err
    assert "Loss_D" in shown
    assert shown.count("\r") <= 5


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
     (["--resume", "--out", "no/such/run"], "no run to resume"),
     (["--out", "caf\udce9"], r"--out caf\xe9 is not UTF-8")],
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
