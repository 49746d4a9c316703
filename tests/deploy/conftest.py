"""An archive that is none of a model, but looks like one."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    path = tmp_path / "dcgan.mar"
    with zipfile.ZipFile(path, "w") as made:
        made.writestr("MAR-INF/MANIFEST.json", "{}")
    return path
