"""More to draw than time or memory allow: told so, the rest is served, and no worker dies of it."""

import resource
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import psutil
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


LARGE = {"seed": 1, "num_images": 256, "format": "npy"}


@pytest.mark.parametrize("room_mb", [-25, 20, 40, 60, 80])
def test_out_of_memory_is_507_for_the_culprits_alone(
    server: Server, alone: bytes, unharmed: psutil.Process, room_mb: int
) -> None:
    """The kernel refuses the worker more. With less than it has, what is free inside the process is
    all there is for new work; with some more, the pictures fit, but not all their replies in the
    one frame of the batch."""
    right = live.post(server, LARGE).content
    unlimited = unharmed.rlimit(resource.RLIMIT_DATA)
    with ThreadPoolExecutor(20) as pool:
        list(pool.map(lambda _: live.post(server, live.GOOD), range(20)))  # starts its threads
        held = unharmed.memory_info().data
        unharmed.rlimit(resource.RLIMIT_DATA, (held + room_mb * 1_000_000, unlimited[1]))
        try:
            large = [pool.submit(live.post, server, LARGE) for _ in range(8)]
            small = [pool.submit(live.post, server, live.GOOD) for _ in range(6)]
            large_replies = [future.result() for future in large]
            small_replies = [future.result() for future in small]
        finally:
            unharmed.rlimit(resource.RLIMIT_DATA, unlimited)
    assert [reply.content for reply in small_replies] == [alone] * 6
    refused = [reply for reply in large_replies if reply.status_code == 507]
    assert refused or room_mb > 0
    for reply in large_replies:
        if reply.status_code == 507:
            assert reply.json()["type"] == "urn:dcgan:problem:out-of-memory"
        else:
            assert (reply.status_code, reply.content) == (200, right)
    assert live.post(server, LARGE).content == right
    assert unharmed.memory_info().data < held + 100_000_000  # given back
