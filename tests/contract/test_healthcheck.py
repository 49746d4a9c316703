"""The health check of the container, asked against a live TorchServe."""

from __future__ import annotations

from pathlib import Path

import pytest

from deploy import healthcheck
from deploy.server import HOST, Ports, Server

pytestmark = pytest.mark.contract


@pytest.fixture(autouse=True)
def addresses(server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(healthcheck, "DESCRIPTION", server.describe_url)
    monkeypatch.setattr(healthcheck, "PREDICTION", server.predict_url)
    monkeypatch.setattr(healthcheck, "DRAINING", tmp_path / "draining")


def test_ready_when_an_image_comes_back() -> None:
    assert healthcheck.reason_not_ready() == ""


def test_not_ready_while_it_is_being_stopped() -> None:
    healthcheck.DRAINING.touch()
    assert healthcheck.reason_not_ready() == "the server is being stopped"


def test_not_ready_without_a_model(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """TorchServe itself is up, and its /ping would say so."""
    missing = server.describe_url.replace("/models/dcgan", "/models/other")
    monkeypatch.setattr(healthcheck, "DESCRIPTION", missing)
    assert healthcheck.reason_not_ready() == f"{missing} answered 404"


def test_not_ready_when_the_prediction_fails(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    missing = server.predict_url.replace("/predictions/dcgan", "/predictions/other")
    monkeypatch.setattr(healthcheck, "PREDICTION", missing)
    assert healthcheck.reason_not_ready() == f"{missing} answered 404"


def test_not_ready_when_nobody_listens(monkeypatch: pytest.MonkeyPatch) -> None:
    nobody = f"http://{HOST}:{Ports.free().management}/models/dcgan"
    monkeypatch.setattr(healthcheck, "DESCRIPTION", nobody)
    assert healthcheck.reason_not_ready().startswith("TorchServe does not answer: ")
