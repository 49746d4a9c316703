"""TorchServe with our archive, or with the stock handler, for as long as a benchmark runs."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
import yaml

from deploy.server import ROOT, Ports, Server
from export.torchscript import export_torchscript
from training.weights import load_generator

STORE = ROOT / "model_store"


@dataclass(frozen=True)
class Running:
    """A server that is ready.

    Args:
        server: where it listens.
        process: its launcher; Java and the workers are below it.
        ready_s: seconds from its start to the first image.
    """

    server: Server
    process: psutil.Process
    ready_s: float

    def cpu_s(self) -> float:
        """Processor seconds of Java and the workers so far."""
        return sum(sum(p.cpu_times()[:2]) for p in self._family())

    def worker_rss_mb(self) -> float:
        """Resident memory of the largest worker, MB (10^6 bytes)."""
        workers = [p for p in self._family() if "model_service_worker" in " ".join(p.cmdline())]
        return max(p.memory_info().rss for p in workers) / 1e6

    def _family(self) -> list[psutil.Process]:
        return [self.process, *self.process.children(recursive=True)]


@contextmanager
def ours(folder: Path) -> Iterator[Running]:
    """The archive of the model store, as ``make serve`` serves it."""
    with _running(Server(_made(folder), STORE, Ports.free())) as running:
        yield running


@contextmanager
def stock(folder: Path) -> Iterator[Running]:
    """The stock handler with a plain trace of our weights, our batch size, delay and workers."""
    store = _made(folder / "store")
    generator, _ = load_generator(STORE / "generator.safetensors")
    export_torchscript(generator, folder / "generator.pt")
    with zipfile.ZipFile(STORE / "dcgan.mar") as archive:
        config = yaml.safe_load(archive.read("model-config.yaml"))
    del config["handler"]
    (folder / "model-config.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    command = [
        str(Path(sys.executable).parent / "torch-model-archiver"),
        "--model-name", "dcgan", "--version", "1.0",
        "--serialized-file", str(folder / "generator.pt"),
        "--handler", str(ROOT / "benchmarks" / "stock_handler.py"),
        "--config-file", str(folder / "model-config.yaml"), "--export-path", str(store),
    ]  # fmt: skip
    private = _made(folder / "tmp")  # the archiver deletes $TMPDIR/dcgan
    subprocess.run(command, check=True, env={**os.environ, "TMPDIR": str(private)})
    with _running(Server(_made(folder / "server"), store, Ports.free())) as running:
        yield running


@contextmanager
def _running(server: Server) -> Iterator[Running]:
    began = time.perf_counter()
    with server.running() as process:
        yield Running(server, psutil.Process(process.pid), time.perf_counter() - began)


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder
