"""What runs beside a benchmark, and what it sees of GPUs."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest

from benchmarks import resources
from benchmarks.resources import Background, GpuSampler
from tests.support.nvml import Nvml


def test_without_a_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resources, "nvml", Nvml(fails=True))
    with GpuSampler() as sampler:
        pass
    assert str(sampler.result()).startswith("not sampled: NVML says ")


def test_gpus_through_nvml(monkeypatch: pytest.MonkeyPatch) -> None:
    def sampled() -> list[dict[str, Any]]:
        with GpuSampler() as sampler:
            pass
        found = sampler.result()
        assert isinstance(found, list)
        return found

    monkeypatch.setattr(resources, "nvml", Nvml())
    first, second = sampled()
    assert first == {
        "name": "GPU 0", "utilisation_percent_mean": 37.0, "utilisation_percent_max": 37,
        "memory_used_mb_max": 2**30 / 1e6,
    }  # fmt: skip
    assert second["name"] == "GPU 1"
    assert second["utilisation_percent_max"] is None
    monkeypatch.setattr(resources, "nvml", Nvml(first_shares_memory=True))
    assert sampled()[0]["memory_used_mb_max"] is None


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
