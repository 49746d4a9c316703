"""Where a run computes: the format, and two processes, really started by torchrun, as one run."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file

from tests.support import tiny_runs
from tests.support.tiny_runs import flags, journal, latest_state, noise_folder
from training.__main__ import main
from training.config import ConfigError
from training.distributed import World, choose_device, choose_precision
from training.start import settle

pytestmark = [pytest.mark.usefixtures("quick")]

# All that draws numbers, takes gradients of gradients or looks at the whole batch; of which R1's
# half is three pictures, two of one process and one of the other.
# In float32: in bfloat16 six updates are further apart than the tolerance.
SETTINGS = ["--precision", "float32", "--diffaugment", "on", "--instance-noise", "0.1"]
SETTINGS += ["--r1-every", "2", "--batch-size", "6", "--lr-decay-steps", "3"]
SETTINGS += ["--d-norm", "batch", "--d-group", "0", "--log-every", "1", "--sample-every", "6"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return noise_folder(tmp_path_factory.mktemp("pictures"), 24)


def spawn(processes: int, arguments: list[str]) -> subprocess.Popen[str]:
    torchrun = f"-m torch.distributed.run --standalone --nproc-per-node {processes}".split()
    command = [sys.executable, *(torchrun if processes > 1 else []), "-m", "training", *arguments]
    return tiny_runs.spawn(command, start_new_session=True)


def run(processes: int, arguments: list[str]) -> tuple[int, str, str]:
    process = spawn(processes, arguments)
    stdout, stderr = process.communicate(timeout=240)
    return process.returncode, stdout, stderr


def curves(out: Path) -> np.ndarray[Any, Any]:
    names = ("loss_d", "loss_g", "d_x", "d_g_z1", "d_g_z2", "grad_d", "grad_g")
    return np.array([[e[name] for name in names] for e in journal(out) if "loss_d" in e])


GROUPS = ["--d-group", "3", "--batch-size", "12"]


@pytest.mark.parametrize("options", [[], pytest.param(GROUPS, marks=pytest.mark.long)], ids=str)
def test_two_processes_do_what_one_does(folder: Path, tmp_path: Path, options: list[str]) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    assert main(flags(folder, one, *SETTINGS, *options)) == 0
    code, stdout, stderr = run(2, flags(folder, two, *SETTINGS, *options))
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


@pytest.mark.parametrize(
    ("options", "words"),
    [(["--batch-size", "5"], "5 cannot be shared by 2 processes; give a multiple of 2"),
     (["--batch-size", "12", "--d-group", "6"], "in groups of 6; give a multiple of 24")],
)  # fmt: skip
def test_a_batch_that_cannot_be_shared(
    folder: Path, tmp_path: Path, options: list[str], words: str
) -> None:
    with ExitStack() as held, pytest.raises(ConfigError, match=words):
        settle(flags(folder, tmp_path / "run", *options), World(0, 2), held)
    assert not (tmp_path / "run").exists()


@pytest.mark.long
def test_what_is_refused_is_told_once(folder: Path, out: Path, tmp_path: Path) -> None:
    code, _, stderr = run(2, flags(folder, tmp_path / "none", "--batch-size", "5"))
    assert code != 0
    assert stderr.count("batch_size 5 cannot be shared by 2 processes; give a multiple of 2") == 1
    assert main(flags(folder, out, *SETTINGS)) == 0
    longer = ["--resume", "--max-steps", "9", "--lr-decay-steps", "0"]
    code, _, stderr = run(2, ["--out", str(out), *longer])
    assert code != 0  # another schedule is another run, for two processes as for one
    assert "lr_decay_steps" in stderr
    assert stderr.count("error: the run in") == 1


@pytest.mark.long
def test_a_signal_to_torchrun_saves_the_run(folder: Path, out: Path) -> None:
    endless = ["--batch-size", "8", "--max-steps", "100000", "--checkpoint-every", "2"]
    process = spawn(2, flags(folder, out, *endless))
    try:
        tiny_runs.wait(process, lambda: any((out / "checkpoints").glob("step_*.pt")))
        os.kill(process.pid, signal.SIGTERM)
        stdout, stderr = process.communicate(timeout=120)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    result = json.loads(stdout)
    assert result["ended"] == "interrupted", stderr
    assert latest_state(out)["step"] == result["steps"]
    assert load_file(out / "generator.safetensors")
    for processes in (2, 1):  # another number of them may go on, too
        steps = latest_state(out)["step"] + 2
        going_on = ["--out", str(out), "--resume", "--max-steps", str(steps)]
        code, stdout, stderr = run(processes, going_on)
        assert code == 0, stderr
        assert json.loads(stdout)["steps"] == steps


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
    said = capsys.readouterr().err
    assert said.count("error: ") == said.count("(this one 2 and 1)") == (1 if rank == 0 else 0)


@pytest.mark.parametrize(
    ("native", "precision"), [(True, torch.bfloat16), (False, torch.float32)]
)  # fmt: skip
def test_a_gpu_that_only_emulates_bfloat16_computes_in_float32(
    monkeypatch: pytest.MonkeyPatch, native: bool, precision: torch.dtype
) -> None:
    """Turing and Volta: torch says yes to bfloat16 unless asked for the native one."""

    def supported(including_emulation: bool = True) -> bool:
        return native or including_emulation

    monkeypatch.setattr(torch.cuda, "is_bf16_supported", supported)
    assert choose_precision("auto", torch.device("cuda")) == precision
    assert choose_precision("bfloat16", torch.device("cuda")) == torch.bfloat16


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ("", "cuda:1"),
        ("CUDA error: no kernel image is available for execution on the device", "cpu"),
        ("CUDA error: out of memory", None),
    ],
)
def test_a_card_that_torch_has_no_kernels_for_is_left_alone(
    monkeypatch: pytest.MonkeyPatch, words: str, found: str | None
) -> None:
    ones = torch.ones

    def on_the_card(*shape: int, device: torch.device) -> torch.Tensor:
        assert device == torch.device("cuda:1")
        if words:
            raise torch.AcceleratorError(words)
        return ones(*shape)

    monkeypatch.setattr(torch, "ones", on_the_card)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    if found:
        assert choose_device(1) == torch.device(found)
    else:
        with pytest.raises(torch.AcceleratorError, match="out of memory"):
            choose_device(1)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device(1) == torch.device("cpu")
