"""A server under measurement: where it listens, what it costs, and how to hold it still."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psutil

from benchmarks.closed_loop import Body, json_body


@dataclass(frozen=True)
class Memory:
    """Memory of a server, MB (10^6 bytes).

    Args:
        worker_peak_mb: most resident memory so far of its largest process, Java left out.
        private_mb: what would be free if all its processes ended (USS), at this moment. Pages of
            libraries that another server under measurement has mapped too do not count.
    """

    worker_peak_mb: float
    private_mb: float


@dataclass(frozen=True)
class Running:
    """A server that is ready.

    Args:
        url: what to post to.
        process: its first process; all others are below it.
        ready_s: seconds from its start to the first image.
        body: what a request says.
    """

    url: str
    process: psutil.Process
    ready_s: float
    body: Body = json_body

    def cpu_s(self) -> float:
        """Processor seconds of all its processes so far."""
        total = 0.0
        for member in self._family():
            with contextlib.suppress(psutil.NoSuchProcess):
                total += sum(member.cpu_times()[:2])
        return total

    def memory(self) -> Memory:
        """What it holds; Linux only."""
        peaks, private = [0.0], 0.0
        for member in self._family():
            with contextlib.suppress(psutil.NoSuchProcess, FileNotFoundError, ProcessLookupError):
                private += member.memory_full_info().uss
                if member.name() != "java":
                    peaks.append(_peak_rss_bytes(member.pid))
        return Memory(max(peaks) / 1e6, private / 1e6)

    def pause(self) -> None:
        """Stop all its processes where they are, so that another server has the machine."""
        self._each(psutil.Process.suspend)

    def resume(self) -> None:
        """Let them go on."""
        self._each(psutil.Process.resume)

    def _each(self, act: Callable[[psutil.Process], None]) -> None:
        for member in self._family():
            with contextlib.suppress(psutil.NoSuchProcess):
                act(member)

    def _family(self) -> list[psutil.Process]:
        with contextlib.suppress(psutil.NoSuchProcess):
            return [self.process, *self.process.children(recursive=True)]
        return []


def _peak_rss_bytes(pid: int) -> float:
    """The high-water mark that the kernel keeps (proc(5), VmHWM); 0 for one that has ended."""
    status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    lines = [line for line in status.splitlines() if line.startswith("VmHWM:")]
    return 1024.0 * int(lines[0].split()[1]) if lines else 0.0
