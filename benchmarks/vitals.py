"""What a TorchServe holds while it runs: memory, descriptors, threads, sockets, files."""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass, fields
from pathlib import Path

import psutil

from benchmarks.background import Background


@dataclass(frozen=True)
class Vitals:
    """One sample.

    Args:
        time_s: since the sampler began.
        worker_rss_mb, java_rss_mb: resident memory, MB (10^6 bytes); all workers together.
        worker_fds, java_fds: open file descriptors.
        worker_threads, java_threads: threads.
        sockets: TCP and UNIX sockets of Java and the workers, whatever their state.
        temp_files, temp_mb: files below the folder for temporary files.
        workers: worker processes.
    """

    time_s: float
    worker_rss_mb: float
    java_rss_mb: float
    worker_fds: int
    java_fds: int
    worker_threads: int
    java_threads: int
    sockets: int
    temp_files: int
    temp_mb: float
    workers: int


SERIES = tuple(field.name for field in fields(Vitals) if field.name != "time_s")


class VitalsSampler(Background):
    """Samples in a thread while its ``with`` block runs.

    Args:
        launcher: what started TorchServe; Java is its only child.
        temporary: folder of the server's temporary files.
        period_s: between two samples.
    """

    def __init__(self, launcher: psutil.Process, temporary: Path, period_s: float) -> None:
        super().__init__(self._watch, period_s)
        (self._java,) = launcher.children()
        self._temporary = temporary
        self.samples: list[Vitals] = []
        self.worker_pids: set[int] = set()
        self._start_s = time.monotonic()

    def _watch(self) -> None:
        # A process that ends in between gives no sample; that it ended shows in the next.
        with contextlib.suppress(psutil.NoSuchProcess):
            self.samples.append(self.sample())

    def sample(self) -> Vitals:
        """What it holds now.

        Raises:
            psutil.NoSuchProcess: a process ended in between.
        """
        workers = [p for p in self._java.children() if "model_service_worker" in str(p.cmdline())]
        self.worker_pids |= {worker.pid for worker in workers}
        files = [path for path in self._temporary.rglob("*") if path.is_file()]
        return Vitals(
            time_s=time.monotonic() - self._start_s,
            worker_rss_mb=sum(p.memory_info().rss for p in workers) / 1e6,
            java_rss_mb=self._java.memory_info().rss / 1e6,
            worker_fds=sum(p.num_fds() for p in workers),
            java_fds=self._java.num_fds(),
            worker_threads=sum(p.num_threads() for p in workers),
            java_threads=self._java.num_threads(),
            sockets=sum(len(p.net_connections("all")) for p in [self._java, *workers]),
            temp_files=len(files),
            temp_mb=sum(_size(path) for path in files) / 1e6,
            workers=len(workers),
        )


def _size(path: Path) -> int:
    with contextlib.suppress(OSError):  # gone in the meantime
        return path.stat().st_size
    return 0
