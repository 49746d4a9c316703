"""``make serve`` and ``make stop`` beside a server that runs already: none is stopped by mistake.

The server is a process that sleeps; what it would say is told.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

import psutil
import pytest
import requests

from deploy import gallery, serve
from deploy.lifecycle import ServerError
from deploy.server import ROOT, Ports, Server
from export.__main__ import main as export_main

Captured = pytest.CaptureFixture[str]


@pytest.fixture
def running(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[serve.Running]:
    """Recorded as the server of a checkout, and ready."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(serve, "FOLDER", tmp_path / ".server")
    monkeypatch.setattr(serve, "STATE", tmp_path / ".server" / "server.json")
    monkeypatch.setattr(serve, "check_archive", lambda _: "digest")
    monkeypatch.setattr(Server, "reason_not_ready", lambda _: "")
    monkeypatch.setattr(Server, "start", never)
    serve.FOLDER.mkdir()
    with subprocess.Popen(["sleep", "100"]) as process:
        monkeypatch.setattr(
            serve, "find_java", lambda _: process.pid if process.poll() is None else None
        )
        recorded = serve.Running(process.pid, Ports(), "digest")
        serve.STATE.write_text(json.dumps(dataclasses.asdict(recorded)))
        yield recorded
        process.kill()


def never(*_: object) -> NoReturn:
    raise AssertionError("another server was started")


def replies(status: int, body: bytes = b"a grid", most: int = 256) -> Callable[..., Any]:
    """Of a model that makes up to ``most`` images a request and answers each with this."""

    def ask(method: str, *_: object, **__: object) -> requests.Response:
        reply = requests.Response()
        limits = {"customizedMetadata": {"limits": {"max_images": most}}}
        reply.status_code = 200 if method == "GET" else status
        reply._content = json.dumps([limits]).encode() if method == "GET" else body
        return reply

    return ask


def interrupted(*_: object, **__: object) -> NoReturn:
    raise KeyboardInterrupt


def lives(running: serve.Running) -> bool:
    return serve.find_java(serve.FOLDER) == running.pid and serve.STATE.exists()


@pytest.mark.parametrize(("most", "asked"), [(8, 8), (256, 64)])
def test_one_that_serves_is_used_for_a_grid_that_the_model_makes(
    running: serve.Running, most: int, asked: int, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    monkeypatch.setattr(serve, "ask", replies(200, most=most))
    assert serve.main(["start"]) == 0
    assert f'"num_images": {asked}}}' in capsys.readouterr().out
    assert Path("grid.png").read_bytes() == b"a grid"
    assert lives(running)


def test_a_refusal_says_why(
    running: serve.Running, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    monkeypatch.setattr(serve, "ask", replies(413, b'{"detail": "ask for fewer"}'))
    assert serve.main(["start"]) == 1
    assert capsys.readouterr().err.endswith("413: ask for fewer\n")
    assert lives(running)


def test_one_that_is_busy_lives_on(
    running: serve.Running, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    monkeypatch.setattr(serve, "ask", replies(503))
    assert serve.main(["start", "--timeout-s", "0.1"]) == 1
    assert "error: the server runs, but has been too busy" in capsys.readouterr().err
    assert lives(running)
    assert not Path("grid.png").exists()


def test_one_that_starts_is_waited_for(
    running: serve.Running, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    reasons = ["not yet", "not yet", ""]
    monkeypatch.setattr(Server, "reason_not_ready", lambda _: reasons.pop(0))
    monkeypatch.setattr(serve, "ask", replies(200))
    assert serve.main(["start"]) == 0
    monkeypatch.setattr(Server, "reason_not_ready", lambda _: "not yet")
    assert serve.main(["start", "--timeout-s", "0.1"]) == 1
    assert "does not serve after 0 s: not yet. make stop ends it" in capsys.readouterr().err
    assert lives(running)


@pytest.mark.parametrize("at", ["reason_not_ready", "ask"])
def test_ctrl_c_leaves_it(running: serve.Running, at: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serve if at == "ask" else Server, at, interrupted)
    assert serve.main(["start"]) == 130
    assert lives(running)


@pytest.mark.parametrize("ended", [ServerError("not ready"), KeyboardInterrupt()])
def test_what_the_command_started_it_stops(
    running: serve.Running, ended: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    serve.STATE.unlink()

    def end(*_: object) -> NoReturn:
        raise ended

    with subprocess.Popen(["sleep", "100"]) as process:
        monkeypatch.setattr(
            serve, "find_java", lambda _: process.pid if serve.STATE.exists() else None
        )
        monkeypatch.setattr(Server, "start", lambda _: process)
        monkeypatch.setattr(Server, "wait_until_ready", end)
        assert serve.main(["start"]) == (130 if isinstance(ended, KeyboardInterrupt) else 1)
    assert not serve.STATE.exists()
    assert psutil.Process(running.pid).status() == psutil.STATUS_SLEEPING


@pytest.mark.parametrize("main", [serve.main, gallery.main, export_main])
def test_help_that_nobody_reads_to_its_end(
    main: Callable[[list[str]], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(_: str) -> NoReturn:
        raise BrokenPipeError(32, "Broken pipe")

    monkeypatch.setattr("sys.stdout.write", gone)
    assert main(["--help"]) == 1


@pytest.mark.parametrize("target", ["stop", "clean"])
def test_what_was_never_started_is_stopped_without_a_set_up(tmp_path: Path, target: str) -> None:
    shutil.copy(ROOT / "Makefile", tmp_path)
    subprocess.run(["make", target, "PYTHON=false"], cwd=tmp_path, check=True)


@pytest.mark.parametrize(
    ("main", "flags", "words"),
    [(serve.main, "start --inference 70000", "inference is 70000; it must be 1 to 65535"),
     (gallery.main, "--metrics 0", "metrics is 0; it must be 1 to 65535"),
     (gallery.main, "--port 70000", "port is 70000; it must be 0 to 65535"),
     (serve.main, "start --inference 8081", "inference and management are both 8081")],
)  # fmt: skip
def test_what_is_no_port_or_another_ones_exits_2(
    main: Callable[[list[str]], int], flags: str, words: str, capsys: Captured
) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(flags.split())
    assert words in " ".join(capsys.readouterr().err.replace("│", " ").split())


def test_stop_ends_it(running: serve.Running, capsys: Captured) -> None:
    for said in ("stopped\n", "no server is running\n"):
        assert serve.main(["stop"]) == 0
        assert capsys.readouterr().err == said
        assert serve.find_java(serve.FOLDER) is None
        assert not lives(running)


@pytest.mark.parametrize("since", ["another", "the same"])
def test_the_end_of_the_page_stops_only_what_it_started(
    running: serve.Running, since: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not one that was started since, when its own had been stopped."""
    started = dataclasses.replace(running, pid=1) if since == "another" else running
    monkeypatch.setattr(serve, "start", lambda _: started)
    monkeypatch.setattr(gallery, "_serve_page", interrupted)
    assert gallery.main(["--port", "0"]) == 130
    assert lives(running) == (since == "another")
