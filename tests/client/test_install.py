"""``pip install ./client`` into an environment that has nothing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.scripted import OK, Scripted

CLIENT = Path(__file__).parents[2] / "client"
SCRIPT = """
import importlib.util, sys
from client import Client
assert importlib.util.find_spec("numpy") is None
cats = Client(sys.argv[1])
picture = cats.grid(seed=7)
picture.image.save("cat.png")
print(cats.again(open("cat.png", "rb").read()).seed, cats.address(seed=7))
"""


@pytest.mark.long
def test_it_works_alone(server: Scripted, tmp_path: Path) -> None:
    server.steps = [OK]
    python = str(tmp_path / "env" / "bin" / "python")

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False)

    def install(what: str) -> None:
        done = run(python, "-m", "pip", "install", "--disable-pip-version-check", what)
        assert done.returncode == 0, done.stderr

    assert run(sys.executable, "-m", "venv", "env").returncode == 0
    install(str(CLIENT))
    url = f"http://127.0.0.1:{server.server_port}"
    done = run(python, "-c", SCRIPT, url)
    assert done.stdout.split() == ["7", f"{url}/seed/7.png"], done.stderr
    refused = run(python, "-m", "client", "--help")
    assert (refused.returncode, "dcgan-client[cli]" in refused.stderr) == (1, True)
    install(f"{CLIENT}[cli]")
    done = run(python, "-m", "client", "--seed", "7", "--url", url, "-o", "grid.png")
    assert (done.returncode, done.stdout) == (0, "grid.png\n"), done.stderr
