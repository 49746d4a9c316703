"""The health check of the container, asked against a live TorchServe."""

from __future__ import annotations

from pathlib import Path

import pytest

from deploy import container, healthcheck
from deploy.server import HOST, Ports, Server


@pytest.fixture(autouse=True)
def in_the_container(server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """In the folder of the server's config.properties, as the image is."""
    monkeypatch.chdir(server.folder)
    monkeypatch.setattr(container, "DRAINING", tmp_path / "draining")


def test_ready_when_an_image_comes_back() -> None:
    assert healthcheck.reason_not_ready() == ""


def test_not_ready_while_it_is_being_stopped() -> None:
    container.DRAINING.touch()
    assert healthcheck.reason_not_ready() == "the server is being stopped"


def test_not_ready_without_a_model(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """TorchServe itself is up, and its /ping would say so."""
    monkeypatch.setattr(container, "MODEL", "other")
    missing = server.describe_url.replace("/models/dcgan", "/models/other")
    assert healthcheck.reason_not_ready() == f"{missing} answered 404"


def test_not_ready_when_the_prediction_fails(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    missing = server.predict_url.replace("/predictions/dcgan", "/predictions/other")
    monkeypatch.setattr(container.Settings, "prediction_url", missing)
    assert healthcheck.reason_not_ready() == f"{missing} answered 404"


def test_not_ready_when_nobody_listens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nobody = Ports.free()
    (tmp_path / "config.properties").write_text(
        f"model_store=.\nload_models=dcgan.mar\ninference_address=http://{HOST}:{nobody.inference}\n"
        f"management_address=http://{HOST}:{nobody.management}\n"
    )
    monkeypatch.chdir(tmp_path)
    assert healthcheck.reason_not_ready().startswith("TorchServe does not answer: ")


def test_not_ready_without_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "config.properties").write_text("model_store=.\n")
    monkeypatch.chdir(tmp_path)
    assert healthcheck.reason_not_ready().endswith("does not set load_models")
