"""``python -m benchmarks.compare serving`` or ``training``: ours beside the usual one.

Serving (the default): our handler, the stock one, other servers and the ceiling, in one run; or,
with --network none, our handler with images that are there already beside one that returns bytes
which are there already, so that what is measured is the way there and back. The servers are
up all the time and take turns, each held still while another has its turn (LitServe polls when
idle), so that what the machine does meanwhile falls on all alike. Training: this loop beside one as
tutorials write it, taking turns too (``benchmarks.training_loops``).

Progress goes to stderr, what was measured as Markdown (serving) or JSON (training) to stdout;
everything of serving to a JSON file, after Ctrl-C too what there is. A peer that cannot be set up
or started is named in both, with the reason, and so are requests that failed. Exit codes: 0
measured, 1 our server or the stock one does not start, or ours answered nothing in some turn, 2 bad
usage, 130 after Ctrl-C or SIGTERM.
"""

from __future__ import annotations

import itertools
import json
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import tyro
import yaml
from hdrh.histogram import HdrHistogram  # type: ignore[import-untyped]

from benchmarks import servers
from benchmarks.command import (
    Range,
    UsageError,
    check,
    ending,
    median_ms,
    provenance,
    run_main,
    write,
)
from benchmarks.engine import Kind, Limits, Tally, asks, histogram, saturate, summary_ms, target
from benchmarks.peers import launch
from benchmarks.peers.launch import PEERS, PeerError
from benchmarks.ready import ready
from benchmarks.servers import Running
from benchmarks.tables import report
from benchmarks.training_loops import TrainingConfig, compare
from deploy.lifecycle import ServerError
from handler import latents
from handler.backends.base import generate
from handler.backends.choose import open_backend
from handler.pixels import compose_grid, default_columns
from handler.png import encode
from handler.service import Service, open_service
from handler.settings import Card, Settings
from handler.wire import Headers

TITLES = {name: name for name in ("ours", "stock", "blank")}
TITLES |= {name: peer.title for name, peer in PEERS.items()}
Turn = tuple[dict[str, Any], HdrHistogram]
"""One server's: what the clients saw, what it cost and what it held at the end, as JSON values; the
latency of the requests that were answered or timed out, us."""
_PART_REPEATS = 15  # of each part of our service
_HEADERS = {"Content-Type": "application/json", "Accept": "*/*", "Host": "127.0.0.1:8080"}
_WARM_S = 3.0  # of work before the first turn
_KINDS: dict[Kind, tuple[str, tuple[int, ...]]] = {
    "image": ("1 image", (1,)),
    "grid": ("64-image grid", (64,)),
    "mix": ("mix of 1, 1, 1 and 64 images", (1, 1, 1, 64)),
}
_CONNECTIONS: dict[str, dict[Kind, tuple[int, ...]]] = {
    "real": {"image": (1, 8, 32, 64), "grid": (2, 8), "mix": (8,)},
    "none": {"image": (1, 64, 256), "grid": (1, 2, 8), "mix": (8,)},
}


@dataclass(frozen=True)
class Work:
    """What the connections ask for."""

    name: str
    num_images: tuple[int, ...]  # of each request, taken in turn
    connections: int


@dataclass(frozen=True)
class ServingConfig:
    """Compare our server with the stock handler, other servers and the in-process ceiling."""

    rounds: Annotated[int, Range(1, 100)] = 5
    """Turns each server gets for each kind of work."""
    seconds: Annotated[float, Range(0.1, 600)] = 4.0
    """Length of a turn, s."""
    network: Literal["real", "none"] = "real"
    """none: ours has its images already, beside a handler that has its replies already."""
    work: tuple[Kind, ...] = ()
    """What requests ask for: one image, a grid of 64, or a mix of 1, 1, 1 and 64. All, if left
    out; with --network none, image and grid."""
    connections: Annotated[tuple[int, ...], Range(1, 1000)] = ()
    """How many at once; left out, 1, 8, 32 and 64 for image, 2 and 8 for grid, 8 for mix; with
    --network none, 1, 64 and 256 for image, 1, 2 and 8 for grid."""
    peers: tuple[
        Literal["none", "all", "installed", "fastapi", "litserve", "bentoml", "triton"], ...
    ] = ("none",)
    """Other servers: none, all (set up in .peers/ where missing, which needs the network),
    installed (those that are there), or their names."""
    precision: str | None = None
    """Serve a copy of our archive with this precision in its handler block, such as float32."""
    png: Literal["fast", "small"] | None = None
    """The same with this way to write PNGs."""
    out: Path = Path("runs/serving.json")
    """Where everything measured goes."""

    def check(self) -> None:
        """Raises:
        UsageError: a setting is out of its range.
        """
        check(self)
        if self.network == "none" and self.peers != ("none",):
            raise UsageError(
                f"peers: seen {' '.join(self.peers)}; without the network there are none"
            )
        if self.out.is_dir():
            raise UsageError(f"out: seen {self.out}, a folder; allowed is a file")

    def settings(self) -> dict[str, str]:
        """Of the handler block, those that are to be others than in the archive."""
        chosen = {"precision": self.precision, "png": self.png}
        return {name: value for name, value in chosen.items() if value}

    def works(self) -> list[Work]:
        """Each kind of work at each number of connections."""
        kinds = self.work or (
            ("image", "grid", "mix") if self.network == "real" else ("image", "grid")
        )
        return [
            Work(f"{title}, {count} connection{'s' * (count > 1)}", num_images, count)
            for kind, (title, num_images) in ((kind, _KINDS[kind]) for kind in kinds)
            for count in self.connections or _CONNECTIONS[self.network][kind]
        ]

    def named_peers(self) -> list[str]:
        """Names in ``PEERS`` that are asked for."""
        if "all" in self.peers:
            return list(PEERS)
        installed = "installed" in self.peers
        return [
            name
            for name in PEERS
            if name in self.peers or (installed and launch.is_installed(name))
        ]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    given = sys.argv[1:] if arguments is None else list(arguments)
    if given and given[0].startswith("--") and given[0] != "--help":
        given = ["serving", *given]
    config: ServingConfig | TrainingConfig = tyro.cli(
        Annotated[ServingConfig, tyro.conf.subcommand("serving")]
        | Annotated[TrainingConfig, tyro.conf.subcommand("training")],
        prog="python -m benchmarks.compare",
        description=__doc__,
        args=given,
    )
    if isinstance(config, ServingConfig):
        return serving(config, given)

    def work() -> int:
        check(config)
        print(json.dumps(compare(config), indent=2))
        return 0

    return ending(work)


def serving(config: ServingConfig, given: Sequence[str]) -> int:
    """Measure the servers, write and print what they gave; returns the exit code."""
    started: list[Measurement] = []

    def work() -> int:
        config.check()
        packed = servers.archive(folder / "packed", config.settings())
        started.append(Measurement(config, packed, folder, stack))
        started[0].run()
        return 0

    with tempfile.TemporaryDirectory(prefix="dcgan-bench-") as temporary, ExitStack() as stack:
        folder = Path(temporary)
        code = ending(work)
    if not started or not started[0].rows:
        return code
    result = {**provenance("compare", given), **started[0].result()}
    write(result, config.out)
    print(report(result))
    answered = [turn["load"]["requests"] for row in result["rows"] for turn in row["turns"]["ours"]]
    return code if all(answered) else code or 1


class Ceiling:
    """What our server could do at most: latents, generator, grid and PNG in this process.

    It has the very objects of the worker, and batches that hold as much as the worker's can.

    Args:
        archive: unpacked to ``folder``, which is made.
        network: whether the service runs it, or has its images already.

    Raises:
        ServerError: the archive or this machine cannot do what its settings ask for.
    """

    def __init__(self, archive: Path, folder: Path, network: bool = True) -> None:
        gpu_id = 0 if torch.cuda.is_available() else None  # one of them, as a worker has
        with zipfile.ZipFile(archive) as packed:
            packed.extractall(folder)
        config = yaml.safe_load((folder / "model-config.yaml").read_text(encoding="utf-8"))
        self._card = Card.read(folder)
        settings = Settings.from_yaml(config["handler"])
        try:
            self._backend = open_backend(folder, self._card, settings, gpu_id)
        except RuntimeError as error:  # as the worker would say it
            raise ServerError(f"the archive cannot be used here: {error}") from error
        self._small_png = settings.png == "small"
        self._ready = Service(
            ready(self._backend), self._card, settings.limits, small_png=self._small_png
        )
        self._service = open_service(folder, config, gpu_id) if network else self._ready

    @property
    def backend(self) -> str:
        """What runs the network here and in the worker, such as ``onnx float32 on cpu``."""
        return f"{self._backend.name} {self._backend.precision} on {self._backend.device}"

    @property
    def precision(self) -> str:
        """float32, bfloat16 or float16, of ``backend``."""
        return self._backend.precision

    def reply(self, num_images: int) -> bytes:
        """The body of one."""
        (reply,) = self._service.handle(self._batch(num_images)[:1])
        return reply.body

    def images_per_s(self, num_images: int, seconds: float) -> float:
        """Batches of 32 requests (2 of grids) answered one after the other for so long."""
        batch = self._batch(num_images)
        done, began = 0, time.perf_counter()
        while time.perf_counter() - began < seconds:
            replies = self._service.handle(batch)
            assert all(reply.status == 200 for reply in replies)
            done += len(replies) * num_images
        return done / (time.perf_counter() - began)

    def parts_ms(self, num_images: int) -> dict[str, float]:
        """Median milliseconds of each part for one such batch, each part on its own.

        ``all but forward`` is the whole service, from bodies to replies, with a backend that has
        its images already; the others do not add up to it, for it encodes in parallel.
        """
        batch, nz = self._batch(num_images), self._card.nz
        seeds = [list(range(seed, seed + num_images)) for seed in range(len(batch))]
        rows = [latents.from_seeds(part, nz) for part in seeds]
        images = [part for part in generate(self._backend, rows, 64) if part is not None]
        columns, padding = default_columns(num_images), 2 if num_images > 1 else 0
        grids = [compose_grid(part, columns, padding, (255, 255, 255)) for part in images]
        steps: dict[str, Callable[[], Any]] = {
            "latents": lambda: latents.from_seeds([s for part in seeds for s in part], nz),
            "forward": lambda: generate(self._backend, rows, 64),
            "grid": lambda: [compose_grid(i, columns, padding, (255, 255, 255)) for i in images],
            "png, one thread": lambda: [encode(grid, "", self._small_png) for grid in grids],
            "all but forward": partial(self._ready.handle, batch, [Headers(_HEADERS)] * len(batch)),
        }
        return {name: median_ms(step, _PART_REPEATS) for name, step in steps.items()}

    def _batch(self, num_images: int) -> list[dict[str, Any]]:
        requests = 32 if num_images == 1 else 2
        body = {"num_images": num_images}
        return [
            {"body": bytearray(json.dumps({"seed": i, **body}), "ascii")} for i in range(requests)
        ]


@dataclass
class Measurement:
    """The servers of one run, started, and what they give.

    Args:
        packed: our archive.
        stack: stops the servers.

    Raises:
        ServerError, NoJavaError: our server or the stock one does not start, or the archive cannot
            be used here.
    """

    config: ServingConfig
    packed: Path
    folder: Path
    stack: ExitStack
    running: dict[str, Running] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    rows: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        chosen = self._chosen()  # environments first: pip must not run beside a server that starts
        real, folder, up = self.config.network == "real", self.folder, self.stack.enter_context
        self.ceiling = Ceiling(self.packed, folder / "ceiling", network=real)
        if real:
            self._up("ours", up(servers.ours(folder / "ours", self.packed)))
            self._up("stock", up(servers.stock(folder / "stock")))
        else:
            packed = servers.without_network(self.packed, folder / "ready")
            self._up("ours", up(servers.ours(folder / "ours", packed)))
            replies = {count: self.ceiling.reply(count) for count in (1, 64)}
            self._up("blank", up(servers.blank(folder / "blank", replies)))
        for name in chosen:
            trace = self.folder / "stock" / servers.TRACE
            try:
                peer = self.stack.enter_context(launch.running(name, self.folder / "peers", trace))
            except PeerError as error:
                self._leave_out(name, str(error))
            else:
                self._up(name, peer)

    def run(self) -> None:
        """Measure everything, into ``rows``."""
        for work in self.config.works():
            self.rows.append(self._row(work))

    def result(self) -> dict[str, Any]:
        """What there is, as JSON values."""
        return {
            "backend": self.ceiling.backend,
            "precision": self.ceiling.precision,
            "network": self.config.network,
            "servers": {
                name: {"title": TITLES[name], "ready_s": running.ready_s}
                for name, running in self.running.items()
            },
            "left_out": {TITLES[name]: reason for name, reason in self.left_out.items()},
            "parts_ms": {
                "32 requests of 1 image": self.ceiling.parts_ms(1),
                "2 requests of 64 images": self.ceiling.parts_ms(64),
            },
            "rows": self.rows,
        }

    def _chosen(self) -> list[str]:
        """The peers that were asked for and have an environment."""
        chosen = []
        for name in self.config.named_peers():
            try:
                launch.install(name)
                chosen.append(name)
            except PeerError as error:
                self._leave_out(name, str(error))
        return chosen

    def _up(self, name: str, running: Running) -> None:
        """Take in a server that is ready: warm it up, then hold it still."""
        self.stack.callback(running.resume)  # before it is stopped
        self._busy(running, (1, 1, 1, 64), 32, _WARM_S)  # Java compiles what is used often
        running.pause()
        self.running[name] = running

    def _leave_out(self, name: str, reason: str) -> None:
        self.left_out[name] = reason
        print(f"{TITLES[name]} is left out: {reason}", file=sys.stderr)

    def _row(self, work: Work) -> dict[str, Any]:
        turns: dict[str, list[dict[str, Any]]] = {name: [] for name in self.running}
        pooled = {name: histogram() for name in self.running}
        silent: set[str] = set()
        ceilings = []
        for number in range(self.config.rounds):
            print(f"{work.name}, round {number + 1} of {self.config.rounds}", file=sys.stderr)
            for name, (turn, latency_us) in self._round(work, number, silent).items():
                turns[name].append(turn)
                pooled[name].add(latency_us)
            if len(work.num_images) == 1:  # a mix has no ceiling
                limit = self.ceiling.images_per_s(work.num_images[0], self.config.seconds / 2)
                ceilings.append(limit)
        return {
            "work": asdict(work),
            "limit_images_per_s": ceilings,
            "latency": {
                name: {"requests": of.get_total_count(), **_quantiles(of)}
                for name, of in pooled.items()
            },
            "turns": turns,
        }

    def _round(self, work: Work, number: int, silent: set[str]) -> dict[str, Turn]:
        """A turn of each server but those that are silent, to which it adds."""
        names = list(self.running)
        first = number % len(names)
        turns = {}
        for name in names[first:] + names[:first]:
            if name in silent:  # each request may have taken the minute of its time-out
                continue
            turns[name] = self._turn(self.running[name], work, number)
            if not turns[name][0]["load"]["requests"]:
                silent.add(name)
                print(f"{TITLES[name]} answered nothing to {work.name}", file=sys.stderr)
        return turns

    def _turn(self, running: Running, work: Work, number: int) -> Turn:
        busy = partial(self._busy, running, work.num_images, work.connections)
        running.resume()
        try:
            busy(0.3)  # connections, queues and what was swapped out come to life
            before = running.cpu_s()
            tally = busy(self.config.seconds, 10_000_000 * (number + 1))
            cpu_s = running.cpu_s() - before
            answered = tally.outcomes["2xx"]
            load = {
                "images_per_s": tally.images / tally.wall_s,
                "images": tally.images,
                "requests": answered,
                "failed": tally.arrivals - answered,
                **_quantiles(tally.latency_us),
            }
            cost = {
                "cpu_ms_per_image": 1000 * cpu_s / max(tally.images, 1),
                "memory": running.memory(),
            }
            return {"load": load, **cost}, tally.latency_us
        finally:
            running.pause()

    def _busy(
        self,
        running: Running,
        num_images: tuple[int, ...],
        connections: int,
        seconds: float,
        first_seed: int = 0,
    ) -> Tally:
        said = asks(itertools.cycle(num_images), first_seed, running.body)
        to = target(running.url, "application/json")
        return saturate(to, seconds, said, Limits(connections, timeout_s=60))


def _quantiles(latency_us: HdrHistogram) -> dict[str, float | None]:
    waits = summary_ms(latency_us) or {}
    return {"p50_ms": waits.get("p50"), "p99_ms": waits.get("p99")}


if __name__ == "__main__":
    run_main(main)
