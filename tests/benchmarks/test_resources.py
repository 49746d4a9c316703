"""What runs beside a benchmark, and sampling of real processes."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
import types
from collections.abc import Iterator
from contextlib import contextmanager

import psutil
import pytest

from benchmarks.resources import Background, Sampler

BUSY = "import time; e = time.process_time() + {s}\nwhile time.process_time() < e: pass\n"


@contextmanager
def running(code: str) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen([sys.executable, "-c", code])
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def test_processor_time_and_memory_of_the_whole_tree() -> None:
    code = (
        "import subprocess, sys, time; held = bytearray(80_000_000)\n"
        f"subprocess.run([sys.executable, '-c', {BUSY.format(s=0.4) + 'time.sleep(1)'!r}])\n"
        "time.sleep(60)"
    )
    with running(code) as process:
        with Sampler(process.pid) as sampler:
            time.sleep(2.2)
        server = sampler.result()["server"]
    assert 0.3 < server["cpu_s"] < 1.0
    assert server["cpu_cores"] == pytest.approx(server["cpu_s"] / 2.2, rel=0.2)
    assert 80 < server["rss_mb_max"] < 200
    assert server["processes"] == 2
    assert server["still_running"]


def test_what_was_used_before_does_not_count() -> None:
    with running(BUSY.format(s=0.5) + "time.sleep(60)") as process:
        while sum(psutil.Process(process.pid).cpu_times()[:2]) < 0.5:
            time.sleep(0.05)
        time.sleep(0.2)
        with Sampler(process.pid) as sampler:
            time.sleep(0.3)
        assert sampler.result()["server"]["cpu_s"] < 0.1


def test_a_server_that_ends_meanwhile_is_told() -> None:
    with running("import time; time.sleep(0.3)") as process:
        with Sampler(process.pid) as sampler:
            process.wait()
            time.sleep(0.6)
        assert not sampler.result()["server"]["still_running"]


def test_without_a_pid_and_without_nvml(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)  # importing it fails
    with Sampler(None) as sampler:
        pass
    result = sampler.result()
    assert result["server"] is None
    assert "pynvml is not installed" in result["gpus"]


def test_gpus_through_nvml(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stands in for NVML, which needs a GPU: one GPU that tells all, one that tells nothing."""

    class NVMLError(Exception):
        pass

    def of_first(handle: int, value: object) -> object:
        if handle != 0:
            raise NVMLError("Not Supported")
        return value

    nvml = types.SimpleNamespace(
        NVMLError=NVMLError,
        nvmlInit=lambda: None,
        nvmlDeviceGetCount=lambda: 2,
        nvmlDeviceGetHandleByIndex=lambda index: index,
        nvmlDeviceGetName=lambda handle: f"GPU {handle}",
        nvmlDeviceGetUtilizationRates=lambda h: of_first(h, types.SimpleNamespace(gpu=70)),
        nvmlDeviceGetMemoryInfo=lambda h: of_first(h, types.SimpleNamespace(used=5_000_000_000)),
    )
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    with Sampler(None) as sampler:
        pass
    first, second = sampler.result()["gpus"]
    assert first == {
        "name": "GPU 0", "utilisation_percent_mean": 70.0, "utilisation_percent_max": 70,
        "memory_used_mb_max": 5000.0,
    }  # fmt: skip
    assert second["name"] == "GPU 1"
    assert second["utilisation_percent_max"] is None


def test_it_repeats_until_the_block_ends() -> None:
    seen = threading.Event()
    calls: list[int] = []

    def act() -> None:
        calls.append(threading.get_ident())
        if len(calls) == 3:
            seen.set()

    with Background(act, 0.001):
        assert seen.wait(10)
    done = len(calls)
    time.sleep(0.05)
    assert len(calls) == done
    assert threading.get_ident() not in calls
