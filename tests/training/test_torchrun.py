"""Two processes, really started by torchrun, are one run."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file

from tests.support.tiny_runs import flags, journal, latest_state, noise_folder
from training.__main__ import main

# All that draws numbers, takes gradients of gradients or looks at the whole batch; of which R1's
# half is three pictures, two of one process and one of the other.
# In float32: in bfloat16 six updates are further apart than the tolerance.
SETTINGS = ["--precision", "float32", "--diffaugment", "--instance-noise", "0.1",
            "--r1-every", "2", "--batch-size", "6", "--lr-decay-steps", "3",
            "--log-every", "1", "--sample-every", "6"]  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return noise_folder(tmp_path_factory.mktemp("pictures"), 24)


def spawn(processes: int, arguments: list[str]) -> subprocess.Popen[str]:
    command = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    return subprocess.Popen(
        [sys.executable, *(command if processes > 1 else []), "-m", "training", *arguments],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip


def run(processes: int, arguments: list[str]) -> tuple[int, str, str]:
    process = spawn(processes, arguments)
    stdout, stderr = process.communicate(timeout=240)
    return process.returncode, stdout, stderr


def curves(out: Path) -> np.ndarray[Any, Any]:
    names = ("loss_d", "loss_g", "d_x", "d_g_z1", "d_g_z2", "grad_d", "grad_g")
    return np.array([[e[name] for name in names] for e in journal(out) if "loss_d" in e])


@pytest.mark.parametrize("options", [[], ["--d-group", "3", "--batch-size", "12"]], ids=str)
def test_two_processes_do_what_one_does(folder: Path, tmp_path: Path, options: list[str]) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    for processes, out in ((1, one), (2, two)):
        code, stdout, stderr = run(processes, flags(folder, out, *SETTINGS, *options))
        assert code == 0, stderr
        assert json.loads(stdout)["ended"] == "finished"  # one of them speaks
    assert curves(one).shape == (6, 7)
    np.testing.assert_allclose(curves(two), curves(one), rtol=2e-3, atol=1e-4)
    ours, theirs = latest_state(two), latest_state(one)
    for network in ("generator", "discriminator", "ema"):  # BatchNorm's statistics among them
        assert ours[network].keys() == theirs[network].keys()
        for name, value in ours[network].items():
            torch.testing.assert_close(value, theirs[network][name], rtol=1e-2, atol=1e-4)
    names = [
        sorted(p.name for p in out.rglob("*") if "tfevents" not in p.name) for out in (one, two)
    ]
    assert names[0] == names[1]
    longer = ["--resume", "--max-steps", "9", "--lr-decay-steps", "0"]
    code, _, stderr = run(2, ["--out", str(two), *longer])
    assert code != 0  # another schedule is another run, for two processes as for one
    assert "lr_decay_steps" in stderr
    assert stderr.count("error: the run in") == 1


def test_a_signal_to_torchrun_saves_the_run(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    process = spawn(2, flags(folder, out, "--batch-size", "8", "--max-steps", "100000",
                             "--checkpoint-every", "2"))  # fmt: skip
    try:
        while not list((out / "checkpoints").glob("step_*.pt")):
            assert process.poll() is None, process.communicate()
        os.kill(process.pid, signal.SIGTERM)
        stdout, stderr = process.communicate(timeout=120)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    told = json.loads(stdout)
    assert told["ended"] == "interrupted", stderr
    assert latest_state(out)["step"] == told["steps"]
    assert load_file(out / "generator.safetensors")
    code, stdout, stderr = run(
        2, ["--out", str(out), "--resume", "--max-steps", str(told["steps"] + 2)]
    )
    assert code == 0, stderr
    assert json.loads(stdout)["steps"] == told["steps"] + 2


def test_a_batch_that_cannot_be_shared_is_refused_once(folder: Path, tmp_path: Path) -> None:
    code, _, stderr = run(2, flags(folder, tmp_path / "run", "--batch-size", "5"))
    assert code != 0
    assert stderr.count("batch_size 5 cannot be shared by 2 processes; give a multiple of 2") == 1
    assert not (tmp_path / "run").exists()


def test_so_is_one_whose_groups_cannot(folder: Path, tmp_path: Path) -> None:
    given = ["--batch-size", "12", "--d-group", "6"]
    code, _, stderr = run(2, flags(folder, tmp_path / "run", *given))
    assert code != 0
    assert "batch_size 12 cannot be shared by 2 processes in groups of 6; give a" in stderr


@pytest.mark.parametrize(("rank", "code"), [(0, 2), (1, 1)])
def test_more_processes_than_gpus_is_told_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], rank: int, code: int
) -> None:
    """As torchrun would start them on a machine with one GPU, which a test cannot ask for."""

    def no_such_gpu(_number: int) -> None:
        raise RuntimeError("CUDA error: invalid device ordinal")

    for name, value in (("WORLD_SIZE", 2), ("LOCAL_WORLD_SIZE", 2), ("LOCAL_RANK", rank)):
        monkeypatch.setenv(name, str(value))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "set_device", no_such_gpu)
    monkeypatch.setattr(dist, "get_rank", lambda: rank)
    monkeypatch.setattr(dist, "get_world_size", lambda: 2)
    for name in ("init_process_group", "destroy_process_group", "all_reduce"):
        monkeypatch.setattr(dist, name, lambda *_: None)
    assert main([]) == code
    told = capsys.readouterr().err
    assert told.count("error: ") == told.count("(this one 2 and 1)") == (1 if rank == 0 else 0)
