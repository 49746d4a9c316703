"""The health check of the container, asked against a live TorchServe."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from deploy import healthcheck
from deploy.server import HOST, Ports, Server

Said = Callable[..., tuple[int, str]]


@pytest.fixture(autouse=True)
def in_the_container(server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """In the folder of the server's config.properties, as the image is."""
    monkeypatch.chdir(server.folder)
    monkeypatch.setattr(healthcheck, "DRAINING", tmp_path / "draining")


@pytest.fixture
def said(capsys: pytest.CaptureFixture[str]) -> Said:
    """Exit code and stderr of the command."""
    return lambda *arguments: (healthcheck.main([*arguments]), capsys.readouterr().err.strip())


def nobody(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Go to a folder whose settings lead to ports where nobody listens."""
    ports = Ports.free()
    (folder / "config.properties").write_text(
        f"model_store=.\nload_models=dcgan.mar\ninference_address=http://{HOST}:{ports.inference}\n"
        f"management_address=http://{HOST}:{ports.management}\n"
    )
    monkeypatch.chdir(folder)


def test_ready_when_an_image_comes_back(said: Said) -> None:
    assert said() == (0, "")


def test_alive_while_a_worker_is_ready(said: Said) -> None:
    healthcheck.DRAINING.touch()
    assert said("--alive") == (0, "")


@pytest.mark.parametrize("arguments", [(), ("--alive",)])
def test_neither_when_nobody_listens(
    said: Said, arguments: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nobody(tmp_path, monkeypatch)
    code, reason = said(*arguments)
    assert code == 1
    assert reason.startswith("TorchServe does not answer: ")


def test_bad_usage(said: Said) -> None:
    assert said("alive") == (2, "usage: python -m deploy.healthcheck [--alive]")


def test_not_ready_while_it_is_being_stopped(said: Said) -> None:
    healthcheck.DRAINING.touch()
    assert said() == (1, "the server is being stopped")


def test_not_ready_without_a_model(
    said: Said, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """TorchServe itself is up, and its /ping would say so."""
    monkeypatch.setattr(healthcheck, "MODEL", "other")
    missing = server.describe_url.replace("/models/dcgan", "/models/other") + "/all"
    assert said() == (1, f"{missing} answered 404")


def test_not_ready_when_the_prediction_fails(
    said: Said, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    missing = server.predict_url.replace("/predictions/dcgan", "/predictions/other")
    monkeypatch.setattr(healthcheck.Settings, "prediction_url", missing)
    assert said() == (1, f"{missing} answered 404")


def test_not_ready_without_settings(
    said: Said, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "config.properties").write_text("model_store=.\n")
    monkeypatch.chdir(tmp_path)
    code, reason = said()
    assert code == 1
    assert reason.endswith("does not set load_models")
