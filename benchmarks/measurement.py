"""The servers of one run of ``benchmarks.serving``, and what they give."""

from __future__ import annotations

import sys
import time
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import servers
from benchmarks.closed_loop import Load, Work, run
from benchmarks.limit import Limit
from benchmarks.machine import machine
from benchmarks.peers import environments, launch
from benchmarks.peers.catalogue import PEERS, PeerError
from benchmarks.running import Memory, Running
from benchmarks.serving_config import ServingConfig

TITLES = {"ours": "ours", "stock": "stock", **{name: peer.title for name, peer in PEERS.items()}}
_STEADY = 0.9  # of the fastest pulse; below it something else has the machine
_REPEATS = 2  # of a round that was disturbed, at most; in a whole run as many for each --rounds
_PULSE_S = 0.4


@dataclass(frozen=True)
class Turn:
    """One server's turn: what the clients saw, what it cost, what it held at the end."""

    load: Load
    cpu_ms_per_image: float
    memory: Memory


@dataclass
class Measurement:
    """The servers of one run, started, and what they give.

    Between rounds the same work is timed in this process, a pulse: a round with a slow pulse before
    or after it was disturbed by other work on the machine, and is done again. There is an allowance
    of such repeats for the whole run, so that a machine that is never quiet is measured too.

    Args:
        config: what to measure.
        packed: our archive.
        folder: for logs.
        stack: stops the servers.

    Raises:
        ServerError, NoJavaError: our server or the stock one does not start.
        RuntimeError: the archive cannot be used here.
    """

    config: ServingConfig
    packed: Path
    folder: Path
    stack: ExitStack
    running: dict[str, Running] = field(default_factory=dict)
    idle_cores: dict[str, float] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    rows: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        chosen = self._chosen()  # environments first: pip must not run beside a server that starts
        self.limit = Limit(self.packed, self.folder / "limit")
        self._up("ours", self.stack.enter_context(servers.ours(self.folder / "ours", self.packed)))
        self._up("stock", self.stack.enter_context(servers.stock(self.folder / "stock")))
        for name in chosen:
            trace = self.folder / "stock" / servers.TRACE
            try:
                peer = self.stack.enter_context(launch.running(name, self.folder / "peers", trace))
            except PeerError as error:
                self._leave_out(name, str(error))
            else:
                self._up(name, peer)
        self._best_pulse = max(self._pulse() for _ in range(5))

    def run(self) -> None:
        """Measure everything, into ``rows``."""
        self._repeats_left = _REPEATS * self.config.rounds
        for work in self.config.works():
            self.rows.append(self._row(work))

    def result(self, command: str) -> dict[str, Any]:
        """What there is, as JSON values."""
        return {
            "machine": machine(),
            "date": time.strftime("%Y-%m-%d"),
            "command": command,
            "backend": self.limit.backend,
            "precision": self.limit.precision,
            "servers": {
                name: {
                    "title": TITLES[name], "ready_s": running.ready_s,
                    "idle_cores": self.idle_cores[name],
                }
                for name, running in self.running.items()
            },
            "left_out": {TITLES[name]: reason for name, reason in self.left_out.items()},
            "forward_ms": self.limit.forward_ms(),
            "parts_ms": {
                "32 requests of 1 image": self.limit.parts_ms(1),
                "2 requests of 64 images": self.limit.parts_ms(64),
            },
            "rows": self.rows,
        }  # fmt: skip

    def _chosen(self) -> list[str]:
        """The peers that were asked for and have an environment."""
        chosen = []
        for name in self.config.named_peers():
            try:
                environments.install(name)
                chosen.append(name)
            except PeerError as error:
                self._leave_out(name, str(error))
        return chosen

    def _up(self, name: str, running: Running) -> None:
        """Take in a server that is ready: see what it does when idle, then hold it still."""
        self.stack.callback(running.resume)  # before it is stopped
        time.sleep(2)  # what starting has left to do, such as Java's compiler
        before = running.cpu_s()
        time.sleep(2)
        self.idle_cores[name] = (running.cpu_s() - before) / 2
        running.pause()
        self.running[name] = running

    def _leave_out(self, name: str, reason: str) -> None:
        self.left_out[name] = reason
        print(f"{TITLES[name]} is left out: {reason}", file=sys.stderr)

    def _pulse(self) -> float:
        return self.limit.images_per_s(64, _PULSE_S)

    def _row(self, work: Work) -> dict[str, Any]:
        turns: dict[str, list[Turn]] = {name: [] for name in self.running}
        silent: set[str] = set()
        ceilings, disturbed = [], 0
        for number in range(self.config.rounds):
            for repeat in range(_REPEATS + 1):
                print(f"{work.name}, round {number + 1} of {self.config.rounds}", file=sys.stderr)
                before = self._pulse()
                of_round = self._round(work, number, silent)
                ceiling = self._ceiling(work)
                after = self._pulse()
                self._best_pulse = max(self._best_pulse, before, after)
                if min(before, after) >= _STEADY * self._best_pulse:
                    break
                print("  disturbed by other work on this machine", file=sys.stderr)
                if repeat == _REPEATS or not self._repeats_left:
                    disturbed += 1
                    break
                self._repeats_left -= 1
            for name, turn in of_round.items():
                turns[name].append(turn)
            ceilings += ceiling
        return {
            "work": asdict(work),
            "limit_images_per_s": ceilings,
            "disturbed_rounds": disturbed,
            "latency": {name: _latency(of) for name, of in turns.items()},
            "turns": {
                name: [_without_latencies(turn) for turn in of] for name, of in turns.items()
            },
        }

    def _ceiling(self, work: Work) -> list[float]:
        """One figure; none for a mix."""
        if len(work.num_images) > 1:
            return []
        return [self.limit.images_per_s(work.num_images[0], self.config.seconds / 2)]

    def _round(self, work: Work, number: int, silent: set[str]) -> dict[str, Turn]:
        """A turn of each server but those that are silent, to which it adds."""
        names = list(self.running)
        first = number % len(names)
        turns = {}
        for name in names[first:] + names[:first]:
            if name in silent:  # each request may have taken the minute of its time-out
                continue
            turns[name] = self._turn(self.running[name], work, number)
            if not turns[name].load.requests:
                silent.add(name)
                print(f"{TITLES[name]} answered nothing to {work.name}", file=sys.stderr)
        return turns

    def _turn(self, running: Running, work: Work, number: int) -> Turn:
        running.resume()
        try:
            # Connections, queues and what was swapped out come to life.
            run(running.url, work, 0.3, body=running.body)
            before = running.cpu_s()
            first_seed = 10_000_000 * (number + 1)
            load = run(running.url, work, self.config.seconds, first_seed, running.body)
            cpu_s = running.cpu_s() - before
            return Turn(load, 1000 * cpu_s / max(load.images, 1), running.memory())
        finally:
            running.pause()


def _latency(turns: list[Turn]) -> dict[str, float | int | None]:
    """Quantiles of the answered requests of all rounds together, ms."""
    pooled = [latency for turn in turns for latency in turn.load.latencies_ms]
    p50, p99 = np.quantile(pooled, (0.5, 0.99)).tolist() if pooled else (None, None)
    return {"requests": len(pooled), "p50_ms": p50, "p99_ms": p99}


def _without_latencies(turn: Turn) -> dict[str, Any]:
    values = asdict(turn)
    del values["load"]["latencies_ms"]
    return values
