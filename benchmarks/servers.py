"""Servers under measurement: what they cost, how to hold them still; and some of them, TorchServe
with our archive, the stock handler or a blank one, for as long as a benchmark runs."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import yaml

from benchmarks.command import UsageError
from benchmarks.engine import Body, json_body
from deploy.server import ROOT, Ports, Server
from export.models import export_torchscript
from handler.settings import Settings
from training.weights import load_generator

STORE = ROOT / "model_store"
CONFIG = "model-config.yaml"
TRACE = "generator.pt"


@dataclass(frozen=True)
class Running:
    """A server that is ready."""

    url: str
    process: psutil.Process  # the first one; all others are below it
    ready_s: float  # from its start to the first image
    body: Body = json_body

    def cpu_s(self) -> float:
        """Processor seconds of all its processes so far."""
        total = 0.0
        for member in self._family():
            with contextlib.suppress(psutil.NoSuchProcess):
                total += sum(member.cpu_times()[:2])
        return total

    def memory(self) -> dict[str, float]:
        """What it holds, MB (10^6 bytes); Linux only.

        Returns:
            ``worker_peak_mb``: most resident memory so far of its largest process, Java left out;
            ``private_mb``: what would be free if all its processes ended (USS), at this moment.
            Pages of libraries that another server under measurement has mapped too do not count.
        """
        peaks, private = [0.0], 0.0
        for member in self._family():
            with contextlib.suppress(psutil.NoSuchProcess, FileNotFoundError, ProcessLookupError):
                private += member.memory_full_info().uss
                if member.name() != "java":
                    peaks.append(_peak_rss_bytes(member.pid))
        return {"worker_peak_mb": max(peaks) / 1e6, "private_mb": private / 1e6}

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


def archive(folder: Path, settings: Mapping[str, str], workers: int = 0) -> Path:
    """The archive of the model store, or a copy with other settings.

    Args:
        settings: of the handler block in model-config.yaml.
        workers: how many there are; 0 leaves that as it is.

    Raises:
        UsageError: there is no such setting, or no archive.
    """
    packed = _packed()
    if not settings and not workers:
        return packed
    config = _config()
    config["handler"] |= settings
    if workers:
        config |= {"minWorkers": workers, "maxWorkers": workers}
    try:
        Settings.from_yaml(config["handler"])
    except ValueError as error:
        raise UsageError(str(error)) from error
    return _changed(packed, made(folder) / packed.name, {CONFIG: yaml.safe_dump(config).encode()})


def without_network(packed: Path, folder: Path) -> Path:
    """A copy of our archive whose images are there before they are asked for."""
    with zipfile.ZipFile(packed) as source:
        manifest = json.loads(source.read("MAR-INF/MANIFEST.json"))
    entry = (ROOT / "benchmarks" / "ready.py").read_bytes()
    return _changed(packed, made(folder) / packed.name, {manifest["model"]["handler"]: entry})


def ours(folder: Path, packed: Path) -> AbstractContextManager[Running]:
    """An archive of ours, as ``make serve`` serves it."""
    return _running(Server(made(folder), packed.parent, Ports.free()))


def stock(folder: Path) -> AbstractContextManager[Running]:
    """The stock handler with a plain trace of our weights, our batch size, delay and workers.

    The trace is left in ``folder / TRACE``, for other servers.
    """
    generator, _ = load_generator(STORE / "generator.safetensors")
    export_torchscript(generator, made(folder) / TRACE)
    return _serving(folder, "stock_handler.py", "--serialized-file", folder / TRACE)


def blank(folder: Path, replies: Mapping[int, bytes]) -> AbstractContextManager[Running]:
    """A handler that has its replies already, by number of images; our batch size, delay and
    workers."""
    extra = made(folder / "replies")
    for num_images, reply in replies.items():
        (extra / f"{num_images}.png").write_bytes(reply)
    return _serving(folder, "blank_handler.py", "--extra-files", extra)


def _serving(folder: Path, handler: str, *options: str | Path) -> AbstractContextManager[Running]:
    """A handler of this package, packed with our settings for TorchServe."""
    store = made(folder / "store")
    config = _config()
    del config["handler"]
    (folder / CONFIG).write_text(yaml.safe_dump(config), encoding="utf-8")
    command: list[str | Path] = [
        Path(sys.executable).parent / "torch-model-archiver",
        "--model-name", "dcgan", "--version", "1.0",
        "--handler", ROOT / "benchmarks" / handler,
        "--config-file", folder / CONFIG, "--export-path", store, *options,
    ]  # fmt: skip
    private = made(folder / "tmp")  # the archiver deletes $TMPDIR/dcgan
    subprocess.run(command, check=True, env={**os.environ, "TMPDIR": str(private)})
    return _running(Server(made(folder / "server"), store, Ports.free()))


def _config() -> dict[str, Any]:
    """Of the archive in the model store."""
    with zipfile.ZipFile(_packed()) as packed:
        config: dict[str, Any] = yaml.safe_load(packed.read(CONFIG))
    return config


def _changed(packed: Path, copy: Path, files: Mapping[str, bytes]) -> Path:
    """A copy of an archive in which these files are others."""
    with zipfile.ZipFile(packed) as source, zipfile.ZipFile(copy, "w") as target:
        for entry in source.infolist():
            target.writestr(entry, files.get(entry.filename) or source.read(entry))
    return copy


@contextmanager
def _running(server: Server) -> Iterator[Running]:
    began = time.perf_counter()
    with server.running() as process:
        ready_s = time.perf_counter() - began
        yield Running(server.predict_url, psutil.Process(process.pid), ready_s)


def _packed() -> Path:
    packed = STORE / "dcgan.mar"
    if not packed.is_file():
        raise UsageError(f"there is no {packed.relative_to(ROOT)}; run: make export")
    return packed


def made(folder: Path) -> Path:
    """The folder, there."""
    folder.mkdir(parents=True, exist_ok=True)
    return folder
