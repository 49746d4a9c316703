"""The proxy: real nginx with its real settings, in front of a live TorchServe."""

import contextlib
import hashlib
import io
import json
import re
import socket
import ssl
from pathlib import Path
from typing import Any

import pytest
import requests
import urllib3
from PIL import Image

from client import Client
from deploy.server import HOST, Ports, Server
from handler.errors import CONTENT_TYPE
from tests.support.proxies import (
    ALICE,
    BOB,
    CAROL,
    NEEDS_NGINX,
    Proxy,
    check_problem,
    running,
    several,
)
from tests.support.upstreams import upstream

pytestmark = [NEEDS_NGINX]


@pytest.mark.parametrize(
    "headers",
    [
        {}, {"X-API-Key": ""}, {"X-API-Key": "z" * 32}, {"X-API-Key": ALICE[:-1]},
        {"X-API-Key": ALICE + "a"}, {"X-API-Key": ALICE.upper()}, {"X-API-Key": "alice"},
        {"X-API-Key": hashlib.sha256(ALICE.encode()).hexdigest()},
        {"Authorization": f"Basic {ALICE}"}, {"Authorization": f"Bearer  {ALICE}"},
        {"X-API-Key": "wrong" * 8, "Authorization": f"Bearer {ALICE}"},
    ],
)  # fmt: skip
def test_without_a_valid_key_401(proxy: Proxy, headers: dict[str, str]) -> None:
    reply = proxy.call("POST", "/predictions/dcgan", json={"seed": 1}, headers=headers)
    check_problem(reply, 401, "unauthorized")
    assert reply.headers["www-authenticate"] == 'Bearer realm="dcgan"'


@pytest.mark.parametrize("key", [ALICE, BOB, CAROL])
def test_every_key_opens_by_either_header(proxy: Proxy, server: Server, key: str) -> None:
    direct = requests.post(server.predict_url, json={"seed": 1, "num_images": 4}, timeout=60)
    reply = proxy.predict(key, seed=1, num_images=4)
    assert reply.status_code == 200, reply.text
    assert reply.headers["content-type"] == "image/png"
    assert reply.content == direct.content
    assert Image.open(io.BytesIO(reply.content)).size == (134, 134)
    bearer = {"Authorization": f"Bearer {key}"}
    again = proxy.call("POST", "/predictions/dcgan", json={"seed": 1}, headers=bearer)
    assert again.status_code == 200


def test_kserve_and_the_description(proxy: Proxy) -> None:
    body = {"instances": [{"seed": 1}, {"seed": 2}]}
    reply = proxy.call("POST", "/v1/models/dcgan:predict", ALICE, json=body)
    assert len(reply.json()["predictions"]) == 2
    described = proxy.call("GET", "/models/dcgan", ALICE).json()[0]
    assert described["customizedMetadata"]["limits"]["max_images"] == 256
    check_problem(proxy.call("GET", "/models/dcgan"), 401, "unauthorized")
    check_problem(proxy.call("POST", "/v1/models/dcgan:predict", json=body), 401, "unauthorized")


def test_our_client_works_through_it(proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", proxy.certificate)
    assert len(Client(proxy.url, api_key=ALICE).images(seed=1, num_images=3)) == 3


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/ping"), ("GET", "/metrics"), ("GET", "/models"),
        ("GET", "/workers"),
        ("POST", "/models?url=http://127.0.0.1/x.mar"), ("DELETE", "/models/dcgan/1.0"),
        ("PUT", "/models/dcgan/1.0/set-default"), ("GET", "/models/dcgan/all"),
        ("POST", "/workflows?url=http://127.0.0.1/x.war"), ("GET", "/workflows"),
        ("GET", "/models/dcgan/../../workflows"), ("GET", "/models/dcgan/..%2f..%2fworkflows"),
        ("GET", "/internal/workers"), ("POST", "/explanations/dcgan"), ("GET", "/api-description"),
        ("GET", "/token?type=management"), ("POST", "/predictions/other"),
        ("POST", "/predictions/dcgan/1.0"), ("POST", "/v2/models/dcgan/infer"),
        ("POST", "/models/dcgan/invoke"), ("POST", "/predictions/dcgan%2f..%2f..%2fworkflows"),
        ("POST", "/wfpredict/x"), ("GET", "/v1/models/dcgan"),
    ],
)  # fmt: skip
def test_everything_else_is_404(proxy: Proxy, method: str, path: str) -> None:
    # requests would tidy the dots away before sending.
    with urllib3.HTTPSConnectionPool(HOST, proxy.port, ca_certs=proxy.certificate) as pool:
        reply = pool.urlopen(method, path, headers={"X-API-Key": ALICE}, redirect=False)
    assert reply.status == 404
    assert json.loads(reply.data)["type"] == "urn:dcgan:problem:not-found"


def test_too_big_413(proxy: Proxy) -> None:
    octets = {"Content-Type": "application/octet-stream"}
    path = "/predictions/dcgan"
    check_problem(
        proxy.call("POST", path, ALICE, data=b"\0" * 6553501, headers=octets), 413, "too-large"
    )
    chunks = (b"\0" * 65536 for _ in range(101))  # no Content-Length
    with contextlib.suppress(requests.RequestException):  # the answer may overtake the body
        reply = proxy.call("POST", path, ALICE, data=chunks, headers=octets)
        check_problem(reply, 413, "too-large")
    assert proxy.log()[-1]["status"] == "413"
    # The largest body that passes is judged by the handler.
    reply = proxy.call("POST", path, ALICE, data=b"\0" * 6553500, headers=octets)
    assert reply.json()["type"].startswith("urn:dcgan:problem:")
    assert reply.json()["title"] != "The request body is too large"


def test_a_large_form_413(proxy: Proxy) -> None:
    """Before TorchServe reads it: its fields cost the worker more than pictures do."""
    few = proxy.call("POST", "/predictions/dcgan", ALICE, data={"seed": "1", "padding": "0"})
    assert few.headers["content-type"] == "image/png"
    parts = {"seed": (None, "1"), "noise": (None, "A" * 100_000)}
    check_problem(proxy.call("POST", "/predictions/dcgan", ALICE, files=parts), 413, "too-large")
    for data in ("&".join(f"{i:x}=" for i in range(20_000)), iter([b"seed=1"])):
        headers = {"Content-Type": "Application/X-WWW-Form-Urlencoded"}
        reply = proxy.call("POST", "/predictions/dcgan", ALICE, data=data, headers=headers)
        check_problem(reply, 413, "too-large")


PART = 'Content-Disposition: form-data; name="seed"'


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        *[
            ("application/x-www-form-urlencoded", body)
            for body in ("a=b&=", "&", "&seed=1", "seed=1&&padding=0", "+%0c=1", "\n=1", "seed=1%",
                         "seed=%u0031", "se%=1", "seed=1\rx")
        ],
        *[
            ("multipart/form-data; boundary=b", f"--b\r\n{head}\r\n\r\n1\r\n--b--\r\n")
            for head in ("", "X: y", PART + ";", PART.replace("seed", ""),
                         PART.replace("seed", " "), PART.replace("; name", " name"),
                         PART.replace("form-data", "attachment"),
                         PART.replace("name", "filename"), PART + "; filename*=x",
                         PART + "; filename*=none''x", PART + "; filename*=utf-8''%zz",
                         PART + "\r\nContent-Type: a/b; charset=none",
                         PART + "\r\nContent-Type: multipart/mixed", PART + '; name=""')
        ],
        ("multipart/form-data; boundary=", f"--b\r\n{PART}\r\n\r\n1\r\n--b--\r\n"),
        ('multipart/form-data; boundary="', f"--b\r\n{PART}\r\n\r\n1\r\n--b--\r\n"),
    ],
)  # fmt: skip
def test_forms_that_torchserve_fails_on_are_refused(
    proxy: Proxy, server: Server, content_type: str, body: str
) -> None:
    """Its decoder's 500 would be the server's failure, to clients and to alerts."""
    headers = {"Content-Type": content_type}
    direct = requests.post(server.predict_url, data=body, headers=headers, timeout=60)
    assert direct.status_code == 500  # what TorchServe itself does by now needs no such care
    for path in ("/predictions/dcgan", "/v1/models/dcgan:predict"):
        reply = proxy.call("POST", path, ALICE, data=body, headers=headers)
        check_problem(reply, 400, "invalid-body")


@pytest.mark.parametrize(
    "sent",
    [
        {"data": {"seed": "1", "padding": "0"}},
        {"data": b"seed=%31&padding=0&\r\n",
         "headers": {"Content-Type": "application/x-www-form-urlencoded; charset=UTF-8"}},
        {"files": {"seed": (None, "1"), "padding": (None, "0")}},
        {"files": {"seed": ("s", "1", "text/plain; charset=UTF-8"), "padding": ("p.txt", b"0")}},
        {"data": f"--b\r\n{PART}; filename*=UTF-8'en'caf%C3%A9.txt\r\n\r\n1\r\n"
                 "--b\r\nContent-Disposition: form-data; name=padding; filename=\"p\"; "
                 "filename*=utf-8''p\r\n\r\n0\r\n--b--",
         "headers": {"Content-Type": "multipart/form-data; boundary=b"}},
    ],
)  # fmt: skip
def test_forms_of_every_usual_kind_are_read(proxy: Proxy, sent: dict[str, Any]) -> None:
    reply = proxy.call("POST", "/predictions/dcgan", ALICE, **sent)
    assert reply.content == proxy.predict(seed=1, padding=0).content


def test_the_largest_form_reaches_the_handler_whatever_its_bytes(proxy: Proxy) -> None:
    files = {"noise": ("n", bytes(range(256)) * 388), "seed": (None, "1")}
    reply = proxy.call("POST", "/predictions/dcgan", ALICE, files=files)
    assert (reply.status_code, reply.json().get("field")) == (400, "noise")


def test_too_fast_429_for_that_key_only(server: Server, tmp_path: Path) -> None:
    with running(tmp_path, server.ports, RATE="1r/m", BURST="2") as slow:
        replies = [slow.predict(ALICE, seed=1) for _ in range(4)]
        assert [r.status_code for r in replies] == [200, 200, 200, 429]
        check_problem(replies[-1], 429, "too-many-requests")
        assert int(replies[-1].headers["retry-after"]) >= 1
        assert slow.predict(BOB, seed=1).status_code == 200
        check_problem(slow.predict("z" * 32, seed=1), 401, "unauthorized")


def test_health_tells_whether_the_model_answers(proxy: Proxy, tmp_path: Path) -> None:
    good = proxy.call("GET", "/healthz")
    assert (good.status_code, good.json()) == (200, {"status": "ready"})
    assert good.headers["cache-control"] == "no-store"
    assert proxy.call("POST", "/healthz").status_code == 405
    with running(tmp_path, Ports.free()) as alone:
        bad = alone.call("GET", "/healthz")
        assert bad.status_code == 503
        assert bad.headers["content-type"] == CONTENT_TYPE
        assert bad.headers["retry-after"] == "2"
        reply = alone.predict(seed=1)
        check_problem(reply, 503, "unavailable")
        assert reply.headers["retry-after"] == "2"
        assert alone.counted() == {"503 proxy": 1}


def test_servers_that_are_all_away_are_503(tmp_path: Path) -> None:
    """When both were tried, and when neither is tried any more."""
    with running(tmp_path, Ports(), **several(Ports.free(), Ports.free())) as proxy:
        for _ in range(3):
            check_problem(proxy.predict(seed=1), 503, "unavailable")
            check_problem(proxy.call("GET", "/seed/1.png", ALICE), 503, "unavailable")


def test_a_broken_reply_is_502_and_not_sent_twice(tmp_path: Path) -> None:
    """What the model server may have worked on is not repeated, and the client is told so."""
    with upstream() as behind, running(tmp_path, behind.ports) as proxy:
        behind.code = 0  # it hangs up
        check_problem(proxy.predict(seed=1), 502, "bad-gateway")
    assert len(behind.seen) == 1


def test_one_json_line_a_request_with_the_keys_name(proxy: Proxy) -> None:
    headers = {"X-Request-Id": "my-request-0001", "User-Agent": 'odd "agent"'}
    path = '/predictions/dcgan?token=hushhush"'
    proxy.call("POST", path, ALICE, json={"seed": 1}, headers=headers)
    proxy.predict("z" * 32)
    mine, refused = proxy.log()[-2:]
    assert mine["request_id"] == "my-request-0001"
    assert (mine["key"], mine["status"], mine["path"]) == ("alice", "200", "/predictions/dcgan")
    assert float(mine["request_s"]) >= float(mine["upstream_s"]) > 0
    assert mine["upstream_request_id"]
    assert (refused["key"], refused["status"], refused["upstream"]) == ("", "401", "")
    text = (proxy.folder / "access.log").read_text() + (proxy.folder / "stderr").read_text()
    assert "hushhush" not in text
    for key in (ALICE, BOB, CAROL, "z" * 32):
        assert key not in text


def test_old_tls_and_plain_http_are_refused(proxy: Proxy) -> None:
    context = ssl.create_default_context(cafile=proxy.certificate)
    context.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
    context.maximum_version = ssl.TLSVersion.TLSv1_1
    context.set_ciphers("ALL:@SECLEVEL=0")
    with socket.create_connection((HOST, proxy.port), 5) as plain, pytest.raises(ssl.SSLError):
        context.wrap_socket(plain, server_hostname=HOST)
    assert requests.get(f"http://{HOST}:{proxy.port}/healthz", timeout=5).status_code == 400


def test_metrics_for_prometheus_on_their_own_port(proxy: Proxy) -> None:
    assert "dcgan_requests_total" in requests.get(f"{proxy.metrics_url}/metrics", timeout=30).text
    text = requests.get(f"{proxy.metrics_url}/workers", timeout=30).text
    found = dict(re.findall(r"^(dcgan_\S+) (\d+)$", text, re.MULTILINE))
    assert found["dcgan_workers"] == found["dcgan_workers_ready"] == "1"
    assert found["dcgan_queue_requests"] == "0"
    assert int(found["dcgan_queue_free_requests"]) > 0
    for path in ("/models", "/workflows", "/predictions/dcgan", "/internal/workers"):
        assert requests.get(proxy.metrics_url + path, timeout=5).status_code == 404
