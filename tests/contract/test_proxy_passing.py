"""What reaches TorchServe through the proxy, of one server and of several."""

from __future__ import annotations

import re
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import requests
from proxies import ALICE, BOB, NEEDS_NGINX, check_problem, environment, running
from upstreams import Upstream, upstream

from deploy.server import HOST, ROOT, Ports

pytestmark = [pytest.mark.contract, NEEDS_NGINX]

# What a browser, a curl and somebody with bad intentions send.
SENT = {
    "Authorization": f"Bearer {ALICE}", "X-Request-Id": "bad\tid", "Cookie": "a=b",
    "X-Forwarded-For": "1.2.3.4", "describe": "True", "explain": "True", "Expect": "nothing",
    "Content-Encoding": "gzip", "Upgrade": "h2c", "TE": "trailers", "Referer": "https://x/",
    "Accept": "image/png", "Content-Type": "application/json",
}  # fmt: skip
PASSED = {"host", "x-request-id", "accept", "content-type", "content-encoding"}


@pytest.fixture
def recorder() -> Iterator[Upstream]:
    with upstream() as live:
        yield live


@pytest.mark.parametrize(
    ("method", "path", "reached", "with_body"),
    [
        ("POST", "/predictions/dcgan?x=1", "/predictions/dcgan", True),
        ("POST", "/v1/models/dcgan:predict", "/v1/models/dcgan:predict", True),
        ("GET", "/models/dcgan", "/models/dcgan?customized=true", False),
        ("GET", "/healthz", "/models/dcgan", False),
    ],
)
def test_no_key_and_nothing_unknown_reaches_torchserve(
    recorder: Upstream, tmp_path: Path, method: str, path: str, reached: str, with_body: bool
) -> None:
    with running(tmp_path, recorder.ports) as proxy:
        body = b"{}" if with_body else b"x"
        reply = proxy.call(method, path, ALICE, headers=SENT, data=body)
        assert reply.status_code == 200, reply.text
        if not with_body:  # none is read, so none waits in a file
            assert proxy.call(method, path, ALICE, data=b"xx").status_code == 413
    ((_, asked, headers),) = recorder.seen
    assert asked == reached
    names = {name.lower() for name, _ in headers}
    assert names == PASSED | ({"content-length"} if with_body else set())
    assert len(headers) == len(names)
    values = {name.lower(): value for name, value in headers}
    assert re.fullmatch("[0-9a-f]{32}", values["x-request-id"])
    assert values["accept"] == SENT["Accept"]
    assert ALICE not in str(headers)


@pytest.mark.parametrize("path", ["/metrics", "/workers", "/servers/1/workers", "/healthz"])
def test_nor_by_the_port_that_is_not_published(
    recorder: Upstream, tmp_path: Path, path: str
) -> None:
    with running(tmp_path, recorder.ports) as proxy:
        requests.get(proxy.metrics_url + path, headers=SENT, timeout=5).raise_for_status()
    ((_, _, headers),) = recorder.seen
    assert {name.lower() for name, _ in headers} == PASSED


def test_no_location_sets_headers_but_by_the_list() -> None:
    """A proxy_set_header of its own would cancel the list, and let keys through."""
    for file in (ROOT / "deploy/proxy").glob("*.conf"):
        text = file.read_text(encoding="utf-8")
        if file.name != "passed.conf" and "proxy_set_header" in text:
            assert "include passed.conf;" in text
            assert file.name == "no_body.conf"


def until_refused(session: requests.Session, url: str, certificate: str) -> None:
    for _ in range(2000):
        status = session.get(url, verify=certificate, timeout=10).status_code
        if status == 429:
            return
        assert status == 200
    pytest.fail("there is no limit")


def test_requests_from_outside_do_not_use_up_what_probes_may_ask(
    recorder: Upstream, tmp_path: Path
) -> None:
    with running(tmp_path, recorder.ports) as proxy, requests.Session() as session:
        until_refused(session, f"{proxy.url}/gallery/icon.svg", proxy.certificate)
        assert proxy.call("GET", "/healthz").status_code == 200
        until_refused(session, f"{proxy.url}/healthz", proxy.certificate)
        for _ in range(80):
            assert requests.get(f"{proxy.metrics_url}/healthz", timeout=5).status_code == 200


def test_all_keys_together_have_a_limit(recorder: Upstream, tmp_path: Path) -> None:
    with (
        running(tmp_path, recorder.ports, CONNECTIONS="1", ALL_CONNECTIONS="1") as proxy,
        ThreadPoolExecutor(1) as pool,
    ):
        recorder.gate.clear()
        first = pool.submit(proxy.predict, ALICE, seed=1)
        while not recorder.seen:
            time.sleep(0.01)
        check_problem(proxy.predict(BOB, seed=1), 429, "too-many-requests")
        recorder.gate.set()
        assert first.result().status_code == 200
        assert proxy.predict(BOB, seed=1).status_code == 200


def several(*live: Upstream) -> dict[str, str]:
    text = " ".join(f"{HOST}:{each.port}" for each in live)
    return {"SERVERS": text, "MANAGEMENT_SERVERS": text, "METRICS_SERVERS": text}


def test_each_server_is_asked_for_its_own(tmp_path: Path) -> None:
    with (
        upstream("READY") as good,
        upstream("LOADING") as bad,
        running(tmp_path, Ports.free(), **several(bad, good)) as proxy,
    ):
        for number, each, ready in ((1, bad, 0), (2, good, 1)):
            for _ in range(3):  # not by turns
                text = requests.get(f"{proxy.metrics_url}/servers/{number}/workers", timeout=5).text
                assert f"dcgan_workers_ready {ready}\n" in text
                assert f'dcgan_worker_memory_bytes{{worker="{each.port}"}}' in text
            before = len(each.seen)
            assert requests.get(f"{proxy.metrics_url}/servers/{number}/metrics", timeout=5).ok
            assert [path for _, path, _ in each.seen[before:]] == ["/metrics"]
        for path in ("/servers/3/workers", "/servers/3/metrics", "/servers/0/metrics"):
            assert requests.get(proxy.metrics_url + path, timeout=5).status_code == 404
        for url, verify in ((proxy.url, proxy.certificate), (proxy.metrics_url, None)):
            for _ in range(4):  # one of them is ready
                reply = requests.get(f"{url}/healthz", verify=verify, timeout=5)
                assert reply.status_code == 200
        good.status = "LOADING"
        assert proxy.call("GET", "/healthz").status_code == 503


def test_a_server_that_is_gone_does_not_hide_one_that_is_ready(tmp_path: Path) -> None:
    gone = Upstream(port=Ports.free().inference)
    with upstream() as good, running(tmp_path, Ports.free(), **several(gone, good)) as proxy:
        assert proxy.call("GET", "/healthz").status_code == 200
        lost = requests.get(f"{proxy.metrics_url}/servers/1/workers", timeout=5)
        assert lost.status_code == 503


@pytest.mark.parametrize(
    "given",
    [
        {"SERVERS": "a:1 b:2", "MANAGEMENT_SERVERS": "a:1 b:2"},
        {"SERVERS": "a:1 b:2", "MANAGEMENT_SERVERS": "a:1", "METRICS_SERVERS": "a:1 b:2"},
        {"MANAGEMENT_SERVERS": "a:1", "METRICS_SERVERS": "a:1"},
    ],
)
def test_lists_of_other_lengths_stop_the_start(tmp_path: Path, given: dict[str, str]) -> None:
    done = subprocess.run(
        [ROOT / "deploy/proxy/proxy.sh"], env=environment(tmp_path, Ports(), **given),
        capture_output=True, text=True, check=False, timeout=30,
    )  # fmt: skip
    assert done.returncode == 2
    assert "have to name the same servers" in done.stderr
