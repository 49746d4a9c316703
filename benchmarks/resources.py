"""What runs beside a load in a thread: above all a look at the GPUs, twice a second."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Self

import pynvml as nvml

Gpus = list[dict[str, Any]] | str
"""What each GPU was used for and held, or why none was sampled."""
_PERIOD_S = 0.5


class Background:
    """Acts at once, and again and again, in a thread while its ``with`` block runs; ``period_s`` is
    from the end of one act to the start of the next."""

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
        self._act()
        while not self._ended.wait(self._period_s):
            self._act()


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


class GpuSampler(Background):
    """Samples twice a second while its ``with`` block runs; ``result`` is for afterwards."""

    def __init__(self) -> None:
        super().__init__(self._sample, _PERIOD_S)
        self._gpus, self._no_gpu = _open_gpus()

    def result(self) -> Gpus:
        """Use and memory of each GPU, or why there is none."""
        return [gpu.result() for gpu in self._gpus] or self._no_gpu

    def _sample(self) -> None:
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
