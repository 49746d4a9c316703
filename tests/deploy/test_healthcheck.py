"""When a server counts as ready, for everybody who asks: against a stand-in for TorchServe; and
what the container's probes read."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from deploy import healthcheck
from deploy.healthcheck import read_settings, reason_not_ready, worker_states
from deploy.lifecycle import ServerError
from deploy.server import HOST, Ports, ask
from tests.support.web import Answering, serving

CONFIG = """# of a network of containers
inference_address=http://0.0.0.0:8080
management_address = http://10.0.0.1:9081
model_store=store
load_models=dcgan.mar, dcgan-1.1.mar
"""
Captured = pytest.CaptureFixture[str]
PNG = (200, b"\x89PNG\r\n\x1a\n and more")


class StandIn(ThreadingHTTPServer):
    """What TorchServe would say; ``answer`` None says nothing before the end."""

    states: tuple[tuple[str, ...], ...] = (("READY",),)
    pending = 0
    answer: tuple[int, bytes] | None = PNG

    def __init__(self) -> None:
        self.ended = threading.Event()
        super().__init__((HOST, 0), _Handler)
        self.url = f"http://{HOST}:{self.server_port}"

    def reason(self, versions: int = 1) -> str:
        model, prediction = f"{self.url}/models/dcgan", f"{self.url}/predictions/dcgan"
        return reason_not_ready(model, prediction, versions, 0.5)


class _Handler(Answering):
    server: StandIn

    def do_GET(self) -> None:
        if self.path != "/models/dcgan/all":
            self.say(404, b"")
            return
        queue = {"pendingRequests": self.server.pending, "remainingCapacity": 100}
        described = [
            {"workers": [{"status": state} for state in states], "jobQueueStatus": queue}
            for states in self.server.states
        ]
        self.say(200, json.dumps(described).encode())

    def do_POST(self) -> None:
        if self.server.answer is None:
            self.server.ended.wait()
        else:
            self.say(*self.server.answer)


@pytest.fixture
def stand_in() -> Iterator[StandIn]:
    with serving(StandIn()) as opened:
        yield opened
        opened.ended.set()


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ({}, ""),
        ({"states": ()}, "0 of 1 versions are loaded"),
        ({"states": ((),)}, "not every worker is READY: []"),
        ({"states": (("READY", "UNLOADED"),)}, "not every worker is READY: ['READY', 'UNLOADED']"),
        ({"answer": (200, b"<html>")}, "the reply is not a PNG"),
        ({"answer": (507, b"")}, "{url} answered 507"),
        ({"answer": None}, "no image came back within 0.5 s"),
        # Busy: a full queue, or one that moves too slowly.
        ({"answer": (503, b"")}, ""),
        ({"answer": (503, b'{"code": 503, "type": "ServiceUnavailableException"}')}, ""),
        (
            {"answer": (503, b'{"code": 503, "type": "InternalServerException"}')},
            "{url} answered 503",
        ),
        ({"answer": None, "pending": 1}, ""),
    ],
)
def test_ready_or_why_not(stand_in: StandIn, said: dict[str, Any], reason: str) -> None:
    for name, value in said.items():
        setattr(stand_in, name, value)
    assert stand_in.reason() == reason.format(url=f"{stand_in.url}/predictions/dcgan")


def test_every_version_counts(stand_in: StandIn) -> None:
    stand_in.states = (("READY",), ())
    assert stand_in.reason(2) == "not every worker is READY: ['READY']"
    stand_in.states = (("READY",), ("READY",))
    assert stand_in.reason(2) == ""


@pytest.mark.parametrize("name", ["http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"])
def test_a_proxy_is_not_asked_about_this_machine(
    stand_in: StandIn, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where nobody listens: who asks there gets no answer."""
    for variable in ("no_proxy", "NO_PROXY"):
        monkeypatch.setenv(variable, "example.org")
    monkeypatch.setenv(name, f"http://{HOST}:9")
    assert stand_in.reason() == ""
    assert worker_states(f"{stand_in.url}/models/dcgan") == ["READY"]
    assert ask("POST", f"{stand_in.url}/predictions/dcgan", timeout=5).content == PNG[1]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_settings_in_use_are_asked_on_the_loopback_interface(folder: Path) -> None:
    (folder / "config.properties").write_text(CONFIG)
    settings = read_settings()
    assert settings.archives == (Path("store/dcgan.mar"), Path("store/dcgan-1.1.mar"))
    assert settings.prediction_url == "http://127.0.0.1:8080/predictions/dcgan"
    assert settings.description_url == "http://127.0.0.1:9081/models/dcgan"


def test_an_address_without_a_port_cannot_be_used(folder: Path) -> None:
    (folder / "config.properties").write_text(CONFIG.replace(":8080", ""))
    with pytest.raises(ServerError, match=r"'http://0\.0\.0\.0'; give a port"):
        read_settings()


SETTINGS = "inference_address={0}\nmanagement_address={0}\nmodel_store=.\nload_models=dcgan.mar\n"
NOBODY = f"http://{HOST}:{Ports.free().inference}"


@pytest.mark.parametrize(
    ("arguments", "settings", "draining", "reason"),
    [
        ([], SETTINGS, False, ""),
        ([], SETTINGS, True, "the server is being stopped"),
        (["--alive"], SETTINGS, True, ""),
        ([], SETTINGS.format(NOBODY), False, "TorchServe does not answer: "),
        (["--alive"], SETTINGS.format(NOBODY), False, "TorchServe does not answer: "),
        ([], "model_store=.\n", False, "config.properties does not set load_models"),
    ],
)
def test_the_command_of_the_container(
    stand_in: StandIn,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: Captured,
    arguments: list[str],
    settings: str,
    draining: bool,
    reason: str,
) -> None:
    monkeypatch.setattr(healthcheck, "DRAINING", folder / "draining")
    (folder / "config.properties").write_text(settings.format(stand_in.url))
    if draining:
        healthcheck.DRAINING.touch()
    assert healthcheck.main(arguments) == (1 if reason else 0)
    printed = capsys.readouterr().err
    assert reason in printed
    assert bool(reason) == bool(printed)


def test_not_alive_without_a_ready_worker_nor_ready_without_the_model(
    stand_in: StandIn, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    (folder / "config.properties").write_text(SETTINGS.format(stand_in.url))
    stand_in.states = (("UNLOADED",),)
    assert healthcheck.main(["--alive"]) == 1
    assert capsys.readouterr().err == "no worker is READY: ['UNLOADED']\n"
    monkeypatch.setattr(healthcheck, "MODEL", "other")
    assert healthcheck.main([]) == 1
    assert capsys.readouterr().err == f"{stand_in.url}/models/other/all answered 404\n"
    assert healthcheck.main(["alive"]) == 2
    assert capsys.readouterr().err == "usage: python -m deploy.healthcheck [--alive]\n"
