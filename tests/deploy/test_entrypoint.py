"""What the container's first process reads: variables, and the archive's times."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest

from deploy import entrypoint


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
    tmp_path: Path, config: str | None, wanted_s: float
) -> None:
    with zipfile.ZipFile(tmp_path / "dcgan.mar", "w") as archive:
        archive.writestr("MAR-INF/MANIFEST.json", "{}")
        if config is not None:
            archive.writestr("model-config.yaml", config)
    assert entrypoint.patience_s(tmp_path / "dcgan.mar") == wanted_s
