"""Versions side by side in one TorchServe: a rollout, backends, workers; and the whole path to one.

Same request, same image: alone or in any batch, on any worker, after another start.
Bit by bit in float32 on a CPU; where ``precision: auto`` means short floats, to a few grey levels.
"""

import contextlib
import dataclasses
import hashlib
import io
import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import requests
from PIL import Image

from deploy.lifecycle import stop
from deploy.server import HOST, START_S, Ports, Server
from tests.support.documents import commands, run
from tests.support.generators import photos
from tests.support.live import STORE, edited_archive, wait
from tests.support.pixels import assert_same
from tests.support.proxies import ALICE, NEEDS_NGINX, Proxy, running

OLD, NEW = "1.0", "2.0-rc.1"
TINY = " --max-steps {} --batch-size 4 --image-size 32 --nz 4 --ngf 2 --ndf 2"
EXACT = {"precision": "float32", "backend": "onnx"}
FEW = {"handler": EXACT | {"limits": {"max_batch_images": 16}}}
CONFIGS: dict[str, dict[str, Any]] = {
    "exact": {"handler": EXACT},
    "workers": {"minWorkers": 2, "maxWorkers": 2, "batchSize": 8, "maxBatchDelay": 20} | FEW,
}
BODIES: list[dict[str, Any]] = [
    *({"seed": seed} for seed in range(16)),
    *({"seed": 100 + count, "num_images": count} for count in (2, 3, 5, 7, 31, 64, 65, 100)),
    {"walk": {"between": [1, 7, 42], "steps": 9}},
    {"mix": [{"weight": 1, "seeds": [1, 2, 3]}, {"weight": -1, "seeds": [4, 5, 6]}]},
    {"noise": np.linspace(-2, 2, 300).reshape(3, 100).tolist()},
]
HOSTILE: list[Any] = [{"seed": -1}, {"sede": 1}, [1], {"noise": [[1.0]]}, {"format": "x"}] * 3


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the README's commands say that train on one's own pictures, resume and pack, run on a
    tiny network; ``archive`` is the result."""
    folder = tmp_path_factory.mktemp("trained")
    photos(folder / "pictures", 8, mode="L")
    (first,) = commands("README.md", "-m training --data path")
    (resumed,) = commands("README.md", "--resume")
    (export,) = commands("README.md", "-m export --weights")
    told: dict[str, Any] = {}
    for command, more in (
        (first, TINY.format(2) + f" --lr-decay-steps 0 --cache {folder}/cache"),
        (resumed, " --max-steps 3"),
        (export, f" --out {folder}/store --model-version {NEW}"),
    ):
        command = command.replace("path/to/pictures", f"{folder}/pictures")
        told |= json.loads(run(command.replace("runs/mine", f"{folder}/run") + more))
    return {**told, "archive": folder / "store" / "dcgan.mar"}


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory, trained: dict[str, Any]) -> Iterator[Server]:
    """The shipped version 1.0, the default; the new one; and the shipped one in other settings."""
    folder = tmp_path_factory.mktemp("versions")
    store = folder / "store"
    for name, config in CONFIGS.items():
        edited_archive(store / f"{name}.mar", config=config, manifest={"modelVersion": name})
    for file, source in (("dcgan", STORE / "dcgan.mar"), (NEW, trained["archive"])):
        for suffix in ("", ".sha256"):
            content = source.with_name(source.name + suffix).read_bytes()
            (store / f"{file}.mar{suffix}").write_bytes(content)
    others = tuple(f"{name}.mar" for name in (NEW, *CONFIGS))
    server = Server(folder, store, Ports.free(), other_archives=others)
    with server.running():
        yield server


def post(server: Server, version: str, body: object, **extra: Any) -> requests.Response:
    url = f"{server.predict_url}/{version}" if version else server.predict_url
    return requests.post(url, json={**body, **extra} if extra else body, timeout=60)  # type: ignore[dict-item]


def ask(server: Server, version: str = "") -> requests.Response:
    return post(server, version, {"seed": 1})


def described(server: Server, path: str = "") -> list[dict[str, Any]]:
    versions: list[dict[str, Any]] = requests.get(server.describe_url + path, timeout=30).json()
    return versions


def test_train_export_pack_serve(both: Server, trained: dict[str, Any]) -> None:
    assert trained["ended"] == "finished"
    assert Path(trained["weights"]).is_file()
    reply = post(both, NEW, {"seed": 1, "num_images": 4})
    assert reply.status_code == 200
    assert reply.headers["x-model-version"] == NEW
    assert reply.headers["x-weights-sha256"] == trained["weights_sha256"]
    with Image.open(io.BytesIO(reply.content)) as grid:
        assert (grid.size, grid.mode) == ((70, 70), "L")


def test_each_version_answers_under_its_own_path(both: Server) -> None:
    old, new = ask(both, OLD), ask(both, NEW)
    assert (old.status_code, new.status_code) == (200, 200)
    assert (old.headers["X-Model-Version"], new.headers["X-Model-Version"]) == (OLD, NEW)
    digests = {reply.headers["X-Weights-SHA256"] for reply in (old, new)}
    shipped = (STORE / "generator.safetensors").read_bytes()
    assert len(digests) == 2
    assert old.headers["X-Weights-SHA256"] == hashlib.sha256(shipped).hexdigest()
    assert old.content != new.content
    assert ask(both, "3.0").status_code == 404


def test_the_first_archive_is_the_default(both: Server) -> None:
    assert ask(both).content == ask(both, OLD).content
    assert {v["modelVersion"] for v in described(both, "/all")} == {OLD, NEW, *CONFIGS}


def test_the_default_moves_to_the_new_version_and_back(both: Server) -> None:
    old, new = ask(both, OLD).content, ask(both, NEW).content
    management = f"http://{HOST}:{both.ports.management}/models/{both.model}"
    for version, expected in ((NEW, new), (OLD, old)):
        moved = requests.put(f"{management}/{version}/set-default", timeout=30)
        assert moved.status_code == 200, moved.text
        assert ask(both).content == expected
        assert described(both)[0]["modelVersion"] == version
        assert ask(both, OLD).content == old  # a version that is named stays what it is


Replies = dict[str, list[requests.Response]]


@contextlib.contextmanager
def asking(proxy: Proxy, old: str, new: str) -> Iterator[Replies]:
    """Two clients for each kind of address, again and again, for the length of a ``with`` block;
    gives their replies by the kind. ``old`` and ``new`` are digests of weights."""
    paths = {
        "kept": f"/v/{old[:8]}/seed/42.png",
        "cold": f"/v/{old[:8]}/seed/{{}}.png",  # another one each time
        "new": f"/v/{new[:8]}/seed/42.png",
        "plain": "/seed/42.png",
    }
    replies: Replies = {name: [] for name in paths}
    enough = threading.Event()

    def ask_on(name: str) -> None:
        while not enough.wait(0.02):
            path = paths[name].format(len(replies[name]))
            replies[name].append(proxy.call("GET", path, ALICE))

    with ThreadPoolExecutor(8) as pool:
        loops = [pool.submit(ask_on, name) for name in (*paths, *paths)]
        try:
            yield replies
        finally:
            enough.set()
        for loop in loops:
            loop.result()


def wait_for(replies: Replies, said: str) -> None:
    """Until the cache has said that of the plain address, and every kind was asked for since."""
    told = f"dcgan-proxy; {said}"
    wait(lambda: any(reply.headers.get("Cache-Status") == told for reply in replies["plain"]))
    seen = {name: len(got) for name, got in replies.items()}
    wait(lambda: all(len(got) > seen[name] + 8 for name, got in replies.items()))


def check_replaced(replies: Replies, drawn: Server, theirs: bytes) -> None:
    """What names weights is never drawn by others, and the rest soon is.

    Args:
        drawn: a server that still has the old weights.
        theirs: the picture by the new ones.
    """
    ours = post(drawn, OLD, {"seed": 42}).content
    found = {name: [(r.status_code, r.content) for r in got] for name, got in replies.items()}
    assert set(found["kept"]) == {(200, ours)}
    assert set(found["plain"]) == {(200, ours), (200, theirs)}
    assert found["plain"][-1] == (200, theirs)
    for name, ends in (("cold", (200, 404)), ("new", (404, 200))):
        assert (found[name][0][0], found[name][-1][0]) == ends
    assert {content for code, content in found["new"] if code == 200} == {theirs}
    for reply in replies["cold"]:
        if reply.status_code == 200:
            seed = int(Path(reply.url).stem)
            assert reply.content == post(drawn, OLD, {"seed": seed}).content


def statuses(replies: Replies) -> set[int]:
    return {reply.status_code for got in replies.values() for reply in got}


@NEEDS_NGINX
def test_weights_are_replaced_under_load(both: Server, tmp_path: Path) -> None:
    """Behind the proxy's cache, in a server that has both."""
    old, new = (ask(both, version).headers["X-Weights-SHA256"] for version in (OLD, NEW))
    management = f"http://{HOST}:{both.ports.management}/models/{both.model}"
    with running(tmp_path, both.ports, RATE="1000r/s") as proxy:
        try:
            with asking(proxy, old, new) as replies:
                wait_for(replies, "fwd=stale; fwd-status=304")
                moved = requests.put(f"{management}/{NEW}/set-default", timeout=30)
                wait_for(replies, "fwd=stale; fwd-status=200")
        finally:
            requests.put(f"{management}/{OLD}/set-default", timeout=30)
    assert moved.status_code == 200, moved.text
    assert statuses(replies) == {200, 404}
    check_replaced(replies, both, post(both, NEW, {"seed": 42}).content)


@NEEDS_NGINX
def test_weights_are_replaced_by_a_restart_under_load(
    both: Server, trained: dict[str, Any], tmp_path: Path
) -> None:
    """The new archive has the same name and version. What was kept comes meanwhile."""
    (export,) = commands("README.md", "-m export --weights")
    run(export.replace("runs/mine", f"{trained['archive'].parents[1]}/run") + f" --out {tmp_path}")
    server = Server(tmp_path / "server", STORE, Ports.free())
    with (
        running(tmp_path / "proxy", server.ports, RATE="1000r/s") as proxy,
        contextlib.ExitStack() as life,
    ):
        process = server.start()
        life.callback(stop, process.pid)
        server.wait_until_ready(process, START_S)
        old = ask(server).headers
        with asking(proxy, old["X-Weights-SHA256"], trained["weights_sha256"]) as replies:
            wait_for(replies, "fwd=stale; fwd-status=304")
            life.close()
            wait_for(replies, "hit; detail=stale")
            server = dataclasses.replace(server, model_store=tmp_path)
            life.enter_context(server.running())
            wait_for(replies, "fwd=stale; fwd-status=200")
        new = post(server, "", {"seed": 42})
    assert new.headers["X-Model-Version"] == old["X-Model-Version"] == OLD
    assert statuses(replies) <= {200, 404, 502, 503}
    check_replaced(replies, both, new.content)


def ask_together(server: Server, version: str, **extra: Any) -> list[bytes]:
    """Every body at once, among requests that must be refused."""

    def one(body: dict[str, Any]) -> bytes:
        reply = post(server, version, body, **extra)
        assert reply.status_code == 200, reply.text
        return reply.content

    with ThreadPoolExecutor(len(BODIES) + len(HOSTILE)) as pool:
        refused = [pool.submit(post, server, version, body) for body in HOSTILE]
        answered = list(pool.map(one, BODIES))
        assert [reply.result().status_code for reply in refused] == [400] * len(HOSTILE)
        return answered


def arrays(replies: list[bytes]) -> list[npt.NDArray[np.uint8]]:
    return [np.load(io.BytesIO(reply)) for reply in replies]


@pytest.fixture(scope="module")
def expected(both: Server) -> list[bytes]:
    return [post(both, "exact", body).content for body in BODIES]


def test_in_one_batch_as_alone(both: Server, expected: list[bytes]) -> None:
    assert ask_together(both, "exact") == expected


def test_on_any_worker_in_small_batches_and_after_another_start(
    both: Server, expected: list[bytes]
) -> None:
    for _ in range(3):
        assert ask_together(both, "workers") == expected


def test_as_shipped_close_to_float32(both: Server) -> None:
    precision = ask(both, OLD).headers["x-precision"]
    shipped, exact = (arrays(ask_together(both, v, format="npy")) for v in (OLD, "exact"))
    for ours, theirs in zip(shipped, exact, strict=True):
        assert_same(ours, theirs, precision)
