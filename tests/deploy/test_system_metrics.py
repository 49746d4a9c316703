"""Our collector of system metrics beside TorchServe's own, and as TorchServe runs it."""

from __future__ import annotations

import importlib.resources
import io
import logging
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from deploy import server, system_metrics
from deploy.server import ROOT
from tests.support.manifests import properties
from tests.support.nvml import Nvml

HOME = str(importlib.resources.files("ts").joinpath(".."))
LINE = re.compile(r"([A-Za-z]+\.[A-Za-z]+):([0-9.]+)\|#(.+)\|#hostname:.+,[0-9]+")
Told = dict[tuple[str, str], float]


def run(*arguments: str, pids: str = "") -> tuple[Told, list[str]]:
    """As TorchServe does: its Python, in the folder of its package. The metrics with their
    dimensions, and the lines of the workers."""
    command = [sys.executable, *arguments]
    done = subprocess.run(
        command, cwd=HOME, input=f"{pids}\n", capture_output=True, text=True, check=True
    )
    metrics, _, workers = done.stdout.partition("\n\n")
    found = [LINE.fullmatch(line) for line in metrics.splitlines()]
    assert all(found), metrics
    told = {(line[1], line[3]): float(line[2]) for line in found if line}
    return told, workers.split()


def test_it_tells_what_torchserves_own_tells() -> None:
    pid = psutil.Process().pid
    theirs, _ = run("ts/metrics/metric_collector.py", "--gpu", "0")
    ours, workers = run(str(ROOT / "deploy" / "system_metrics.py"), pids=f"{pid},1")
    own_gpus = {key for key in ours if key[0].startswith("GPU")}  # of a machine that has some
    assert ours.keys() - own_gpus == theirs.keys()
    assert len(theirs) == 7
    for key in theirs.keys() - {("CPUUtilization.Percent", "Level:Host")}:
        assert ours[key] == pytest.approx(theirs[key], rel=0.2)
    pids, memory = zip(*(line.split(":") for line in workers), strict=True)
    assert pids == (str(pid), "1")
    assert int(memory[0]) > 1e7


def test_the_use_of_the_processors_is_that_of_a_second(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """psutil's figure is of the time since it was imported: of a moment it is 0 or 100 %."""
    used = iter([0.0, 42.0])

    def later(seconds: float) -> None:
        assert seconds == 1
        next(used)

    monkeypatch.setattr(system_metrics.time, "sleep", later)
    monkeypatch.setattr(psutil, "cpu_percent", lambda: next(used))
    monkeypatch.setattr(sys, "stdin", io.StringIO("\n"))
    monkeypatch.setattr(system_metrics.system_metrics, "system_metrics", [])
    root = logging.getLogger()
    monkeypatch.setattr(root, "handlers", [])
    monkeypatch.setattr(root, "level", logging.INFO)
    system_metrics.main()
    assert "CPUUtilization.Percent:42.0|" in capsys.readouterr().out


def with_blanks(folder: Path) -> str:
    folder = folder / "a folder é"
    folder.mkdir()
    (folder / "script.py").write_text((ROOT / "deploy" / "system_metrics.py").read_text())
    return server._python(folder / "script.py")


@pytest.mark.parametrize(
    "command",
    [
        lambda _: properties((ROOT / "config.properties").read_text())["system_metrics_cmd"],
        with_blanks,
    ],
)
def test_the_settings_name_it(
    command: Callable[[Path], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """TorchServe splits at blanks and knows no quotes."""
    monkeypatch.chdir(ROOT)
    told, _ = run(*command(tmp_path).split())
    assert ("MemoryUtilization.Percent", "Level:Host") in told


def test_what_the_gpus_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(system_metrics, "nvml", Nvml())
    found = [LINE.fullmatch(str(metric)) for metric in system_metrics.gpu_metrics()]
    assert [(line[1], float(line[2]), line[3]) for line in found if line] == [
        ("GPUMemoryUtilization.Percent", 25.0, "Level:Host,device_id:0"),
        ("GPUMemoryUsed.Megabytes", 1024.0, "Level:Host,device_id:0"),
        ("GPUUtilization.Percent", 37.0, "Level:Host,device_id:0"),
        ("GPUMemoryUtilization.Percent", 50.0, "Level:Host,device_id:1"),
        ("GPUMemoryUsed.Megabytes", 2048.0, "Level:Host,device_id:1"),
    ]
    assert all(found)


def test_a_driver_that_does_not_answer_costs_the_others_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(system_metrics, "nvml", Nvml(fails=True))
    assert system_metrics.gpu_metrics() == []
    monkeypatch.setattr(system_metrics, "nvml", Nvml(first_is_lost=True))
    assert {str(metric.dimensions[1]) for metric in system_metrics.gpu_metrics()} == {"device_id:1"}


def test_a_card_without_memory_of_its_own_tells_its_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(system_metrics, "nvml", Nvml(first_shares_memory=True))
    lines = [str(metric) for metric in system_metrics.gpu_metrics()]
    assert [line.partition(":")[0] for line in lines if "device_id:0" in line] == [
        "GPUUtilization.Percent"
    ]
