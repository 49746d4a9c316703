"""docker compose up, really run: what the stack adds, seen through the proxy and inside. What the
proxy itself passes and refuses is in tests/contract/test_proxy.py."""

import io
import itertools
import json
import re
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import requests
from PIL import Image

from deploy.server import HOST, ROOT
from tests.support import live
from tests.support.gallery_browser import chromium, needs_chromium
from tests.support.proxies import ALICE, BOB, NEEDS_NGINX, check_problem
from tests.support.stack import Stack
from tests.support.visitors import between, look_at_a_page


def test_a_picture_for_a_key_and_for_nobody_else(stack: Stack) -> None:
    reply = stack.predict(seed=1, num_images=4)
    assert (reply.status_code, reply.headers["content-type"]) == (200, "image/png")
    assert np.asarray(Image.open(io.BytesIO(reply.content))).std() > 10
    assert stack.predict(BOB, seed=1, num_images=4).content == reply.content
    for key in ("", ALICE[:-1]):
        check_problem(stack.predict(key, seed=1), 401, "unauthorized")


def test_no_page_of_another_origin_may_call_unless_it_is_named(stack: Stack) -> None:
    asked = {"Origin": "https://app.example", "Access-Control-Request-Method": "POST"}
    reply = stack.call("OPTIONS", "/predictions/dcgan", headers=asked)
    check_problem(reply, 401, "unauthorized")
    assert "access-control-allow-origin" not in reply.headers


def test_the_gallery_is_served(stack: Stack) -> None:
    reply = stack.call("GET", "/gallery/")
    assert (reply.status_code, reply.headers["content-type"]) == (200, "text/html")


@NEEDS_NGINX
@needs_chromium
def test_a_page_of_pictures_for_everybody(stack: Stack, tmp_path: Path) -> None:
    """By the server with a key that docs/operations/containers.md puts before the proxy."""
    ids = (f"asked-after-{i}" for i in itertools.count())

    def logged() -> int:
        """Chromium's requests: those that were answered before another one, which is there."""
        last = next(ids)
        stack.call("GET", "/seed/1.png", ALICE, headers={"X-Request-Id": last})
        text = live.wait(lambda: log if last in (log := stack.logs("proxy")) else "", 30)
        return text.count("HeadlessChrome")

    with chromium() as browser, between(tmp_path, stack) as url:
        look_at_a_page(browser, url, stack, logged)
        assert logged() > 0


def test_too_fast_429_with_retry_after(stack: Stack) -> None:
    url = f"https://{HOST}:{stack.port}/seed/1.png"
    # Connections that stay, and a picture that is kept: a slow machine is fast enough.
    with requests.Session() as asking, ThreadPoolExecutor(8) as pool:
        asking.headers["X-API-Key"] = BOB
        options = {"verify": stack.certificate, "timeout": 60}
        replies = list(pool.map(lambda _: asking.get(url, **options), range(200)))
    refused = [r for r in replies if r.status_code != 200]
    assert 0 < len(refused) < 200
    for reply in refused:
        check_problem(reply, 429, "too-many-requests")
        assert int(reply.headers["retry-after"]) >= 1
    assert stack.predict(ALICE, seed=1).status_code == 200


def test_only_the_proxys_port_is_published(stack: Stack) -> None:
    services = ("torchserve", "proxy", "prometheus")
    published = {s: stack.podman("port", stack.container(s)).split("\n")[:-1] for s in services}
    proxy = [f"8443/tcp -> {HOST}:{stack.port}"]
    assert published == {"torchserve": [], "proxy": proxy, "prometheus": []}


@pytest.mark.parametrize("port", [8080, 8081, 8082, 7070, 7071])
def test_torchserve_cannot_be_reached_from_the_monitoring(stack: Stack, port: int) -> None:
    """Neither by name nor by address: the two are on no network together."""
    address = stack.address("torchserve", "serving")
    for host in ("torchserve", address):
        knock = f"timeout 3 bash -c 'exec 3<>/dev/tcp/{host}/{port}' 2>/dev/null && echo open"
        assert stack.inside("prometheus", "bash", "-c", knock, check=False) == ""
    hello = "timeout 3 bash -c 'exec 3<>/dev/tcp/proxy/9145' && echo open"
    assert stack.inside("prometheus", "bash", "-c", hello) == "open\n"


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("POST", "workflows?url=dcgan.mar", 404),  # which lies in the model store
        ("POST", "workflows?url=file:///tmp/x.war", 404),
        ("POST", "models?url=dcgan.mar", 405),
        ("DELETE", "models/dcgan", 405),
    ],
)
def test_even_inside_nothing_can_be_registered(
    stack: Stack, method: str, path: str, status: int
) -> None:
    code = f"""
import urllib.error, urllib.request
try:
    url = "http://127.0.0.1:8081/{path}"
    print(urllib.request.urlopen(urllib.request.Request(url, method="{method}")).status)
except urllib.error.HTTPError as error:
    print(error.code)
"""
    assert stack.python(code) == f"{status}\n"


@pytest.mark.parametrize("service", ["torchserve", "proxy", "prometheus"])
def test_an_ordinary_user_without_rights(stack: Stack, service: str) -> None:
    assert int(stack.inside(service, "id", "-u")) >= 10001
    status = stack.inside(service, "cat", "/proc/self/status")
    assert re.findall(r"^Cap(?:Prm|Eff|Bnd):\t(\w+)$", status, re.MULTILINE) == ["0" * 16] * 3
    assert re.search(r"^NoNewPrivs:\t1$", status, re.MULTILINE)
    for folder in ("/", "/etc", "/opt", "/usr/bin", "/var/lib"):
        touched = f"touch {folder}/x 2>&1"
        said = stack.inside(service, "sh", "-c", touched, check=False)
        assert "Read-only file system" in said or "Permission denied" in said
    root = stack.inside(service, "grep", " / ", "/proc/mounts").split()[3]
    assert root.split(",")[0] == "ro"
    assert stack.inspect(service)["HostConfig"]["Memory"] > 0


def health(stack: Stack, service: str) -> str:
    """What docker-compose.yml's health check says now (there is no systemd here to time it)."""
    return stack.podman("healthcheck", "run", stack.container(service), check=False).strip()


@pytest.mark.parametrize("service", ["torchserve", "proxy"])
def test_the_health_check(stack: Stack, service: str) -> None:
    assert health(stack, service) == ""


def query(stack: Stack, expression: str) -> list[dict[str, object]]:
    url = f"http://{stack.address('prometheus', 'monitoring')}:9090/api/v1/query"
    reply = requests.get(url, params={"query": expression}, timeout=10).json()
    assert reply["status"] == "success", reply
    return list(reply["data"]["result"])


def test_prometheus_has_what_every_panel_asks_for(stack: Stack) -> None:

    def scraped_twice() -> bool:
        stack.predict(seed=1, num_images=8)
        stack.predict(sede=1)
        time.sleep(2)
        rates = ("dcgan_images_total", "dcgan_proxy_replies_total")
        return all(query(stack, f"rate({name}[1m]) > 0") for name in rates)

    live.wait(scraped_twice, 150)
    assert {str(r["metric"]["job"]): r["value"][1] for r in query(stack, "up")} == {  # type: ignore[index]
        "torchserve": "1", "workers": "1", "proxy": "1", "prometheus": "1",
    }  # fmt: skip
    board = json.loads((ROOT / "deploy/grafana/dashboards/dcgan.json").read_text())
    asked = 0
    for panel in board["panels"]:
        for target in panel.get("targets", []):
            expression = target["expr"].replace("$__rate_interval", "1m")
            if "GPU" not in expression:  # there is none
                assert query(stack, expression), f"{panel['title']}: {expression}"
                asked += 1
    assert asked > 20
    rules = requests.get(
        f"http://{stack.address('prometheus', 'monitoring')}:9090/api/v1/rules", timeout=10
    ).json()["data"]["groups"][0]["rules"]
    assert {r["health"] for r in rules} == {"ok"}
    assert {r["name"]: r["state"] for r in rules if r["state"] != "inactive"} == {}


def test_logs_are_json_lines_without_keys(stack: Stack) -> None:
    stack.predict(seed=77)
    time.sleep(1)
    text = stack.logs("proxy")
    begun, *later = text.splitlines()
    assert begun.startswith("no /run/dcgan-secrets/tls.crt: made a self-signed certificate")
    lines = [json.loads(line) for line in later]
    assert {line["key"] for line in lines} >= {"alice", ""}
    assert lines[-1]["status"] == "200"
    assert ALICE not in text
    assert BOB not in text
    served = stack.logs("torchserve").splitlines()
    begun = next(i for i, line in enumerate(served) if "Initializing plugins" in line)
    plain = [line for line in served[begun:] if not line.startswith("{")]
    assert plain == ["Model server started."]


def test_a_dead_worker_shows_and_comes_back(stack: Stack) -> None:
    code = """
import psutil
java = next(p for p in psutil.process_iter() if p.name() == "java")
next(p for p in java.children() if "model_service_worker" in str(p.cmdline())).kill()
"""
    stack.python(code)
    assert health(stack, "torchserve") == "unhealthy"
    live.wait(lambda: stack.call("GET", "/healthz").status_code == 503, 30)
    stack.wait_until_ready()
    assert stack.predict(seed=1).status_code == 200
    assert health(stack, "torchserve") == ""


def test_stopping_the_proxy_finishes_what_is_in_work(stack: Stack) -> None:
    with ThreadPoolExecutor(3) as pool:
        calls = [pool.submit(stack.predict, seed=i, num_images=256, format="npy") for i in range(3)]
        time.sleep(0.6)
        assert not all(call.done() for call in calls)
        started = time.monotonic()
        stack.podman("stop", "-t", "70", stack.container("proxy"))
        assert [call.result().status_code for call in calls] == [200] * 3
        assert time.monotonic() - started < 60
    assert stack.inspect("proxy")["State"]["ExitCode"] == 0
    with pytest.raises(OSError):  # noqa: PT011 - refused or reset, by the engine
        socket.create_connection((HOST, stack.port), 2).close()
    stack.podman("start", stack.container("proxy"))
    stack.wait_until_ready()


def test_a_torchserve_that_ends_takes_its_container_with_it(stack: Stack) -> None:
    """So that the engine's restart policy sees it; the container comes back and serves."""
    before = stack.inspect("torchserve")["State"]["StartedAt"]
    code = "import psutil; next(p for p in psutil.process_iter() if p.name() == 'java').kill()"
    stack.python(code, check=False)
    live.wait(lambda: stack.inspect("torchserve")["State"]["StartedAt"] != before, 60)
    stack.wait_until_ready()
    assert stack.predict(seed=1).status_code == 200
    assert "TorchServe ended by itself" in stack.logs("torchserve")
