"""TorchServe with several workers beside the stock handler, asked by several clients at once.

One client process gives some 10,000 requests a second at most, about what a few workers on a GPU
answer; so there are several, each with a share of the connections.
"""

from __future__ import annotations

import importlib
import itertools
import multiprocessing
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from statistics import median

from benchmarks import servers
from benchmarks.engine import Limits, asks, saturate, summary_ms, target
from benchmarks.gpu.runner import Bench, Row
from benchmarks.resources import GpuSampler
from benchmarks.servers import Running
from deploy.java import find_java_home
from deploy.server import ServerError
from handler.hardware import processors

Order = tuple[str, int, int, float, int]  # URL, connections, images each, seconds, first seed
_MARGIN_S = 10.0  # what a server may take longer than those before it
_TIMEOUT_S = 60.0  # nobody waits longer for a reply


def served(bench: Bench) -> Iterator[Row]:
    """Images a second and latency of each server; ``of stock`` is in times the stock handler's."""
    for name in ("ts", "model_archiver"):
        importlib.import_module(name)
    find_java_home()
    starts = {"stock, 1 worker": servers.stock}
    for workers in (1,) if bench.quick else (1, 4, 2, 6):  # should the time not do for all
        packed = servers.archive(bench.folder / f"archive-{workers}", {}, workers)
        starts[f"ours, {workers} worker{'s' * (workers > 1)}"] = partial(
            servers.ours, packed=packed
        )
    stock: dict[tuple[int, int], float] = {}
    count = 2 if bench.quick else max(2, min(4, processors() // 3))
    with ProcessPoolExecutor(count, multiprocessing.get_context("spawn")) as clients:
        ends, longest_s = time.monotonic() + bench.seconds, 0.0
        for title, start in starts.items():
            began = time.monotonic()
            if ends - began < longest_s + _MARGIN_S:
                yield {"server": title, "note": "left out: the time would not do"}
                continue
            try:
                with start(bench.folder / title.replace(", ", "-").replace(" ", "-")) as running:
                    for row in loads(bench, running, clients, count):
                        work = row["images each"], row["connections"]
                        if start is servers.stock:
                            stock[work] = row["images/s"]
                        elif stock.get(work):
                            row["of stock"] = row["images/s"] / stock[work]
                        yield {"server": title, **row}
            except (ServerError, OSError, subprocess.SubprocessError) as error:
                yield {"server": title, "ok": False, "note": str(error).partition("\n")[0]}
            longest_s = max(longest_s, time.monotonic() - began)


def loads(
    bench: Bench, running: Running, clients: ProcessPoolExecutor, count: int
) -> Iterator[Row]:
    """Single images, then grids, at several numbers of connections that are kept busy."""
    works = ((1, (4,)), (64, (2,))) if bench.quick else ((1, (1, 64, 256)), (64, (8, 16)))
    for num_images, connections in works:
        list(clients.map(_ask, [(running.url, 4, num_images, 0.5, 0)] * count))  # warms it up
        for total in connections:
            shares = [len(range(i, total, count)) for i in range(min(count, total))]
            seconds = 1.0 if bench.quick else 2.5
            orders = [
                (running.url, share, num_images, seconds, (i + 1) << 40)
                for i, share in enumerate(shares)
            ]
            began, cpu_s = time.monotonic(), running.cpu_s()
            with GpuSampler() as sampler:
                told = list(clients.map(_ask, orders))
            failed, p50, p99 = sum(t[1] for t in told), [t[2] for t in told], [t[3] for t in told]
            row: Row = {"images each": num_images, "connections": total, "clients": len(shares)}
            row |= {"images/s": sum(t[0] for t in told), "failed": failed, "ok": failed == 0}
            row |= {"p50 ms": median(p50), "p99 ms": max(p99)}
            row["server's cores"] = (running.cpu_s() - cpu_s) / (time.monotonic() - began)
            gpus = sampler.result()
            if isinstance(gpus, list):
                row["GPU %"] = gpus[0]["utilisation_percent_mean"]
                row["GPU MB"] = gpus[0]["memory_used_mb_max"]
            yield row


def _ask(order: Order) -> tuple[float, int, float, float]:
    """One client: images/s, requests that were not answered 2xx, p50 and p99 in ms."""
    url, connections, num_images, seconds, first_seed = order
    said = asks(itertools.repeat(num_images), first_seed)
    limits = Limits(connections, _TIMEOUT_S)
    tally = saturate(target(url, "application/json"), seconds, said, limits)
    failed = tally.arrivals - tally.outcomes["2xx"]
    latency = summary_ms(tally.latency_us) or {"p50": 0.0, "p99": 0.0}
    return tally.images / tally.wall_s, failed, latency["p50"], latency["p99"]
