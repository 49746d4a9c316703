"""Two versions of the model side by side in one TorchServe, as a rollout has them."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import requests
import torch

from deploy.server import HOST, ROOT, Ports, Server
from training.networks import new_generator
from training.weights import save_generator

ARCHIVE = ROOT / "model_store" / "dcgan.mar"
NEW = "2.0-rc.1"


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The shipped version 1.0, the default, and a new one with other weights."""
    folder = tmp_path_factory.mktemp("versions")
    store = folder / "store"
    store.mkdir()
    (store / "dcgan.mar").write_bytes(ARCHIVE.read_bytes())
    torch.manual_seed(0)
    weights = folder / "generator.safetensors"
    save_generator(weights, new_generator(100, 4, 3, 64).eval(), {"steps": 0})
    subprocess.run(
        [sys.executable, "-m", "export", "--weights", str(weights), "--out", str(folder),
         "--model-version", NEW],
        cwd=ROOT, check=True, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    for suffix in ("", ".sha256"):
        (folder / f"dcgan.mar{suffix}").rename(store / f"dcgan-{NEW}.mar{suffix}")
    server = Server(folder, store, Ports.free(), other_archives=(f"dcgan-{NEW}.mar",))
    with server.running():
        yield server


def ask(server: Server, path: str = "") -> requests.Response:
    return requests.post(f"{server.predict_url}{path}", json={"seed": 1}, timeout=60)


def described(server: Server, path: str = "") -> list[dict[str, Any]]:
    versions: list[dict[str, Any]] = requests.get(server.describe_url + path, timeout=30).json()
    return versions


def test_each_version_answers_under_its_own_path(both: Server) -> None:
    old, new = ask(both, "/1.0"), ask(both, f"/{NEW}")
    assert (old.status_code, new.status_code) == (200, 200)
    assert (old.headers["X-Model-Version"], new.headers["X-Model-Version"]) == ("1.0", NEW)
    digests = {reply.headers["X-Weights-SHA256"] for reply in (old, new)}
    shipped = (ROOT / "model_store" / "generator.safetensors").read_bytes()
    assert len(digests) == 2
    assert old.headers["X-Weights-SHA256"] == hashlib.sha256(shipped).hexdigest()
    assert old.content != new.content


def test_a_version_that_is_not_served_is_404(both: Server) -> None:
    assert ask(both, "/3.0").status_code == 404


def test_the_first_archive_is_the_default(both: Server) -> None:
    assert ask(both).content == ask(both, "/1.0").content
    assert {v["modelVersion"] for v in described(both, "/all")} == {"1.0", NEW}


def test_the_default_moves_to_the_new_version_and_back(both: Server) -> None:
    old, new = ask(both, "/1.0").content, ask(both, f"/{NEW}").content
    management = f"http://{HOST}:{both.ports.management}/models/{both.model}"
    for version, expected in ((NEW, new), ("1.0", old)):
        moved = requests.put(f"{management}/{version}/set-default", timeout=30)
        assert moved.status_code == 200, moved.text
        assert ask(both).content == expected
        assert described(both)[0]["modelVersion"] == version
        assert ask(both, "/1.0").content == old  # a version that is named stays what it is
