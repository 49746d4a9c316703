"""A run that stops, in any way, goes on as if it had not."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

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
    noise_folder,
    refused,
    run,
    spawn,
    start,
    state_of,
    wait,
)
from training import SIGNALS, checkpoint
from training.__main__ import main
from training.data.decode import Pictures
from training.loop import train
from training.networks import new_generator
from training.step import StepStats, Trainer
from training.weights import load_generator, save_generator

Captured = pytest.CaptureFixture[str]

pytestmark = [pytest.mark.usefixtures("quick")]


@pytest.mark.parametrize("count", [1, 3])
def test_the_newest_checkpoints_and_the_best_are_kept(
    pictures: Pictures, tmp_path: Path, count: int
) -> None:
    config = replace(TINY, max_steps=9, checkpoint_every=2, keep_checkpoints=count)
    run(config, pictures, tmp_path)
    kept = sorted(p.name for p in (tmp_path / "checkpoints").iterdir())
    newest = ["step_00000006.pt", "step_00000008.pt", "step_00000009.pt"]
    assert kept == ["best.pt", *newest[-count:]]


def test_the_best_is_the_one_with_the_smallest_distance(pictures: Pictures, tmp_path: Path) -> None:
    run(replace(TINY, max_steps=12, sample_every=2), pictures, tmp_path)
    distances = {e["step"]: e["distance"] for e in journal(tmp_path) if "distance" in e}
    assert sorted(distances) == [2, 4, 6, 8, 10, 12]
    best = min(distances, key=lambda step: distances[step])
    state = state_of(tmp_path, "best.pt")
    assert state["step"] == best
    assert state["best"] == {"step": best, "distance": distances[best]}
    _, info = load_generator(tmp_path / "best.safetensors")
    assert info.provenance["steps"] == best


@pytest.mark.parametrize(
    "extra",
    [
        {},
        {"r1_gamma": 0.0, "diffaugment": "on", "d_norm": "spectral", "d_group": 2},
        {
            "loss": "hinge",
            "latent": "uniform",
            "instance_noise": 0.1,
            "lr_decay_steps": 6,
            "lr_g_warmup_steps": 6,
        },
    ],
)
def test_stopping_changes_nothing(
    pictures: Pictures, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, extra: dict[str, object]
) -> None:
    config = replace(TINY, max_steps=8, **extra)  # type: ignore[arg-type]
    whole = run(config, pictures, tmp_path / "whole")
    with monkeypatch.context() as patched:
        _stop_after(4, patched)
        outcome = train(config, pictures, tmp_path / "halves", CPU, torch.float32)
    assert (outcome.ended, outcome.step) == ("interrupted", 4)
    halves = run(replace(config, resume=True), pictures, tmp_path / "halves")
    assert_same(whole, halves)
    assert_same(latest_state(tmp_path / "whole"), latest_state(tmp_path / "halves"))
    for name in ("generator.safetensors", "best.safetensors"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "halves" / name).read_bytes()


def test_a_seed_is_a_run(
    pictures: Pictures, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slower = count(step=1000)  # s: each run takes longer than the one before
    monkeypatch.setattr("training.loop._Run._seconds", lambda _: next(slower))
    config = replace(TINY, max_steps=2)
    first = run(config, pictures, tmp_path / "first")
    again = run(config, pictures, tmp_path / "again")
    other = run(replace(config, seed=1), pictures, tmp_path / "other")
    assert_same(first, again)
    files = [tmp_path / name / "generator.safetensors" for name in ("first", "again", "other")]
    assert files[0].read_bytes() == files[1].read_bytes() != files[2].read_bytes()
    assert not all(torch.equal(first[k], other[k]) for k in first)


def test_a_damaged_checkpoint_falls_back_to_the_one_before(
    pictures: Pictures, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run(replace(TINY, max_steps=6, sample_every=4, checkpoint_every=3), pictures, tmp_path)
    folder = tmp_path / "checkpoints"
    newest = folder / "step_00000006.pt"
    newest.write_bytes(newest.read_bytes()[:1000])
    trainer = Trainer(TINY, 3, CPU, torch.float32)
    best = state_of(tmp_path, "best.pt")["step"]
    assert best in {4, 6}
    assert checkpoint.load_latest(folder, trainer) == best
    assert trainer.best is not None
    assert "left out, unusable: step_00000006.pt" in caplog.text
    assert f"going on from update {best} instead" in caplog.text
    (folder / "best.pt").write_bytes(b"")
    assert checkpoint.load_latest(folder, trainer) == 3
    assert trainer.best is None  # there is none to go back to, so the next is the best
    (folder / "step_00000003.pt").write_bytes(b"")
    with pytest.raises(checkpoint.CheckpointError, match=r"_00000006.pt.*_00000003.pt.*best.pt"):
        checkpoint.load_latest(folder, trainer)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"adam_g": {}}, "update 6 is damaged, or of another network (KeyError"),
        ({"lr_scale": "x"}, "update 6 is damaged, or of another network (ValueError"),
    ],
    ids=str,
)
def test_what_is_no_whole_state_is_told(
    folder: Path, out: Path, capsys: Captured, changed: dict[str, Any], words: str
) -> None:
    assert main(flags(folder, out)) == 0
    torch.save(latest_state(out) | changed, out / "checkpoints" / "step_00000006.pt")
    (out / "checkpoints" / "best.pt").unlink()
    last = refused(capsys, "--resume --max-steps 8", out=out).splitlines()[-1]
    assert last.startswith("error: ")
    assert words in last


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (b"[1]", "list indices must be integers"),
        (b'{"a": 1}', "'step'"),
        (b"\xff\xfe", "codec can't decode byte 0xff"),
    ],
)
def test_a_journal_of_something_else_is_told(
    folder: Path, out: Path, capsys: Captured, line: bytes, words: str
) -> None:
    assert main(flags(folder, out)) == 0
    lines = out / "stats.jsonl"
    lines.write_bytes(line + b"\n" + lines.read_bytes())
    before = lines.read_bytes()
    last = refused(capsys, "--resume --max-steps 8", out=out).splitlines()[-1]
    assert last.startswith(f"error: cannot read {lines}: ")
    assert words in last
    assert lines.read_bytes() == before


def test_damaged_checkpoints_do_not_push_out_new_ones(pictures: Pictures, tmp_path: Path) -> None:
    config = replace(TINY, max_steps=6, checkpoint_every=3, keep_checkpoints=2)
    run(config, pictures, tmp_path)
    folder = tmp_path / "checkpoints"
    for path in (folder / "step_00000006.pt", folder / "best.pt"):
        path.write_bytes(b"")
    run(replace(config, max_steps=5, resume=True), pictures, tmp_path)
    names = sorted(p.name for p in folder.glob("step_*.pt"))
    assert names == ["step_00000003.pt", "step_00000005.pt"]


FULL = (
    "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]),) * 2)\n"
    "from training.__main__ import main; sys.exit(main(sys.argv[2:]))"
)


@pytest.mark.parametrize(
    ("room", "file"), [(-1, "checkpoints/step_00000041.pt"), (10, "stats.jsonl")]
)
def test_a_full_disk_leaves_what_there_is(folder: Path, out: Path, room: int, file: str) -> None:
    """No file can be longer than one of those there are already, give or take ``room``."""
    assert main(flags(folder, out, "--max-steps", "40", "--log-every", "1")) == 0
    before = {p.name: p.read_bytes() for p in (out / "checkpoints").iterdir()}
    longest = out / ("stats.jsonl" if file == "stats.jsonl" else "checkpoints/step_00000040.pt")
    limit = str(longest.stat().st_size + room)
    more = ["--out", str(out), "--resume", "--max-steps", "60", "--checkpoint-every", "1"]
    process = spawn([sys.executable, "-c", FULL, limit, *more])
    _, said = process.communicate(timeout=120)
    assert process.returncode == 1
    assert said.count("error") == 1
    assert f"error: [Errno 27] File too large: '{out / file}'; {out} is as after" in said
    assert "Traceback" not in said
    assert {p.name: p.read_bytes() for p in (out / "checkpoints").iterdir()} == before
    assert not list(out.rglob(".*"))


def test_weights_on_a_full_disk_are_told_the_same_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_path: Path, _data: bytes) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    path = tmp_path / "generator.safetensors"
    with pytest.raises(OSError, match=f"No space left on device: '{path}'"):
        save_generator(path, new_generator(6, 2, 3, 32), {})
    assert not list(tmp_path.iterdir())


def test_prefixes_of_other_wrappers_are_no_hindrance(pictures: Pictures, tmp_path: Path) -> None:
    """``module.`` (DataParallel, DDP) and ``_orig_mod.`` (torch.compile), one or both."""
    run(replace(TINY, max_steps=2), pictures, tmp_path)
    state = latest_state(tmp_path)
    plain = state["generator"]
    for network, prefix in (
        ("generator", "module."),
        ("discriminator", "_orig_mod."),
        ("ema", "module._orig_mod."),
    ):
        state[network] = {prefix + name: value for name, value in state[network].items()}
    torch.save(state, tmp_path / "checkpoints" / "step_00000002.pt")
    trainer = Trainer(TINY, 3, CPU, torch.float32)
    assert checkpoint.load_latest(tmp_path / "checkpoints", trainer) == 2
    assert_same(dict(trainer.generator.state_dict()), dict(plain))


@pytest.mark.parametrize(
    "number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.long)]
)
def test_ctrl_c_saves_and_exits_130(folder: Path, out: Path, tmp_path: Path, number: int) -> None:
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
    states = [latest_state(out), latest_state(tmp_path / "whole")]
    for state in states:
        del state["best"]  # of the samples that only a run's end draws
    assert_same(*states)


def test_a_second_ctrl_c_does_not_wait(
    folder: Path, out: Path, monkeypatch: pytest.MonkeyPatch, capfd: Captured
) -> None:
    """While the weights are measured, which takes the longest: the state is saved by then."""
    _stop_after(4, monkeypatch)
    monkeypatch.setattr("training.loop.recalibrate", lambda *_: signal.raise_signal(signal.SIGINT))
    assert main(flags(folder, out, "--sample-every", "100")) == 130
    said = capfd.readouterr().err
    assert "SIGTERM: stopping after this update" in said
    assert "saving the state after update 4; then BatchNorm is measured over 64 latents" in said
    assert f"interrupted at once; {out} is as after its last checkpoint" in said
    assert latest_state(out)["step"] == 4
    assert not (out / "generator.safetensors").exists()
    assert not (out / "run.lock").exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_before_anything_is_read(number: int) -> None:
    """While torch is being imported, which takes seconds."""
    command = [sys.executable, "-X", "importtime", "-m", "training", "--dry-run"]
    process = spawn(command)
    assert any(line.split()[-1].startswith("torch.") for line in process.stderr)
    process.send_signal(number)
    _, printed = process.communicate(timeout=60)
    assert process.returncode == 130
    said = [line for line in printed.splitlines() if not line.startswith("import time:")]
    assert said == ["interrupted; nothing was written"]


def test_in_the_background_of_a_script_ctrl_c_is_not_for_it() -> None:
    """The shell has such a process ignore it: ``python -m training &``."""
    command = ["sh", "-c", 'trap "" INT; exec "$0" -m training walk --help', sys.executable]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_while_pictures_are_decoded(out: Path, tmp_path: Path, number: int) -> None:
    """Of the cache nothing is left, nor a folder of the run."""
    folder = noise_folder(tmp_path / "pictures", 1)
    for i in range(1, 4000):
        (folder / f"{i}.png").hardlink_to(folder / "0.png")
    process = spawn([sys.executable, "-m", "training", *flags(folder, out)])
    wait(process, lambda: any((tmp_path / "cache").glob("*.partial")))
    process.send_signal(number)
    _, printed = process.communicate(timeout=60)
    assert (process.returncode, printed) == (130, "interrupted; nothing was written\n")
    assert not out.exists()
    assert [path.suffix for path in (tmp_path / "cache").iterdir()] == [".lock"]


@pytest.mark.parametrize("more", [0, pytest.param(8, marks=pytest.mark.long)])
def test_kill_9_at_any_moment_loses_nothing_but_time(
    folder: Path, tmp_path: Path, more: int
) -> None:
    """Killed again and again, mostly while it writes, then ends as one that never was.

    The first time as soon as there is a run to resume, the second after its first checkpoint.
    """
    out, whole = tmp_path / "run", tmp_path / "whole"
    often = ["--checkpoint-every", "1", "--sample-every", "7", "--log-every", "1"]
    rng = random.Random(0)
    process = start(folder, out, *often, until="config.json")
    for pause_s in (0.0, *(rng.uniform(0.0, 0.5) for _ in range(more))):
        time.sleep(pause_s)
        os.kill(process.pid, signal.SIGKILL)
        process.communicate(timeout=60)
        step = latest_step(out)
        if step > 2000:
            break  # a fast machine: enough to compare
        command = [sys.executable, "-m", "training", "--out", str(out), "--resume"]
        process = spawn(command)
        wait(process, lambda: latest_step(out) > step)  # noqa: B023 - called at once
    os.kill(process.pid, signal.SIGKILL)
    process.communicate(timeout=60)
    last = latest_step(out) + 3
    # In processes too: NumPy's number of threads, which moves the last bits of the distance, is
    # chosen when a process starts.
    for given in (["--out", str(out), "--resume"], flags(folder, whole, *often)):
        process = spawn([sys.executable, "-m", "training", *given, "--max-steps", str(last)])
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
    assert_same(latest_state(out), latest_state(whole))
    steps = [entry["step"] for entry in journal(out) if "loss_d" in entry]
    assert steps == list(range(1, last + 1))  # none twice, none missing
    assert not list(out.rglob(".*"))  # nothing half-written is left


def test_what_a_killed_process_was_writing_is_deleted(folder: Path, out: Path) -> None:
    assert main(flags(folder, out)) == 0
    for partial in (
        "checkpoints/.step_00000009-x1y2z3w_.pt",
        "samples/.step_00000009-abcdefgh.png",
        ".stats-12345678.jsonl",
        ".config-a_b_c_d_.json",
    ):
        (out / partial).write_bytes(b"half")
    (out / ".notes.txt").write_text("of the user")
    assert main(["--out", str(out), "--resume", "--max-steps", "8"]) == 0
    assert [p.name for p in out.rglob(".*")] == [".notes.txt"]


def latest_step(out: Path) -> int:
    """That of the newest checkpoint, 0 if there is none."""
    return max((int(p.stem[5:]) for p in (out / "checkpoints").glob("step_*.pt")), default=0)


def _stop_after(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a signal arrive during update ``step``."""

    def stop(_trainer: Trainer, number: int, _stats: StepStats) -> None:
        if number + 1 == step:
            signal.raise_signal(signal.SIGTERM)

    after_updates(monkeypatch, stop)
