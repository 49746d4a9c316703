"""TorchServe with our archive, or with the stock handler, for as long as a benchmark runs."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import yaml

from benchmarks.running import Running
from deploy.server import ROOT, Ports, Server
from export.torchscript import export_torchscript
from handler.limits import Settings
from training.weights import load_generator

STORE = ROOT / "model_store"
CONFIG = "model-config.yaml"
TRACE = "generator.pt"


def archive(folder: Path, precision: str | None) -> Path:
    """The archive of the model store, or a copy whose handler block says ``precision``.

    Args:
        folder: for the copy.
        precision: a value of ``precision`` in model-config.yaml; None leaves the archive as it is.

    Raises:
        ValueError: there is no such precision, or no archive.
    """
    if precision is None:
        return _packed()
    return repacked(folder, {}, {"precision": precision})


def repacked(folder: Path, model: Mapping[str, Any], handler: Mapping[str, Any]) -> Path:
    """A copy of the archive of the model store with other settings in its model-config.yaml.

    Args:
        folder: for the copy.
        model: over TorchServe's own settings, such as ``maxBatchDelay``.
        handler: over those of the handler block.

    Raises:
        ValueError: the handler has no such setting, or there is no archive.
    """
    packed = _packed()
    changed = _made(folder) / packed.name
    with zipfile.ZipFile(packed) as source, zipfile.ZipFile(changed, "w") as target:
        for entry in source.infolist():
            content = source.read(entry)
            if entry.filename == CONFIG:
                config = yaml.safe_load(content)
                config |= model
                config["handler"] |= handler
                Settings.from_yaml(config["handler"])
                content = yaml.safe_dump(config).encode()
            target.writestr(entry, content)
    return changed


@contextmanager
def ours(
    folder: Path,
    packed: Path,
    settings: Mapping[str, str] | None = None,
    environment: Mapping[str, str] | None = None,
) -> Iterator[Running]:
    """An archive of ours, as ``make serve`` serves it.

    Args:
        settings: over those of config.properties.
        environment: variables over those of this process.
    """
    server = Server(
        _made(folder), packed.parent, Ports.free(),
        settings=tuple((settings or {}).items()), environment=tuple((environment or {}).items()),
    )  # fmt: skip
    with _running(server) as running:
        yield running


@contextmanager
def stock(folder: Path) -> Iterator[Running]:
    """The stock handler with a plain trace of our weights, our batch size, delay and workers.

    The trace is left in ``folder / TRACE``, for other servers.
    """
    store = _made(folder / "store")
    generator, _ = load_generator(STORE / "generator.safetensors")
    export_torchscript(generator, folder / TRACE)
    with zipfile.ZipFile(_packed()) as packed:
        config = yaml.safe_load(packed.read(CONFIG))
    del config["handler"]
    (folder / CONFIG).write_text(yaml.safe_dump(config), encoding="utf-8")
    command = [
        str(Path(sys.executable).parent / "torch-model-archiver"),
        "--model-name", "dcgan", "--version", "1.0",
        "--serialized-file", str(folder / TRACE),
        "--handler", str(ROOT / "benchmarks" / "stock_handler.py"),
        "--config-file", str(folder / CONFIG), "--export-path", str(store),
    ]  # fmt: skip
    private = _made(folder / "tmp")  # the archiver deletes $TMPDIR/dcgan
    subprocess.run(command, check=True, env={**os.environ, "TMPDIR": str(private)})
    with _running(Server(_made(folder / "server"), store, Ports.free())) as running:
        yield running


@contextmanager
def _running(server: Server) -> Iterator[Running]:
    began = time.perf_counter()
    with server.running() as process:
        ready_s = time.perf_counter() - began
        yield Running(server.predict_url, psutil.Process(process.pid), ready_s)


def _packed() -> Path:
    packed = STORE / "dcgan.mar"
    if not packed.is_file():
        raise ValueError(f"there is no {packed.relative_to(ROOT)}; run: make export")
    return packed


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder
