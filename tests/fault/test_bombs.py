"""Small requests that ask for much work, and large ones: refused before the work is done."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import psutil
import pytest
import requests

from deploy.server import Server
from tests.support import live

MEGABYTES = 6_000_000  # a little below max_request_size
DEEP = 1_000_000


def many(text: str) -> str:
    return ",".join([text] * (MEGABYTES // (len(text) + 1)))


BOMBS: dict[str, tuple[str, tuple[int, str]]] = {
    "nested lists": ("[" * DEEP + "]" * DEEP, (400, "invalid-json")),
    "nested objects": ('{"a":' * DEEP + "1" + "}" * DEEP, (400, "invalid-json")),
    "nested lists without an end": ("[" * MEGABYTES, (400, "invalid-json")),
    "a number of 6,000,000 digits": (f'{{"seed": {"9" * MEGABYTES}}}', (400, "invalid-json")),
    "a fraction of 6,000,000 digits": (
        f'{{"seed": 0.{"9" * MEGABYTES}}}', (400, "invalid-field")),
    "an exponent beyond all": ('{"seed": 1e999999999}', (400, "invalid-field")),
    "a text of 6 MB": (json.dumps({"seed": "9" * MEGABYTES}), (400, "invalid-field")),
    "a key of 6 MB": (json.dumps({"s" * MEGABYTES: 1}), (400, "unknown-field")),
    "400,000 keys": (json.dumps({f"k{i}": 1 for i in range(400_000)}), (400, "unknown-field")),
    "350,000 keys alike": (
        json.dumps({f"seed{i}": 1 for i in range(350_000)}), (400, "unknown-field")),
    "one key 500,000 times": ("{" + many('"seed":1') + "}", (400, "invalid-json")),
    "1,500,000 seeds": (f'{{"seeds": [{many("123")}]}}', (413, "too-large")),
    "1,000,000 texts for seeds": (f'{{"seeds": [{many("{}")}]}}', (400, "invalid-field")),
    "NaN for noise": (f'{{"noise": [{many("NaN")}]}}', (400, "invalid-field")),
    "lists for noise": (f'{{"noise": [{many("[]")}]}}', (400, "invalid-field")),
    "base64 of 6 MB": (json.dumps({"noise": "A" * MEGABYTES}), (413, "too-large")),
    "10^15 steps": (
        '{"walk": {"between": [1, 2], "steps": 1000000000000000}}', (413, "too-large")),
    "500,000 latents to walk": (
        f'{{"walk": {{"between": [{many("12345")}], "steps": 2}}}}', (400, "invalid-field")),
    "200,000 terms": (
        f'{{"mix": [{many(json.dumps({"weight": 1, "seeds": [1]}))}]}}', (400, "invalid-field")),
    "a term of 1,000,000 seeds": (
        f'{{"mix": [{{"weight": 1, "seeds": [{many("12345")}]}}]}}', (413, "too-large")),
    "infinite weights": (
        '{"mix": [{"weight": 1e308, "seeds": [1]}, {"weight": 1e308, "seeds": [1]}]}',
        (400, "invalid-field")),
    "600,000 instances": (f'{{"instances": [{many("{}")}]}}', (413, "too-large")),
    "instances in instances": (
        '{"instances": [{"instances": [{}]}]}', (400, "unknown-field")),
    "the widest picture": (
        '{"num_images": 256, "columns": 1, "padding": 64, "format": "png"}', (413, "too-large")),
    "padding beyond all": ('{"num_images": 2, "padding": 99999999999}', (400, "invalid-field")),
    "columns beyond all": ('{"num_images": 2, "columns": 99999999999}', (400, "invalid-field")),
}  # fmt: skip


def logged(server: Server, request_id: str) -> dict[str, Any]:
    """The line of the log that tells of a request."""

    def lines() -> list[str]:
        told = server.log.read_text(encoding="utf-8").splitlines()
        return [line for line in told if '"message":"request"' in line and request_id in line]

    live.wait(lines)
    (line,) = lines()
    return json.loads(line)


@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_is_refused_and_harms_no_other(
    server: Server, alone: bytes, unharmed: psutil.Process, name: str
) -> None:
    body, (status, kind) = BOMBS[name]
    held = unharmed.memory_info().rss
    with ThreadPoolExecutor(5) as pool:
        bomb = pool.submit(
            requests.post, server.predict_url, data=body.encode(), timeout=60,
            headers={"Content-Type": live.JSON},
        )  # fmt: skip
        others = [pool.submit(live.post, server, live.GOOD) for _ in range(4)]
        assert [future.result().content for future in others] == [alone] * 4
        reply = bomb.result()
    assert reply.status_code == status
    assert reply.json()["type"] == f"urn:dcgan:problem:{kind}"
    assert len(reply.content) < 4096
    assert logged(server, reply.headers["x-request-id"])["images"] == 0  # none was drawn
    assert unharmed.memory_info().rss < held + 1_000_000_000


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 3e38, -100.1])
def test_raw_noise_without_sense(server: Server, unharmed: psutil.Process, value: float) -> None:
    noise = np.full((200, 100), value, "<f4")
    reply = requests.post(
        server.predict_url, data=noise.tobytes(), timeout=60,
        headers={"Content-Type": "application/octet-stream"},
    )  # fmt: skip
    assert (reply.status_code, reply.json()["field"]) == (400, "noise[0][0]")
    assert unharmed.is_running()
