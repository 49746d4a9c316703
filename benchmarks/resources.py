"""What a server and the GPUs use while a load runs, sampled twice a second in a thread."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Self

import psutil
import pynvml as nvml

_PERIOD_S = 0.5


class Background:
    """Acts again and again in a thread while its ``with`` block runs; ``period_s`` is from the end
    of one act to the start of the next."""

    def __init__(self, act: Callable[[], None], period_s: float) -> None:
        self._act, self._period_s = act, period_s
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._repeat, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *raised: object) -> None:
        self._ended.set()
        self._thread.join()

    def _repeat(self) -> None:
        while not self._ended.wait(self._period_s):
            self._act()


@dataclass
class _Family:
    """A process and its descendants, those that come and go included."""

    root: psutil.Process
    first_cpu_s: dict[psutil.Process, float] = field(default_factory=dict)
    last_cpu_s: dict[psutil.Process, float] = field(default_factory=dict)
    rss_bytes_max: int = 0
    processes: int = 0

    def sample(self, start: bool = False) -> None:
        rss_bytes = []
        with contextlib.suppress(psutil.NoSuchProcess):
            for member in [self.root, *self.root.children(recursive=True)]:
                with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
                    cpu_s = sum(member.cpu_times()[:2])
                    rss_bytes.append(member.memory_info().rss)
                    # One that appears while the load runs has worked only for the load.
                    self.first_cpu_s.setdefault(member, cpu_s if start else 0.0)
                    self.last_cpu_s[member] = cpu_s
        self.rss_bytes_max = max(self.rss_bytes_max, sum(rss_bytes))
        self.processes = max(self.processes, len(rss_bytes))

    def cpu_s(self) -> float:
        return sum(self.last_cpu_s.values()) - sum(self.first_cpu_s.values())


@dataclass
class _Gpu:
    """One GPU through NVML; what it does not support stays empty."""

    handle: Any
    name: str
    utilisation: list[int] = field(default_factory=list)
    used_bytes: list[int] = field(default_factory=list)

    def sample(self) -> None:
        with contextlib.suppress(nvml.NVMLError):
            self.utilisation.append(nvml.nvmlDeviceGetUtilizationRates(self.handle).gpu)
        with contextlib.suppress(nvml.NVMLError):
            self.used_bytes.append(nvml.nvmlDeviceGetMemoryInfo(self.handle).used)

    def result(self) -> dict[str, Any]:
        seen = self.utilisation
        return {
            "name": self.name,
            "utilisation_percent_mean": sum(seen) / len(seen) if seen else None,
            "utilisation_percent_max": max(seen, default=None),
            "memory_used_mb_max": max(self.used_bytes) / 1e6 if self.used_bytes else None,
        }


class Sampler(Background):
    """Samples while its ``with`` block runs; ``result`` is for afterwards.

    Args:
        pid: the server's first process, or None to look at GPUs only.

    Raises:
        psutil.NoSuchProcess: there is no such process.
    """

    def __init__(self, pid: int | None) -> None:
        super().__init__(self._sample, _PERIOD_S)
        self._family = None if pid is None else _Family(psutil.Process(pid))
        self._gpus, self._no_gpu = _open_gpus()
        self._wall_s = 0.0

    def __enter__(self) -> Self:
        self._start_s = time.monotonic()
        self._sample(start=True)
        return super().__enter__()

    def __exit__(self, *raised: object) -> None:
        super().__exit__(*raised)
        self._sample()
        self._wall_s = time.monotonic() - self._start_s

    def result(self) -> dict[str, Any]:
        """``server``: processor seconds of the process tree, in all and by wall time, greatest
        resident memory (sum over the tree; shared pages count in each process), greatest number
        of processes; None without a pid. ``gpus``: a list, or why there is none."""
        family = self._family
        server = family and {
            "cpu_s": family.cpu_s(),
            "cpu_cores": family.cpu_s() / self._wall_s,
            "rss_mb_max": family.rss_bytes_max / 1e6,
            "processes": family.processes,
            "still_running": family.root.is_running(),
        }
        return {"server": server, "gpus": [g.result() for g in self._gpus] or self._no_gpu}

    def _sample(self, start: bool = False) -> None:
        if self._family is not None:
            self._family.sample(start)
        for gpu in self._gpus:
            gpu.sample()


def _open_gpus() -> tuple[list[_Gpu], str]:
    """The GPUs of this machine, or none and why."""
    try:
        nvml.nvmlInit()
        handles = [nvml.nvmlDeviceGetHandleByIndex(i) for i in range(nvml.nvmlDeviceGetCount())]
        gpus = [_Gpu(handle, str(nvml.nvmlDeviceGetName(handle))) for handle in handles]
    except nvml.NVMLError as error:
        return [], f"not sampled: NVML says {error}"
    return gpus, "not sampled: NVML lists no GPU"
