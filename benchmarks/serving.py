"""``python -m benchmarks.serving``: our handler, the stock one, other servers and the ceiling.

All in one run. The servers are up all the time and take turns, each held still while another has
its turn (LitServe polls when idle), so that what the machine does meanwhile falls on all alike.
Progress goes to stderr, the tables to stdout, everything to a JSON file. A peer that cannot be
set up or started is told in both, with the reason, and so are requests that failed. Exit codes:
0 measured, 1 our server or the stock one does not start, or ours answered nothing in some turn,
2 bad usage, 130 after Ctrl-C or SIGTERM.
"""

from __future__ import annotations

import json
import shlex
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import tyro

from benchmarks import servers
from benchmarks.background import end_on_sigterm
from benchmarks.closed_loop import Load, Work, run
from benchmarks.limit import Limit
from benchmarks.machine import machine
from benchmarks.peers import environments, launch
from benchmarks.peers.catalogue import PEERS, PeerError
from benchmarks.running import Memory, Running
from benchmarks.serving_config import ServingConfig
from benchmarks.serving_table import tables
from deploy.java import NoJavaError
from deploy.server import ServerError
from training.files import atomic_path

TITLES = {"ours": "ours", "stock": "stock", **{name: peer.title for name, peer in PEERS.items()}}


@dataclass(frozen=True)
class Turn:
    """One server's turn: what the clients saw, what it cost, what it held at the end."""

    load: Load
    cpu_ms_per_image: float
    memory: Memory


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    given = sys.argv[1:] if arguments is None else list(arguments)
    config = tyro.cli(ServingConfig, prog="python -m benchmarks.serving", args=given)
    end_on_sigterm()
    with tempfile.TemporaryDirectory(prefix="dcgan-bench-") as temporary, ExitStack() as stack:
        folder = Path(temporary)
        try:
            config.check()
            packed = servers.archive(folder / "packed", config.precision)
        except ValueError as error:
            print(f"error: {error}", file=sys.stderr)
            return 2
        try:
            measurement = Measurement(config, packed, folder, stack)
            result = measurement.result(shlex.join(["python", "-m", "benchmarks.serving", *given]))
        except (ServerError, NoJavaError) as error:
            print(f"error: {error}", file=sys.stderr)
            return 1
        except KeyboardInterrupt:
            return 130
    config.out.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(config.out) as beside:
        beside.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(tables(result))
    answered = [turn["load"]["requests"] for row in result["rows"] for turn in row["turns"]["ours"]]
    return 0 if all(answered) else 1


@dataclass
class Measurement:
    """The servers of one run, started, and what they give.

    Args:
        config: what to measure.
        packed: our archive.
        folder: for logs.
        stack: stops the servers.

    Raises:
        ServerError, NoJavaError: our server or the stock one does not start.
    """

    config: ServingConfig
    packed: Path
    folder: Path
    stack: ExitStack
    running: dict[str, Running] = field(default_factory=dict)
    idle_cores: dict[str, float] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        chosen = self._chosen()  # environments first: pip must not run beside a server that starts
        self.limit = Limit(self.packed, self.folder / "limit")
        self._up("ours", self.stack.enter_context(servers.ours(self.folder / "ours", self.packed)))
        self._up("stock", self.stack.enter_context(servers.stock(self.folder / "stock")))
        for name in chosen:
            script = self.folder / "limit" / "generator.pt"
            try:
                peer = self.stack.enter_context(launch.running(name, self.folder / "peers", script))
            except PeerError as error:
                self._leave_out(name, str(error))
            else:
                self._up(name, peer)

    def result(self, command: str) -> dict[str, Any]:
        """Measure everything; JSON values."""
        rows = [self._row(work) for work in self.config.works()]
        return {
            "machine": machine(),
            "date": time.strftime("%Y-%m-%d"),
            "command": command,
            "backend": self.limit.backend,
            "servers": {
                name: {
                    "title": TITLES[name], "ready_s": running.ready_s,
                    "idle_cores": self.idle_cores[name],
                }
                for name, running in self.running.items()
            },
            "left_out": {TITLES[name]: reason for name, reason in self.left_out.items()},
            "parts_ms": {
                "32 requests of 1 image": self.limit.parts_ms(1),
                "2 requests of 64 images": self.limit.parts_ms(64),
            },
            "rows": rows,
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

    def _row(self, work: Work) -> dict[str, Any]:
        names = list(self.running)
        turns: dict[str, list[Turn]] = {name: [] for name in names}
        silent: set[str] = set()
        ceilings = []
        for number in range(self.config.rounds):
            print(f"{work.name}, round {number + 1} of {self.config.rounds}", file=sys.stderr)
            first = number % len(names)
            for name in names[first:] + names[:first]:
                if name in silent:  # each request may have taken the minute of its time-out
                    continue
                turns[name].append(self._turn(self.running[name], work, number))
                if not turns[name][-1].load.requests:
                    silent.add(name)
                    print(f"{TITLES[name]} answered nothing to {work.name}", file=sys.stderr)
            if len(work.num_images) == 1:
                seconds = self.config.seconds / 2
                ceilings.append(self.limit.images_per_s(work.num_images[0], seconds))
        return {
            "work": asdict(work),
            "limit_images_per_s": ceilings,
            "turns": {name: [asdict(turn) for turn in of] for name, of in turns.items()},
        }

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


if __name__ == "__main__":
    sys.exit(main())
