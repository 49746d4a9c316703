"""Runs of a tiny network: what is written, what is said of them, signals, and the way back."""

from __future__ import annotations

import json
import os
import pickle
import signal
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import pytest
import torch

from tests.support.tiny_runs import (
    CPU,
    TINY,
    after_updates,
    assert_same,
    flags,
    journal,
    latest_state,
    noise_pictures,
    printed,
    refused,
    run,
    state_of,
)
from training import SIGNALS, checkpoint
from training.__main__ import main
from training.config import TrainConfig
from training.data.avatars import load_avatars
from training.data.batches import batches, first_equal, to_pictures
from training.data.decode import Pictures
from training.distributed import arithmetic
from training.journal import Journal
from training.loop import MOST_ROLLBACKS, Outcome, _Run, catch_stop_signals, train
from training.networks import new_generator
from training.start import starting_networks
from training.step import Best, Start, StepStats, Trainer
from training.weights import load_generator

Captured = pytest.CaptureFixture[str]

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
    real = to_pictures(next(batches(pictures.images, np.arange(22), 4, 0, 0)))
    trainer.step(real, 0)
    assert all(
        torch.equal(value, before[name]) for name, value in trainer.generator.named_parameters()
    )
    trainer.step(real, 1)
    assert trainer.adam_g.param_groups[0]["lr"] == pytest.approx(TINY.lr_g / 4)
    assert not torch.equal(next(trainer.generator.parameters()), before["layers.0.weight"])


def test_weights_of_another_shape_are_no_start(
    tmp_path: Path, folder: Path, pictures: Pictures, capsys: Captured
) -> None:
    run(replace(TINY, max_steps=1, nz=7), pictures, tmp_path / "first")
    weights = tmp_path / "first" / "generator.safetensors"
    said = refused(capsys, flags(folder, tmp_path / "second"), start_from=weights)
    assert "was trained with nz 7, this run has nz 6" in said
    assert not (tmp_path / "second").exists()


@pytest.mark.parametrize("norm", ["none", "spectral"])
def test_starts_from_the_discriminator_of_another_run(
    tmp_path: Path, folder: Path, pictures: Pictures, norm: Any
) -> None:
    run(replace(TINY, max_steps=3, d_norm=norm), pictures, tmp_path / "first")
    path = tmp_path / "first" / "checkpoints" / "step_00000003.pt"
    config = replace(TINY, d_norm=norm, start_d_from=path)
    start = pickle.loads(pickle.dumps(starting_networks(config, 3)))  # as torchrun does
    assert start.generator is None
    trainer = Trainer(config, 3, CPU, torch.float32)
    trainer.start_from(start)
    begun = trainer.discriminator.state_dict()
    saved = latest_state(tmp_path / "first")["discriminator"]
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
        ("checkpoints/step_00000001.pt", ["--d-norm", "batch"], "d_norm batch, d_group 2: "),
    ],
)
def test_what_is_no_discriminator_of_this_shape_is_no_start(
    tmp_path: Path,
    folder: Path,
    pictures: Pictures,
    capsys: Captured,
    file: str,
    options: list[str],
    words: str,
) -> None:
    run(replace(TINY, max_steps=1), pictures, tmp_path / "first")
    given = flags(folder, tmp_path / "second", *options)
    assert words in refused(capsys, given, start_d_from=tmp_path / "first" / file)
    assert not (tmp_path / "second").exists()


def test_a_run_leaves_what_it_promises(pictures: Pictures, tmp_path: Path) -> None:
    run(replace(TINY, max_steps=11), pictures, tmp_path)
    lines = journal(tmp_path)
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


def test_a_log_file_is_not_flooded(pictures: Pictures, tmp_path: Path, capsys: Captured) -> None:
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


@pytest.mark.parametrize(("on_dead", "ended"), [("stop", "dead"), ("warn", "finished")])
def test_broken_before_the_first_line_of_numbers(
    pictures: Pictures, tmp_path: Path, on_dead: Any, ended: str
) -> None:
    """All pixels are NaN: the distance of their bytes is a number, but there is no best."""
    config = replace(TINY, lr_g=1e6, lr_d=1e6, max_steps=6, log_every=1000, on_dead=on_dead)
    outcome = train(config, pictures, tmp_path, CPU, torch.float32)
    assert (outcome.ended, outcome.best) == (ended, None)
    assert outcome.verdict.kind == "diverged"
    assert not (tmp_path / "checkpoints" / "best.pt").exists()
    assert outcome.weights.is_file()  # for a look at it


def test_the_last_update_is_judged_too(
    pictures: Pictures, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its losses were measured before it."""

    def break_last(trainer: Trainer, number: int, _stats: StepStats) -> None:
        if number == 5:
            for parameter in trainer.ema.generator.parameters():
                parameter.data.fill_(float("nan"))

    after_updates(monkeypatch, break_last)
    outcome = train(replace(TINY, max_steps=6), pictures, tmp_path, CPU, torch.float32)
    assert (outcome.ended, outcome.verdict.kind) == ("dead", "diverged")
    assert "holds nan" in outcome.verdict.words
    assert "diverged" in journal(tmp_path)[-1]["verdict"]
    assert outcome.best is not None  # of update 5
    assert load_generator(outcome.best)[1].provenance["ended"] == "dead"


def test_a_best_that_cannot_be_read_is_no_reason_to_fail(
    pictures: Pictures, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run(replace(TINY, max_steps=6), pictures, tmp_path)
    trainer = Trainer(TINY, 3, CPU, torch.float32)
    step = checkpoint.load_latest(tmp_path / "checkpoints", trainer)
    (tmp_path / "checkpoints" / "best.pt").write_bytes(b"")
    trainer.best = Best(step, 0.0)
    with Journal(tmp_path / "stats.jsonl", step, True) as lines, ThreadPoolExecutor(1) as writer:
        run_ = _Run(TINY, pictures, tmp_path, trainer, lines, step, (), writer)
        outcome = run_.finish("finished")
    assert outcome.best is None
    assert "best.pt is not usable" in caplog.text


def full() -> TextIO:
    return Path("/dev/full").open("w", buffering=1)


def unread() -> TextIO:
    reading, writing = os.pipe()
    os.close(reading)
    return os.fdopen(writing, "w", buffering=1)


@pytest.mark.parametrize("lost", [full, unread, lambda: None])
def test_a_run_does_not_need_stderr(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured, lost: Any
) -> None:
    monkeypatch.setattr("sys.stderr", lost())
    assert main(flags(folder, tmp_path / "run")) == 0
    assert json.loads(capsys.readouterr().out)["ended"] == "finished"


@pytest.mark.parametrize("lost", [full, unread])
@pytest.mark.parametrize("more", [[], ["--dry-run"]])
def test_a_result_that_nobody_reads(
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: Captured,
    lost: Any,
    more: list[str],
) -> None:
    monkeypatch.setattr("sys.stdout", lost())
    assert main(flags(folder, tmp_path / "run", *more)) == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("error: the result could not be written to stdout (")
    assert (tmp_path / "run" / "generator.safetensors").exists() == (not more)


def test_command_line_from_pictures_to_weights(folder: Path, out: Path, capsys: Captured) -> None:
    assert main(flags(folder, out)) == 0
    captured = capsys.readouterr()
    result = json.loads(captured.out)
    assert result["ended"] == "finished"
    assert Path(result["weights"]).is_file()
    assert "12 pictures" in captured.err
    assert "Loss_D" in captured.err
    assert "--resume" in refused(capsys, flags(folder, out))  # the folder is not overwritten
    assert printed(capsys, "--resume --max-steps 8", out=out)["steps"] == 8  # of the run's settings
    assert "nz: the run has 6, asked for 7" in refused(capsys, "--resume --nz 7", out=out)


def test_dry_run_trains_nothing(folder: Path, tmp_path: Path, capsys: Captured) -> None:
    assert main(flags(folder, tmp_path / "run", "--dry-run")) == 0
    assert json.loads(capsys.readouterr().out)["max_steps"] == 6
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [(["--data", "no/such/folder"], "no/such/folder"), (["--image-size", "50"], "32, 64, 128, 256"),
     (["--resume", "--out", "no/such/run"], "no run to resume"),
     (["--out", "caf\udce9"], r"--out caf\xe9 is not UTF-8")],
)  # fmt: skip
def test_bad_usage_exits_2(arguments: list[str], expected: str, capsys: Captured) -> None:
    assert expected in " ".join(refused(capsys, arguments).split())


SMALL = replace(
    TINY,
    batch_size=16,
    nz=16,
    ngf=8,
    ndf=8,
    max_steps=220,
    log_every=10,
    sample_every=50,
    checkpoint_every=10_000,
    on_dead="warn",
)


@pytest.fixture(scope="module")
def cats() -> Pictures:
    return load_avatars(32, "#c8d4e0", 0, 600)


def verdicts(config: TrainConfig, pictures: Pictures, out: Path) -> list[str]:
    """What was said, without the numbers."""
    train(config, pictures, out, CPU, torch.float32)
    return [entry["verdict"].split(":")[0] for entry in journal(out) if "verdict" in entry]


def plant(monkeypatch: pytest.MonkeyPatch, numbers: dict[str, float]) -> None:
    """Let each update do nothing, and have these numbers beside those of a healthy one."""
    healthy = {"loss_d": 1.2, "loss_g": 1.1, "d_x": 0.6, "d_g_z1": 0.4, "d_g_z2": 0.35}
    measured = {"grad_d": 3.0, "grad_g": 2.0, **healthy, **numbers}
    stats = StepStats(**{name: torch.tensor(value) for name, value in measured.items()})
    monkeypatch.setattr(Trainer, "step", lambda *_: stats)


WON = {"loss_d": 0.01, "loss_g": 9.0, "d_g_z2": 0.0001}


@pytest.mark.parametrize(
    ("numbers", "steps", "said"),
    [
        ({}, 60, []),
        ({"loss_d": 0.2, "loss_g": 5.0, "d_g_z2": 0.01}, 420, ["D too strong"]),
        (WON, 390, []),  # a young run may yet recover
        (WON, 420, ["D has won"]),
        ({"grad_g": 5000.0}, 60, ["diverging"]),
        ({"loss_g": float("nan")}, 10, ["diverged"]),
    ],
)
def test_what_is_said_of_planted_numbers(
    cats: Pictures,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    numbers: dict[str, float],
    steps: int,
    said: list[str],
) -> None:
    plant(monkeypatch, numbers)
    config = replace(SMALL, max_steps=steps, sample_every=10_000)
    assert verdicts(config, cats, tmp_path) == said


HEALTHY_RUNS: list[dict[str, Any]] = [
    {}, {"loss": "hinge"}, {"loss": "lsgan"}, {"loss": "non-saturating"},
    {"latent": "uniform"}, {"d_norm": "spectral", "loss": "hinge", "r1_gamma": 0.0},
    {"loss": "non-saturating", "label_smoothing": 0.1},
]  # fmt: skip


@pytest.mark.long
@pytest.mark.parametrize("settings", HEALTHY_RUNS, ids=str)
def test_nothing_is_said_of_a_healthy_run(
    cats: Pictures, tmp_path: Path, settings: dict[str, Any]
) -> None:
    assert verdicts(replace(SMALL, **settings), cats, tmp_path) == []


@pytest.mark.long
@pytest.mark.parametrize("loss", ["non-saturating", "hinge", "relativistic"])
def test_d_that_learns_a_hundred_times_as_fast(cats: Pictures, tmp_path: Path, loss: Any) -> None:
    config = replace(SMALL, loss=loss, lr_d=2e-2, lr_g=2e-5, r1_gamma=0.0, max_steps=800)
    assert verdicts(config, cats, tmp_path)[-1:] == ["D has won"]


@pytest.mark.long
@pytest.mark.parametrize(("rate", "said"), [(0.1, "diverging"), (1.0, "diverged")])
def test_enormous_learning_rates(cats: Pictures, tmp_path: Path, rate: float, said: str) -> None:
    config = replace(SMALL, lr_d=rate, lr_g=rate, max_steps=60)
    assert verdicts(config, cats, tmp_path)[0] == said


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
    left = [times]

    def spoil(_trainer: Trainer, number: int, stats: StepStats) -> StepStats:
        if number + 1 != step or not left[0]:
            return stats
        left[0] -= 1
        return replace(stats, loss_g=torch.tensor(float("nan")))

    after_updates(monkeypatch, spoil)


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
    state = latest_state(tmp_path)
    assert (state["step"], state["lr_scale"], state["rollbacks"]) == (12, 0.5, 1)
    assert state["adam_g"]["param_groups"][0]["lr"] == TINY.lr_g / 2
    assert state["adam_d"]["param_groups"][0]["lr"] == TINY.lr_d / 2


def test_killed_after_a_rollback_goes_on_from_there(
    out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The checkpoint of update 8, from before the rollback, must not be the newest."""
    break_at(monkeypatch, step=9, times=1)
    whole = tmp_path / "whole"
    go(ROLLBACK, whole)

    def die(trainer: Trainer, _number: int, _stats: StepStats) -> None:
        if trainer.rollbacks:
            raise MemoryError

    with monkeypatch.context() as patched:
        break_at(patched, step=9, times=1)
        after_updates(patched, die)
        with pytest.raises(MemoryError):
            go(ROLLBACK, out)
    assert go(replace(ROLLBACK, resume=True), out).ended == "finished"
    assert_same(latest_state(whole), latest_state(out))


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


def test_checkpoints_are_written_while_the_run_goes_on(
    pictures: Pictures, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is written is the state of then, whatever has been trained since."""
    whole = tmp_path / "whole"
    config = replace(TINY, max_steps=5, checkpoint_every=2, keep_checkpoints=9)
    run(config, pictures, whole)
    write, released = checkpoint.write, threading.Event()

    def slow(path: Path, packed: memoryview) -> None:
        assert released.wait(60)
        write(path, packed)

    def release(_trainer: Trainer, number: int, _stats: StepStats) -> None:
        if number == 3:  # two updates after the state of two was to be written
            assert not list((tmp_path / "run" / "checkpoints").glob("step*"))
            released.set()

    monkeypatch.setattr(checkpoint, "write", slow)
    after_updates(monkeypatch, release)
    run(config, pictures, tmp_path / "run")
    for name in ("step_00000002.pt", "step_00000004.pt"):
        assert_same(state_of(whole, name), state_of(tmp_path / "run", name))


def test_grids_and_checkpoints_keep_a_distance_in_time(
    pictures: Pictures, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter(range(1000))  # each look at it is a second later
    monkeypatch.setattr("training.loop.time.monotonic", lambda: float(next(clock)))
    config = replace(TINY, max_steps=9, sample_every=1, checkpoint_every=1, keep_checkpoints=99)
    for least_s in (0, 1000):
        out = tmp_path / str(least_s)
        run(replace(config, least_seconds=float(least_s)), pictures, out)
        grids = sorted(int(p.stem[-8:]) for p in (out / "samples").glob("step*"))
        saved = sorted(int(p.stem[-8:]) for p in (out / "checkpoints").glob("step*"))
        expected = [1, 9] if least_s else list(range(1, 10))
        assert (grids, saved) == (expected, expected)


def test_the_batch_that_fits_is_found_by_trying(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    """Of a GPU whose memory holds three pictures and one pair of networks."""
    begin, update, alive = Trainer.__init__, Trainer.step, weakref.WeakSet[Trainer]()
    words = "CUDA out of memory. Tried to allocate 2 GiB.\nMore."

    def init(trainer: Trainer, *config: Any, **more: Any) -> None:
        if alive:
            raise torch.OutOfMemoryError(words)
        alive.add(trainer)
        begin(trainer, *config, **more)

    def step(trainer: Trainer, real: torch.Tensor, number: int) -> StepStats:
        if len(real) > 3:
            raise torch.OutOfMemoryError(words)
        return update(trainer, real, number)

    monkeypatch.setattr(Trainer, "__init__", init)
    monkeypatch.setattr(Trainer, "step", step)
    assert main(flags(folder, tmp_path / "run", "--batch-size", "8")) == 1
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith("error: an update of --batch-size 8 at 32 px does not fit into")
    assert said.endswith(
        "; --batch-size 2 --d-group 0 fits, in a new run with another --out (CUDA out of "
        "memory. Tried to allocate 2 GiB.)"
    )
    assert main(flags(folder, tmp_path / "none", "--batch-size", "8", "--d-group", "0")) == 1
    assert "; --batch-size 2 fits, in a new run" in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize("deterministic", [False, True])
@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_float32_is_float32_on_a_gpu_too(precision: torch.dtype, deterministic: bool) -> None:
    def flags() -> tuple[bool, str, bool, str]:
        cudnn, products = torch.backends.cudnn, torch.backends.cuda.matmul
        exact = torch.are_deterministic_algorithms_enabled()
        return cudnn.benchmark, cudnn.conv.fp32_precision, exact, products.fp32_precision

    before = flags()
    with arithmetic(precision, deterministic=deterministic):
        convolutions = "ieee" if precision is torch.float32 else "tf32"
        assert flags()[:3] == (not deterministic, convolutions, deterministic)
        assert flags()[3] != "tf32"
    assert flags() == before


def test_a_deterministic_run_uses_no_other_kernels(tmp_path: Path) -> None:
    """Torch raises where an operation has none; on a GPU other ones are in question."""
    config = replace(TINY, deterministic=True, max_steps=2, diffaugment="on", d_group=2)
    assert go(config, tmp_path).ended == "finished"


@pytest.mark.parametrize("number", SIGNALS)
def test_each_signal_is_a_wish_to_stop(number: int, capfd: Captured) -> None:
    """Heard at once; a second one, of any kind, is no wish any more."""
    with catch_stop_signals() as stop:
        assert not stop.made
        signal.raise_signal(number)
        assert stop.made
        name = signal.Signals(number).name
        assert f"{name}: stopping after this update, then saving" in capfd.readouterr().err
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(SIGNALS[SIGNALS.index(number) - 1])
    with catch_stop_signals(patient=True, speaks=False) as stop:
        for _ in range(2):
            signal.raise_signal(number)
        assert stop.made
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGINT])
def test_what_is_ignored_stays_ignored(number: int) -> None:
    """SIGHUP under nohup, SIGINT of a background process in a script."""
    before = signal.signal(number, signal.SIG_IGN)
    try:
        with catch_stop_signals() as stop:
            signal.raise_signal(number)
            assert not stop.made
    finally:
        signal.signal(number, before)
