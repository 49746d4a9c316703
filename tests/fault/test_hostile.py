"""What breaks TorchServe handlers in the field, sent over HTTP beside good requests.

Every hostile request travels with good ones, so that they share batches; the good ones must
get the bytes they get alone, the hostile one its own problem document, and the worker must
be the same process afterwards.
"""

import gzip
import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import psutil
import pytest
import requests
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from deploy.server import Server
from tests.support import live
from tests.support.random_requests import RandomRequests, json_values

MEGABYTES = 6_000_000  # a little below max_request_size
HEADER_LINES = "x\r\nX-Injected: 1"


@dataclass(frozen=True)
class Hostile:
    """One request, and the problem that it must get: its status, kind and the field it names."""

    name: str
    body: bytes | str
    status: int
    kind: str
    at: str = ""
    headers: tuple[tuple[str, str], ...] = (("Content-Type", live.JSON),)


def typed(content_type: str) -> tuple[tuple[str, str], ...]:
    return (("Content-Type", content_type),)


def field(name: str, value: object, at: str = "", kind: str = "invalid-field") -> Hostile:
    """A JSON body with this field alone."""
    text = json.dumps({name: value})
    return Hostile(f"{name}={json.dumps(value)[:40]}", text, 400, kind, at or name)


def many(text: str) -> str:
    """So often, with commas, that it fills a body."""
    return ",".join([text] * (MEGABYTES // (len(text) + 1)))


FORM, BYTES = typed("application/x-www-form-urlencoded"), typed("application/octet-stream")
HOSTILE = [
    Hostile("invalid JSON", '{"seed": 1', 400, "invalid-json"),
    Hostile("a field twice", '{"seed": 1, "seed": 2}', 400, "invalid-json", "seed"),
    Hostile("a packed body", gzip.compress(b"{}"), 415, "unsupported-encoding",
            "Content-Encoding", (*typed(live.JSON), ("Content-Encoding", "gzip"))),
    *(Hostile(f"raw noise of {value}", np.full((200, 100), value, "<f4").tobytes(), 400,
              "invalid-field", "noise[0][0]", BYTES)
      for value in (np.nan, np.inf, -np.inf, 3e38, -100.1)),
    Hostile("JSON without a content type, as curl -d sends it", '{"seed": 1}', 400,
            "invalid-body", "", FORM),
    Hostile("an unknown media type", '{"seed": 1}', 406, "not-acceptable", "",
            (*typed(live.JSON), ("Accept", "image/avif"))),
    Hostile("more images than allowed", '{"num_images": 257}', 413, "too-large", "num_images"),
    Hostile("a reply beyond the limit",
            '{"num_images": 256, "columns": 256, "padding": 64}', 413, "too-large"),
    # What else a body and a field may not be is in tests/handler/test_wire.py and test_body.py.
    field("seed", HEADER_LINES), field("background", HEADER_LINES), field("format", HEADER_LINES),
    field("\u00fcn\u00efcode\r\n\u2603", 1, r"\xfcn\xefcode\r\n\u2603", kind="unknown-field"),
    Hostile("an error inside an instance", '{"instances": [{"seed": 1}, {"seed": -1}]}', 400,
            "invalid-field", "instances[1].seed"),
    Hostile("an exponent beyond all", '{"seed": 1e999999999}', 400, "invalid-field"),
    Hostile("10^15 steps", '{"walk": {"between": [1, 2], "steps": 1000000000000000}}', 413,
            "too-large"),
]  # fmt: skip

BOMBS = [  # megabytes
    Hostile("nested lists", "[" * 10**6 + "]" * 10**6, 400, "invalid-json"),
    Hostile("nested objects", '{"a":' * 10**6 + "1" + "}" * 10**6, 400, "invalid-json"),
    Hostile("nested lists without an end", "[" * MEGABYTES, 400, "invalid-json"),
    Hostile("a number of 6,000,000 digits", f'{{"seed": {"9" * MEGABYTES}}}', 400, "invalid-json"),
    Hostile("a fraction of 6,000,000 digits", f'{{"seed": 0.{"9" * MEGABYTES}}}', 400,
            "invalid-field"),
    Hostile("a text of 6 MB", json.dumps({"seed": "9" * MEGABYTES}), 400, "invalid-field"),
    Hostile("a key of 6 MB", json.dumps({"s" * MEGABYTES: 1}), 400, "unknown-field"),
    Hostile("400,000 keys", json.dumps({f"k{i}": 1 for i in range(400_000)}), 400,
            "unknown-field"),
    Hostile("350,000 keys alike", json.dumps({f"seed{i}": 1 for i in range(350_000)}), 400,
            "unknown-field"),
    Hostile("one key 500,000 times", "{" + many('"seed":1') + "}", 400, "invalid-json"),
    Hostile("1,500,000 seeds", f'{{"seeds": [{many("123")}]}}', 413, "too-large"),
    Hostile("1,000,000 objects for seeds", f'{{"seeds": [{many("{}")}]}}', 400, "invalid-field"),
    Hostile("NaN for noise", f'{{"noise": [{many("NaN")}]}}', 400, "invalid-field"),
    Hostile("lists for noise", f'{{"noise": [{many("[]")}]}}', 400, "invalid-field"),
    Hostile("base64 of 6 MB", json.dumps({"noise": "A" * MEGABYTES}), 413, "too-large"),
    Hostile("noise of 5,000 images",
            f'{{"noise": [{",".join([str([0.123456789] * 100)] * 4500)}]}}', 413, "too-large",
            "noise"),
    Hostile("500,000 latents to walk",
            f'{{"walk": {{"between": [{many("12345")}], "steps": 2}}}}', 400, "invalid-field"),
    Hostile("200,000 terms", f'{{"mix": [{many(json.dumps({"weight": 1, "seeds": [1]}))}]}}', 400,
            "invalid-field"),
    Hostile("a term of 1,000,000 seeds",
            f'{{"mix": [{{"weight": 1, "seeds": [{many("12345")}]}}]}}', 413, "too-large"),
    Hostile("600,000 instances", f'{{"instances": [{many("{}")}]}}', 413, "too-large"),
]  # fmt: skip

GOOD = [{"seed": seed, "num_images": 1 + seed % 3} for seed in range(6)]


@pytest.fixture(scope="module")
def right(server: Server) -> list[bytes]:
    """The replies to GOOD when nothing else happens."""
    replies = [live.post(server, body) for body in GOOD]
    assert all(reply.status_code == 200 for reply in replies)
    return [reply.content for reply in replies]


def among_good_ones(server: Server, right: list[bytes], **asked: Any) -> requests.Response:
    """The reply to one request that is sent together with the good ones, which are checked."""
    with ThreadPoolExecutor(len(GOOD) + 1) as pool:
        good = [pool.submit(live.post, server, body) for body in GOOD]
        other = pool.submit(requests.post, **{"url": server.predict_url, "timeout": 60, **asked})
        assert [reply.result().content for reply in good] == right
        return other.result()


def images_logged(server: Server, request_id: str) -> int:
    """How many images were drawn for a request, as the log tells."""

    def lines() -> list[str]:
        told = server.log.read_text(encoding="utf-8").splitlines()
        return [line for line in told if '"message":"request"' in line and request_id in line]

    (line,) = live.wait(lines)
    return int(json.loads(line)["images"])


@pytest.mark.parametrize("hostile", HOSTILE + BOMBS, ids=lambda hostile: hostile.name)
def test_a_hostile_request_gets_its_problem_and_harms_no_other(
    server: Server, right: list[bytes], unharmed: psutil.Process, hostile: Hostile
) -> None:
    held = unharmed.memory_info().rss
    reply = among_good_ones(server, right, data=hostile.body, headers=dict(hostile.headers))
    assert reply.status_code == hostile.status
    assert reply.headers["content-type"].startswith("application/problem+json")
    problem: dict[str, Any] = reply.json()
    assert problem["type"] == f"urn:dcgan:problem:{hostile.kind}"
    assert problem["status"] == hostile.status
    assert {"title", "detail"} <= problem.keys()
    if hostile.at:
        assert problem["field"] == hostile.at
    assert reply.content.isascii()
    assert len(reply.content) < 4096
    assert "x-injected" not in reply.headers
    assert images_logged(server, reply.headers["x-request-id"]) == 0
    assert unharmed.memory_info().rss < held + 1_000_000_000


RANDOM = RandomRequests(nz=100, most=4)
TEXTS = (json_values | RANDOM.doubtful).map(json.dumps).map(str.encode)
MEDIA = (live.JSON, "application/octet-stream", "text/plain", "application/x-www-form-urlencoded",
         "multipart/form-data; boundary=b", "a/b")  # fmt: skip


def with_another_byte(text: bytes, place: int, byte: int) -> bytes:
    place %= len(text)
    return text[:place] + bytes([byte]) + text[place + 1 :]


def form_of(text: bytes) -> bytes:
    head = b'--b\r\nContent-Disposition: form-data; name="noise"\r\n\r\n'
    return head + text + b"\r\n--b--\r\n"


NONSENSE = st.tuples(
    st.one_of(
        st.binary(max_size=401), TEXTS, TEXTS.map(form_of), TEXTS.map(b"seed=".__add__),
        st.builds(with_another_byte, TEXTS, st.integers(0, 9999), st.integers(0, 255)),
    ),
    st.sampled_from(((), *map(typed, MEDIA))),
)  # fmt: skip


@pytest.mark.usefixtures("unharmed")
@pytest.mark.parametrize("examples", [20, pytest.param(500, marks=pytest.mark.long)])
def test_any_mix_of_requests(server: Server, examples: int) -> None:
    def ask(item: Any) -> requests.Response:
        if isinstance(item, dict):
            return live.post(server, item)
        body, headers = (item.body, item.headers) if isinstance(item, Hostile) else item
        return requests.post(server.predict_url, data=body, headers=dict(headers), timeout=60)

    @settings(max_examples=examples, deadline=None, suppress_health_check=list(HealthCheck))
    @given(
        mix=st.lists(RANDOM.bodies | st.sampled_from(HOSTILE) | NONSENSE, min_size=20, max_size=40)
    )
    def check(mix: list[Any]) -> None:
        with ThreadPoolExecutor(len(mix)) as pool:
            replies = list(pool.map(ask, mix))
        for item, reply in zip(mix, replies, strict=True):
            if isinstance(item, Hostile):
                assert reply.status_code == item.status
            elif isinstance(item, dict):
                assert reply.status_code == 200
                assert reply.content == ask(item).content
            elif reply.status_code not in (200, 400, 406, 413):
                # TorchServe's own form decoder answers 500 itself; the worker never sees those.
                assert "ErrorDataDecoderException" in reply.text

    check()


@pytest.mark.usefixtures("unharmed")
@pytest.mark.parametrize("header", ["describe", "Describe", "explain"])
def test_a_describe_or_explain_header_concerns_its_own_request_only(
    server: Server, right: list[bytes], header: str
) -> None:
    reply = among_good_ones(server, right, json={"seed": 1}, headers={header: "True"})
    assert reply.status_code == 200


@pytest.mark.usefixtures("unharmed")
def test_explanations_are_not_offered(server: Server, right: list[bytes]) -> None:
    url = server.predict_url.replace("/predictions/", "/explanations/")
    reply = among_good_ones(server, right, url=url, json={"seed": 1})
    assert reply.status_code == 501
    assert reply.json()["type"] == "urn:dcgan:problem:not-implemented"
