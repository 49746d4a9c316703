"""More to draw than can be drawn in time: told so, and no worker dies of it."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from deploy.server import Ports, Server
from tests.support import live

TIMEOUT_S = 6
BASE = "handler/backends/base.py"
LINE = b"        parts = np.array_split("


@pytest.fixture(scope="module")
def slow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """20 ms or more for each picture, and little patience."""
    folder = tmp_path_factory.mktemp("slow")
    code = live.packed(BASE)
    assert LINE in code
    sleeping = code.replace(LINE, b"        __import__('time').sleep(0.02 * len(latents))\n" + LINE)
    impatient = {"responseTimeout": TIMEOUT_S}
    store = live.edited_archive(folder / "store", {BASE: sleeping}, impatient)
    made = Server(folder / "server", store, Ports.free())
    with made.running():
        yield made


def test_a_batch_that_would_take_too_long_is_cut(slow: Server) -> None:
    told = live.described(slow)["limits"]
    assert told["max_batch_seconds"] == TIMEOUT_S / 2
    assert told["max_images"] < 0.5 * TIMEOUT_S / 2 / 0.02 + 1  # half of that time
    most = {"seed": 1, "num_images": 30}
    assert live.post(slow, {**most, "num_images": told["max_images"] + 1}).status_code == 413
    before = live.worker(slow)
    with ThreadPoolExecutor(33) as pool:
        replies = list(pool.map(lambda _: live.post(slow, most), range(33)))
    answered = [reply for reply in replies if reply.status_code == 200]
    late = [reply for reply in replies if reply.status_code != 200]
    assert len({reply.content for reply in answered}) == 1
    assert late
    for reply in late:
        assert reply.status_code == 503
        assert reply.headers["Retry-After"] == str(TIMEOUT_S // 2)
        assert reply.json()["type"] == "urn:dcgan:problem:overloaded"
    assert live.worker(slow) == before
    assert live.post(slow, {"seed": 1}).status_code == 200
