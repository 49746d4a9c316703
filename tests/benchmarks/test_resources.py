"""What runs beside a benchmark, and sampling of real processes."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import psutil
import pytest

from benchmarks import resources
from benchmarks.resources import Background, Sampler
from tests.support.nvml import Nvml

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


def test_without_a_pid_and_without_a_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resources, "nvml", Nvml(fails=True))
    with Sampler(None) as sampler:
        pass
    result = sampler.result()
    assert result["server"] is None
    assert result["gpus"].startswith("not sampled: NVML says ")


def test_gpus_through_nvml(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resources, "nvml", Nvml())
    with Sampler(None) as sampler:
        pass
    first, second = sampler.result()["gpus"]
    assert first == {
        "name": "GPU 0", "utilisation_percent_mean": 37.0, "utilisation_percent_max": 37,
        "memory_used_mb_max": 2**30 / 1e6,
    }  # fmt: skip
    assert second["name"] == "GPU 1"
    assert second["utilisation_percent_max"] is None
    monkeypatch.setattr(resources, "nvml", Nvml(first_shares_memory=True))
    with Sampler(None) as sampler:
        pass
    assert sampler.result()["gpus"][0]["memory_used_mb_max"] is None


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
