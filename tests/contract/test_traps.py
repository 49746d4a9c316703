"""What breaks TorchServe handlers in the field, sent over HTTP beside good requests.

Every hostile request travels with good ones, so that they share batches; the good ones must
get the bytes they get alone, the hostile one its own problem document, and the worker must
be the same process afterwards.
"""

from __future__ import annotations

import contextlib
import gzip
import json
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import requests
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from deploy.server import HOST, Server

JSON = "application/json"
GOOD = [{"seed": seed, "num_images": 1 + seed % 3} for seed in range(6)]


def worker_pids(server: Server) -> list[int]:
    described = requests.get(server.describe_url, timeout=30).json()
    return [worker["pid"] for worker in described[0]["workers"]]


@pytest.fixture(scope="module")
def alone(server: Server) -> list[bytes]:
    replies = [requests.post(server.predict_url, json=body, timeout=60) for body in GOOD]
    assert all(reply.status_code == 200 for reply in replies)
    return [reply.content for reply in replies]


@pytest.fixture(autouse=True)
def the_worker_survives(server: Server) -> Iterator[None]:
    before = worker_pids(server)
    yield
    assert worker_pids(server) == before


@dataclass(frozen=True)
class Hostile:
    """One request and the reply it must get."""

    name: str
    body: bytes | str
    status: int
    kind: str
    at: str = ""
    headers: tuple[tuple[str, str], ...] = (("Content-Type", JSON),)


def fields(name: str, value: object, at: str = "", kind: str = "invalid-field") -> Hostile:
    return Hostile(f"{name}={json.dumps(value)[:40]}", json.dumps({name: value}), 400, kind,
                   at or name)  # fmt: skip


HEADER_LINES = "x\r\nX-Injected: 1"
DEEP = "[" * 50_000 + "]" * 50_000
LONG = b'{"seed": 1}'.ljust(400)
HOSTILE = [
    Hostile("invalid JSON", '{"seed": 1', 400, "invalid-json"),
    Hostile("half a UTF-8 character", b'{"seed": "\xc3"}', 400, "invalid-json"),
    Hostile("a number", "17", 400, "invalid-body"),
    Hostile("a list", "[1, 2]", 400, "invalid-body"),
    Hostile("a text", '"cat"', 400, "invalid-body"),
    Hostile("JSON in a JSON text", '"{}"', 400, "invalid-body"),
    Hostile("a field twice", '{"seed": 1, "seed": 2}', 400, "invalid-json", "seed"),
    Hostile("JSON as long as noise", LONG[:399] + b"\xff", 400, "invalid-json"),
    Hostile("UTF-16 as long as noise", LONG.decode().encode("utf-16-le"), 400, "invalid-json"),
    Hostile("noise of another type", b"\x9c" * 400, 400, "invalid-json",
            headers=(("Content-Type", "image/png"),)),
    Hostile("a packed body", gzip.compress(b"{}"), 415, "unsupported-encoding",
            "Content-Encoding", (("Content-Type", JSON), ("Content-Encoding", "gzip"))),
    Hostile("float64 as noise", np.random.default_rng(0).standard_normal(100).tobytes(), 400,
            "invalid-field", headers=(("Content-Type", "application/octet-stream"),)),
    Hostile("JSON without a content type, as curl -d sends it", '{"seed": 1}', 400,
            "invalid-body", headers=(("Content-Type", "application/x-www-form-urlencoded"),)),
    Hostile("JSON as a form", '{"seed": 1, "seed": 2}&a=b', 400, "invalid-body",
            headers=(("Content-Type", "application/x-www-form-urlencoded"),)),
    Hostile("binary that is neither noise nor JSON", b"\x00\x01\x02", 400, "invalid-body",
            headers=(("Content-Type", "application/octet-stream"),)),
    Hostile("deep nesting as a field", f'{{"noise": {DEEP}}}', 400, "invalid-json"),
    Hostile("an integer of 5,000 digits", '{"seed": ' + "9" * 5000 + "}", 400, "invalid-json"),
    Hostile("an unknown media type", '{"seed": 1}', 406, "not-acceptable",
            headers=(("Content-Type", JSON), ("Accept", "image/webp"))),
    Hostile("every type excluded", '{"seed": 1}', 406, "not-acceptable",
            headers=(("Content-Type", JSON), ("Accept", "*/*;q=0"))),
    Hostile("NaN in noise", '{"noise": [' + "NaN," * 99 + "NaN]}", 400, "invalid-field",
            "noise[0][0]"),
    Hostile("1e999 in noise", '{"noise": [' + "0," * 99 + "1e999]}", 400, "invalid-field",
            "noise[0][99]"),
    Hostile("two sources", '{"seed": 1, "seeds": [1]}', 400, "conflicting-fields", "seeds"),
    Hostile("num_images with seeds", '{"seeds": [1], "num_images": 2}', 400,
            "conflicting-fields", "num_images"),
    Hostile("more images than allowed", '{"num_images": 257}', 413, "too-large", "num_images"),
    Hostile("a reply beyond the limit",
            '{"num_images": 256, "columns": 256, "padding": 64}', 413, "too-large"),
    fields("seed", True), fields("seed", 1.0), fields("seed", -1), fields("seed", 2**53),
    fields("seed", "\uff11\uff12"), fields("seed", ""), fields("seed", HEADER_LINES),
    fields("seeds", []), fields("seeds", [1, None], "seeds[1]"), fields("seeds", {"a": 1}),
    fields("num_images", 0), fields("num_images", "many"), fields("num_images", True),
    fields("noise", []), fields("noise", [[0.0] * 99], "noise[0]"), fields("noise", "AAAA"),
    fields("noise", "not base64 ☃"), fields("noise", [["1"] * 100], "noise[0][0]"),
    fields("columns", 0), fields("columns", 1.5), fields("columns", 257),
    fields("padding", -1), fields("padding", 65), fields("background", "red"),
    fields("background", HEADER_LINES), fields("background", "#\uff46\uff46ffff"),
    fields("format", "gif"), fields("format", HEADER_LINES), fields("format", 1),
    fields("walk", []), fields("walk", {"between": [1]}, "walk.between"),
    fields("walk", {"between": [1, "x"], "steps": 4}, "walk.between[1]"),
    fields("walk", {"between": [1, 2], "steps": 1}, "walk.steps"),
    fields("walk", {"between": [1, 2], "steps": 4, "method": "cubic"}, "walk.method"),
    fields("mix", []), fields("mix", [{"weight": "1", "seeds": [1]}], "mix[0].weight"),
    fields("mix", [{"weight": 1}], "mix[0]"),
    fields("mix", [{"weight": 1, "seeds": [-1]}], "mix[0].seeds[0]"),
    fields("sede", 1, kind="unknown-field"),
    fields("ünïcode\r\n☃", 1, r"\xfcn\xefcode\r\n\u2603", kind="unknown-field"),
    Hostile("an error inside an instance", '{"instances": [{"seed": 1}, {"seed": -1}]}', 400,
            "invalid-field", "instances[1].seed"),
    Hostile("no instances", '{"instances": []}', 400, "invalid-field", "instances"),
]  # fmt: skip


def send(server: Server, body: bytes | str, headers: dict[str, str]) -> requests.Response:
    data = body.encode() if isinstance(body, str) else body
    return requests.post(server.predict_url, data=data, headers=headers, timeout=60)


def among_good_ones(
    server: Server, alone: list[bytes], body: bytes | str, headers: dict[str, str]
) -> requests.Response:
    """The reply to one request that is sent together with the good ones, which are checked."""
    with ThreadPoolExecutor(len(GOOD) + 1) as pool:
        good = [pool.submit(requests.post, server.predict_url, json=b, timeout=60) for b in GOOD]
        hostile = pool.submit(send, server, body, headers)
        assert [reply.result().content for reply in good] == alone
        return hostile.result()


@pytest.mark.parametrize("hostile", HOSTILE, ids=lambda hostile: hostile.name)
def test_a_hostile_request_gets_its_problem_and_harms_no_other(
    server: Server, alone: list[bytes], hostile: Hostile
) -> None:
    reply = among_good_ones(server, alone, hostile.body, dict(hostile.headers))
    assert reply.status_code == hostile.status
    assert reply.headers["content-type"].startswith("application/problem+json")
    problem: dict[str, Any] = reply.json()
    assert problem["type"] == f"urn:dcgan:problem:{hostile.kind}"
    assert problem["status"] == hostile.status
    if hostile.at:
        assert problem["field"] == hostile.at
    assert reply.content.isascii()
    assert len(reply.content) < 4096
    assert "x-injected" not in reply.headers


GOOD_BODIES = st.one_of(
    st.fixed_dictionaries({"seed": st.integers(0, 9), "num_images": st.integers(1, 9)}),
    st.fixed_dictionaries({"seeds": st.lists(st.integers(0, 9), min_size=1, max_size=4),
                           "format": st.sampled_from(["png", "json", "npy"])}),
    st.builds(lambda a, b, n: {"walk": {"between": [a, b], "steps": n}},
              st.integers(0, 9), st.integers(0, 9), st.integers(2, 9)),
)  # fmt: skip


@settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck))
@given(mix=st.lists(GOOD_BODIES | st.sampled_from(HOSTILE), min_size=8, max_size=40))
def test_any_mix_of_requests(server: Server, mix: list[dict[str, Any] | Hostile]) -> None:
    def ask(item: dict[str, Any] | Hostile) -> requests.Response:
        if isinstance(item, Hostile):
            return send(server, item.body, dict(item.headers))
        return requests.post(server.predict_url, json=item, timeout=60)

    with ThreadPoolExecutor(len(mix)) as pool:
        replies = list(pool.map(ask, mix))
    for item, reply in zip(mix, replies, strict=True):
        if isinstance(item, Hostile):
            assert reply.status_code == item.status
        else:
            assert reply.status_code == 200
            assert reply.content == ask(item).content


def test_the_nearest_name_is_told(server: Server) -> None:
    problem = requests.post(server.predict_url, json={"num_image": 2}, timeout=60).json()
    assert "num_images" in problem["detail"]


@pytest.mark.parametrize("header", ["describe", "Describe", "explain"])
def test_a_describe_or_explain_header_concerns_its_own_request_only(
    server: Server, alone: list[bytes], header: str
) -> None:
    headers = {"Content-Type": JSON, header: "True"}
    reply = among_good_ones(server, alone, '{"seed": 1}', headers)
    assert reply.status_code == 200


def test_explanations_are_not_offered(server: Server, alone: list[bytes]) -> None:
    url = server.predict_url.replace("/predictions/", "/explanations/")
    with ThreadPoolExecutor(len(GOOD) + 1) as pool:
        good = [pool.submit(requests.post, server.predict_url, json=b, timeout=60) for b in GOOD]
        reply = pool.submit(requests.post, url, json={"seed": 1}, timeout=60).result()
        assert [other.result().content for other in good] == alone
    assert reply.status_code == 501
    assert reply.json()["type"] == "urn:dcgan:problem:not-implemented"


def test_a_query_string_is_not_read(server: Server, alone: list[bytes]) -> None:
    """TorchServe does not pass it on; the body decides, as the documentation says."""
    kserve = server.predict_url.replace("/predictions/dcgan", "/v1/models/dcgan:predict")
    for url in (server.predict_url, f"{server.predict_url}/1.0", kserve):
        reply = requests.post(url + "?seed=99", json=GOOD[0], timeout=60)
        assert reply.content == alone[0]


@pytest.mark.parametrize(
    "path", ["/invocations?model_name=dcgan", "/models/dcgan/invoke?", "/dcgan/predict?"]
)
def test_but_on_the_routes_of_other_platforms_it_is(
    server: Server, alone: list[bytes], path: str
) -> None:
    url = server.predict_url.replace("/predictions/dcgan", path)
    assert requests.post(url, json=GOOD[1], timeout=60).content == alone[1]
    assert requests.get(f"{url}&seed=1&num_images=2", timeout=60).content == alone[1]
    assert requests.post(f"{url}&num_images=2", json={"seed": 1}, timeout=60).content == alone[1]
    assert requests.post(f"{url}&seed=1", data={"num_images": 2}, timeout=60).content == alone[1]
    problem = requests.post(f"{url}&seed=2", json=GOOD[1], timeout=60).json()
    assert (problem["type"], problem["field"]) == ("urn:dcgan:problem:conflicting-fields", "seed")


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Content-Type": "application/octet-stream"},
        {"Content-Type": "text/plain"},
        {"Content-Type": "application/json; charset=utf-8"},
        {"Content-Type": "APPLICATION/JSON"},
        {"content-type": "application/vnd.x+json"},
        {"Content-Type": JSON, "body": "image/png"},
        {"Content-Type": JSON, "Content-Encoding": "identity"},
    ],
    ids=str,
)
def test_json_is_read_whatever_its_content_type(
    server: Server, alone: list[bytes], headers: dict[str, str]
) -> None:
    """One answer to each body, with and without a byte order mark."""
    for start in (b"", b"\xef\xbb\xbf"):
        assert send(server, start + json.dumps(GOOD[1]).encode(), headers).content == alone[1]
        twice = send(server, start + b'{"seed": 1, "seed": 2}', headers)
        assert (twice.status_code, twice.json()["field"]) == (400, "seed")


def test_the_accept_header_of_java(server: Server, alone: list[bytes]) -> None:
    accept = "text/html, image/gif, image/jpeg, *; q=.2, */*; q=.2"
    reply = requests.post(server.predict_url, json=GOOD[0], timeout=60, headers={"Accept": accept})
    assert reply.content == alone[0]


def test_form_fields_and_parts(server: Server, alone: list[bytes]) -> None:
    body = GOOD[1]
    assert requests.post(server.predict_url, data=body, timeout=60).content == alone[1]
    parts = {name: (None, str(value)) for name, value in body.items()}
    assert requests.post(server.predict_url, files=parts, timeout=60).content == alone[1]


def test_an_empty_body_gives_a_random_image(server: Server) -> None:
    assert send(server, b"", {"Content-Type": JSON}).status_code == 200


def test_get_gives_a_random_image(server: Server) -> None:
    reply = requests.get(server.predict_url, timeout=60)
    assert reply.status_code == 200
    assert reply.headers["content-type"] == "image/png"


def test_a_body_of_6_mb_is_read_and_a_larger_one_refused(server: Server) -> None:
    row = ",".join(["0.123456789"] * 100)
    rows = ",".join([f"[{row}]"] * 5000)
    reply = send(server, f'{{"noise": [{rows}]}}', {"Content-Type": JSON})
    assert reply.status_code == 413
    assert reply.json()["field"] == "noise"
    padded = '{"seed": 1' + " " * 6_600_000 + "}"
    # TorchServe's HTTP decoder answers without a body, and closes while the client still sends.
    with contextlib.suppress(requests.ConnectionError):
        assert send(server, padded, {"Content-Type": JSON}).status_code == 413
    assert requests.post(server.predict_url, json=GOOD[0], timeout=60).status_code == 200


def test_a_client_that_hangs_up_harms_nobody(server: Server, alone: list[bytes]) -> None:
    body = json.dumps({"seed": 1, "num_images": 200}).encode()
    head = (
        f"POST /predictions/{server.model} HTTP/1.1\r\nHost: {HOST}\r\n"
        f"Content-Type: {JSON}\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    for _ in range(5):
        with socket.create_connection((HOST, server.ports.inference), timeout=10) as connection:
            connection.sendall(head.encode() + body)
    assert requests.post(server.predict_url, json=GOOD[2], timeout=60).content == alone[2]


def test_an_all_bad_batch(server: Server) -> None:
    bodies = [{"seed": -1 - i} for i in range(24)]
    with ThreadPoolExecutor(24) as pool:
        replies = list(
            pool.map(lambda body: requests.post(server.predict_url, json=body, timeout=60), bodies)
        )
    assert [reply.json()["seen"] for reply in replies] == [str(-1 - i) for i in range(24)]
