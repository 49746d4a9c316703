"""The first process of the container, run as the image has it: its files alone, in its folder."""

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import psutil
import pytest
import requests

from deploy.healthcheck import worker_states
from deploy.lifecycle import ServerError
from deploy.server import HOST, ROOT, Ports
from tests.support import live
from tests.support.documents import text_of

COPIED = re.findall(
    r"^COPY (?!--from)(.+) (\S+)$",
    text_of("deploy/Dockerfile").partition("AS torchserve")[2],
    re.MULTILINE,
)
PATIENCE_S = "7"  # more than one look at the workers may take
FAILS_THE_SECOND_TIME = b"""
from pathlib import Path

def handle(data, context):
    mark = Path(context.system_properties["model_dir"]) / "was-here"
    if data is None:
        if mark.exists():
            raise RuntimeError("a planted failure")
        mark.touch()
    return [b"" for _ in data or []]
"""


@dataclass(frozen=True)
class Image:
    """The folder /opt/dcgan of the image, with ports of its own and a folder for /tmp."""

    root: Path
    tmp: Path
    ports: Ports

    @property
    def output(self) -> Path:
        return self.tmp.parent / "output"

    def run(self, module: str, **variables: str) -> subprocess.Popen[bytes]:
        # Docker's client hands its own proxy on to containers.
        proxy = {"http_proxy": "http://127.0.0.1:9", "no_proxy": "", "NO_PROXY": ""}
        environment = {**os.environ, **proxy, "TMPDIR": str(self.tmp), **variables}
        with self.output.open("ab") as output:
            how: dict[str, Any] = {"cwd": self.root, "env": environment}
            command = [sys.executable, "-m", module]
            return subprocess.Popen(command, stdout=output, stderr=output, **how)

    def is_healthy(self) -> bool:
        return self.run("deploy.healthcheck").wait(60) == 0

    def has_worker(self) -> bool:
        try:
            url = f"http://{HOST}:{self.ports.management}/models/dcgan"
            return worker_states(url) == ["READY"]
        except ServerError:
            return False

    def draw(self) -> bytes:
        """On a connection of its own, as the proxy asks."""
        url = f"http://{HOST}:{self.ports.inference}/predictions/dcgan"
        fields, headers = {"seed": 1, "num_images": 100}, {"Connection": "close"}
        reply = requests.post(url, json=fields, headers=headers, timeout=120)
        assert reply.status_code == 200
        return reply.content

    def connections(self) -> int:
        return sum(
            c.status == psutil.CONN_ESTABLISHED and c.laddr.port == self.ports.inference
            for c in psutil.net_connections("tcp")
        )

    def processes(self) -> list[psutil.Process]:
        """All that belong to it: Java and what it started name its folder."""
        listed = psutil.process_iter(["cmdline"])
        return [p for p in listed if str(self.tmp) in " ".join(p.info["cmdline"] or [])]


@pytest.fixture
def image(tmp_path: Path) -> Iterator[Image]:
    made = Image(tmp_path / "opt", tmp_path / "tmp", Ports.free())
    made.tmp.mkdir()
    for sources, target in COPIED:
        for source in sources.split():
            to = made.root / target / Path(source).name
            to.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / source, to)
    config = made.root / "config.properties"
    text = config.read_text(encoding="utf-8")
    usual = Ports()
    for field in fields(Ports):
        old, new = getattr(usual, field.name), getattr(made.ports, field.name)
        assert text.count(str(old)) == 1
        text = text.replace(str(old), str(new))
    config.write_text(text, encoding="utf-8")
    yield made
    for process in made.processes():
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()


def store(image: Image, handler: bytes | None = None) -> Path:
    """The image's model store: the built archive, or one with another handler. TorchServe tries
    for a second only to start a worker again."""
    entry = json.loads(live.packed(live.MANIFEST))["model"]["handler"]
    files = {entry: handler} if handler else {}
    return live.edited_archive(image.root / "model_store", files, {"maxRetryTimeoutInSec": 1})


def test_a_truncated_archive_ends_it_before_torchserve_starts(image: Image) -> None:
    folder = image.root / "model_store"
    folder.mkdir()
    for name in ("dcgan.mar", "dcgan.mar.sha256"):
        shutil.copy(live.STORE / name, folder)
    archive = folder / "dcgan.mar"
    os.truncate(archive, archive.stat().st_size // 2)
    assert image.run("deploy.entrypoint").wait(60) == 1
    said = image.output.read_text()
    assert said.startswith("error: model_store/dcgan.mar is damaged or was changed: its SHA-256")
    assert len(said.splitlines()) == 1


def has_launched(process: subprocess.Popen[bytes]) -> bool:
    """TorchServe: before, it asks a Java for its version."""
    with contextlib.suppress(psutil.Error):
        children = psutil.Process(process.pid).children()
        return any("torchserve" in " ".join(child.cmdline()) for child in children)
    return False


@contextlib.contextmanager
def out_of_time(process: subprocess.Popen[bytes]) -> Iterator[None]:
    """Stopped for the length of a block, once it has started TorchServe: a time in which the
    container itself was paused is not one without a worker, however long a machine takes."""
    live.wait(lambda: has_launched(process))
    process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        process.send_signal(signal.SIGCONT)


def ends_without_a_worker(image: Image, process: subprocess.Popen[bytes], said: str) -> None:
    """TorchServe itself would run on for ever, and its /ping say Healthy."""
    with out_of_time(process):
        live.wait(lambda: said in image.output.read_text())
    assert process.wait(120) == 1
    output = image.output.read_text()
    assert output.index(said) < output.index(f"error: no worker has been READY for {PATIENCE_S} s")
    assert image.processes() == []
    assert image.ports.taken() == []


def test_a_model_that_cannot_be_loaded_ends_it(image: Image) -> None:
    store(image)
    variables = {"DCGAN_NO_WORKER_S": PATIENCE_S, "DCGAN_LOG_LEVEL": "loud"}
    process = image.run("deploy.entrypoint", **variables)
    refusal = "DCGAN_LOG_LEVEL: seen 'loud'; allowed are debug, info"
    ends_without_a_worker(image, process, refusal)


def test_a_worker_that_is_gone_for_good_ends_it(image: Image) -> None:
    store(image, FAILS_THE_SECOND_TIME)
    process = image.run("deploy.entrypoint", DCGAN_NO_WORKER_S=PATIENCE_S)
    with out_of_time(process):
        # Not before it is READY: the time of TorchServe's tries is counted from the first failure.
        live.wait(image.has_worker)
    (worker,) = [p for p in image.processes() if "model_service_worker" in str(p.cmdline())]
    worker.kill()
    ends_without_a_worker(image, process, "a planted failure")


def test_a_start_on_what_a_killed_one_left_and_its_stop(image: Image) -> None:
    """The restart of a container, or of one in a pod, has the same /tmp. Its stop under load loses
    nothing: the proxy has stopped sending, what is there is finished."""
    store(image)
    first = image.run("deploy.entrypoint")
    live.wait(image.is_healthy)
    for process in [psutil.Process(first.pid), *image.processes()]:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    first.wait(30)
    live.wait(lambda: image.ports.taken() == [])
    left = image.tmp / "torchserve"
    assert list(left.glob(".ts.sock*"))
    assert len(list((left / "models").iterdir())) == 1
    (left / ".model_server.pid").write_text(str(os.getpid()))  # the number is used again
    (image.tmp / "draining").touch()  # it was killed while it drained
    second = image.run("deploy.entrypoint")
    live.wait(image.is_healthy)
    assert len(list((left / "models").iterdir())) == 1
    right = image.draw()
    with ThreadPoolExecutor(8) as pool:
        waiting = [pool.submit(image.draw) for _ in range(8)]
        live.wait(lambda: image.connections() == 8)
        second.send_signal(signal.SIGTERM)
        assert [future.result() for future in waiting] == [right] * 8
    assert second.wait(60) == 0
    assert not image.is_healthy()
    lines = image.output.read_text().splitlines()
    assert lines[-1] == "the server is being stopped"
    assert image.processes() == []
    # Without a file everything is logged to the console.
    loggers = {json.loads(line)["logger"] for line in lines if line.startswith("{")}
    assert {"org.pytorch.serve.ModelServer", "handler.telemetry"} <= loggers
