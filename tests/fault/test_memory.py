"""The kernel refuses the worker more memory: what does not fit is 507, the rest is served."""

from __future__ import annotations

import resource
from concurrent.futures import ThreadPoolExecutor

import psutil
import pytest

from deploy.server import Server
from tests.support import live

LARGE = {"seed": 1, "num_images": 256, "format": "npy"}
COUNT = 8


@pytest.mark.parametrize("room_mb", [-25, 20, 40, 60, 80])
def test_out_of_memory_is_507_for_the_culprits_alone(
    server: Server, alone: bytes, unharmed: psutil.Process, room_mb: int
) -> None:
    """With less than it has, what is free inside the process is all there is for new work; with
    some more, the pictures fit, but not all their replies in the one frame of the batch."""
    right = live.post(server, LARGE).content
    unlimited = unharmed.rlimit(resource.RLIMIT_DATA)
    with ThreadPoolExecutor(20) as pool:
        list(pool.map(lambda _: live.post(server, live.GOOD), range(20)))  # starts its threads
        held = unharmed.memory_info().data
        unharmed.rlimit(resource.RLIMIT_DATA, (held + room_mb * 1_000_000, unlimited[1]))
        try:
            large = [pool.submit(live.post, server, LARGE) for _ in range(COUNT)]
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
