"""The client's command line where no server answers."""

from __future__ import annotations

import io
import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from client import __main__ as command
from client.__main__ import main

ROOT = Path(__file__).resolve().parents[2]


def test_read_needs_no_server(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, info = tmp_path / "cat.png", PngInfo()
    made_by = {"model": "dcgan", "request": {"seed": 7}}
    info.add_text("dcgan", json.dumps(made_by))
    Image.new("RGB", (4, 3)).save(path, pnginfo=info)
    assert main(["--read", str(path)]) == 0
    assert json.loads(capsys.readouterr().out) == made_by


def test_read_of_a_foreign_picture(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "other.png"
    Image.new("RGB", (4, 3)).save(path)
    assert main(["--read", str(path)]) == 1
    out, err = capsys.readouterr()
    assert "does not say what made it" in err
    assert out == ""


def test_nobody_listens(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--url", "http://127.0.0.1:1", "-o", str(tmp_path / "cat.png")]) == 1
    assert "is the server up" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_name_that_stdout_cannot_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "_save", lambda *_: None)
    shown = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(shown, "ascii"))
    assert main(["-o", "é\udce9.png"]) == 0
    assert shown.getvalue() == os.fsencode("é\udce9.png\n")


def heed_ctrl_c() -> None:
    """A test run that a shell put in the background was told to ignore Ctrl-C, and passes it on."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def test_an_interrupted_call(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        process = subprocess.Popen(
            [sys.executable, "-m", "client", "--url", url, "-o", str(tmp_path / "cat.npy")],
            cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, preexec_fn=heed_ctrl_c,
        )  # fmt: skip
        silent.settimeout(60)
        connection, _ = silent.accept()
        with connection:
            assert connection.recv(1)
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert (out, err) == (b"", b"")
    assert list(tmp_path.iterdir()) == []
