"""What the container's processes read: config.properties, variables, the archive's times."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest

from deploy import container, entrypoint
from deploy.lifecycle import ServerError

CONFIG = """# of a network of containers
inference_address=http://0.0.0.0:8080
management_address = http://10.0.0.1:9081
model_store=store
load_models=dcgan.mar, dcgan-1.1.mar
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_settings_in_use_are_asked_on_the_loopback_interface(folder: Path) -> None:
    (folder / "config.properties").write_text(CONFIG)
    settings = container.read_settings()
    assert settings.archives == (Path("store/dcgan.mar"), Path("store/dcgan-1.1.mar"))
    assert settings.prediction_url == "http://127.0.0.1:8080/predictions/dcgan"
    assert settings.description_url == "http://127.0.0.1:9081/models/dcgan"


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("model_store=store\n", "", "does not set model_store"),
        ("http://0.0.0.0:8080", "http://0.0.0.0", r"'http://0\.0\.0\.0'; give a port"),
    ],
)
def test_settings_that_cannot_be_used(folder: Path, old: str, new: str, words: str) -> None:
    (folder / "config.properties").write_text(CONFIG.replace(old, new))
    with pytest.raises(ServerError, match=words):
        container.read_settings()


@pytest.mark.parametrize("name", ["DCGAN_DRAIN_S", "DCGAN_NO_WORKER_S"])
@pytest.mark.parametrize("value", ["", "70s", "-1", "nan", "inf"])
def test_a_time_that_is_none(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(name, value)
    assert entrypoint.main() == 2
    assert capsys.readouterr().err == f"error: {name} is {value!r}; give seconds, such as 70\n"


@pytest.mark.parametrize(
    ("config", "wanted_s"),
    [
        ("startupTimeout: 900\n", 960),
        ("startupTimeout: 10\n", 360),  # TorchServe tries again for 300 s
        ("startupTimeout: 10\nmaxRetryTimeoutInSec: 30\n", 90),
        ("startupTimeout: soon\nmaxRetryTimeoutInSec: 30\n", 180),
        ("- a list\n", 360),
        ("{", 360),
        (None, 360),
    ],
)
def test_a_worker_gets_the_time_that_the_archive_gives_it(
    folder: Path, config: str | None, wanted_s: float
) -> None:
    with zipfile.ZipFile(folder / "dcgan.mar", "w") as archive:
        archive.writestr("MAR-INF/MANIFEST.json", "{}")
        if config is not None:
            archive.writestr("model-config.yaml", config)
    assert entrypoint.patience_s(folder / "dcgan.mar") == wanted_s
