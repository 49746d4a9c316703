"""A picture is an address: through the proxy with its cache."""

import itertools
import random
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import requests
import urllib3
from playwright.sync_api import Browser

from deploy.server import HOST, Server
from handler import address, openapi
from handler.service import Service
from handler.settings import Limits
from tests.support import live
from tests.support.fake_service import CARD, Fake
from tests.support.gallery_browser import needs_chromium
from tests.support.proxies import ALICE, BOB, NEEDS_NGINX, Proxy, check_problem, running
from tests.support.upstreams import Upstream, nameserver, upstream
from tests.support.visitors import between, look_at_a_page

pytestmark = [NEEDS_NGINX]

KEEP = "public, max-age=300"


@pytest.fixture
def model() -> Iterator[Upstream]:
    """A handler with a stand-in network in the place of TorchServe."""
    with upstream() as behind:
        behind.service = Service(Fake(), CARD, Limits())
        yield behind


@pytest.fixture
def cached(model: Upstream, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    """In front of that, and pictures are good for a second instead of five."""
    monkeypatch.setattr(address, "_PROXY_S", 1)
    with running(tmp_path, model.ports) as opened:
        yield opened


def status(reply: requests.Response) -> str:
    """Of the cache."""
    return reply.headers.get("Cache-Status", "").removeprefix("dcgan-proxy; ")


def until(proxy: Proxy, path: str, found: str) -> requests.Response:
    """The first reply of which the cache says that."""

    def asked() -> requests.Response | None:
        reply = proxy.call("GET", path, ALICE)
        return reply if status(reply) == found else None

    return live.wait(asked, 30)


def test_the_proxy_answers_and_keeps(proxy: Proxy) -> None:
    path = "/seeds/1-6.png?columns=3&background=%23203040"
    fields = {"seed": 1, "num_images": 6, "columns": 3, "background": "#203040"}
    posted = proxy.predict(**fields)
    first = proxy.call("GET", path, ALICE)
    hit = proxy.call("GET", path, BOB)
    head = proxy.call("HEAD", path, ALICE)
    copy = proxy.call(
        "GET", path, ALICE, headers={"If-None-Match": f'"x", W/{first.headers["ETag"]}'}
    )
    assert [r.status_code for r in (first, hit, head, copy)] == [200, 200, 200, 304]
    assert first.content == hit.content == posted.content
    assert head.content == copy.content == b""
    assert head.headers["Content-Length"] == str(len(first.content))
    assert [status(r) for r in (first, hit, head, copy)] == ["fwd=uri-miss", "hit", "hit", "hit"]
    own = {"X-Request-Id", "Date", "Cache-Status", "Connection"}
    kept = {name: value for name, value in first.headers.items() if name not in own}
    assert kept["Cache-Control"] == KEEP
    assert kept["X-Seed"] == "1"
    assert not {"Pragma", "Expires", "CDN-Cache-Control", "X-Accel-Expires"} & set(kept)
    for reply in (hit, head):
        assert {k: v for k, v in reply.headers.items() if k not in own} == kept
    for name in ("ETag", "Cache-Control"):
        assert copy.headers[name] == first.headers[name]
    assert len({r.headers["X-Request-Id"] for r in (first, hit, head, copy)}) == 4
    assert proxy.counted()["200 cache"] >= 2
    assert proxy.counted()["304 cache"] >= 1


def test_a_versioned_address_is_for_ever(proxy: Proxy, server: Server) -> None:
    served = live.described(server)["model"]["weights_sha256"][:8]
    reply = proxy.call("GET", f"/v/{served}/seed/8.png", ALICE)
    assert reply.content == proxy.predict(seed=8).content
    assert reply.headers["Cache-Control"] == "public, max-age=31536000, immutable"
    both = f"{served}-{reply.headers['X-Directions-SHA256'][:8]}"
    path = f"/v/{both}/seed/8.png?edit.glasses=1"
    edited, hit = (proxy.call("GET", path, ALICE) for _ in range(2))
    assert edited.content == hit.content == proxy.predict(seed=8, edit={"glasses": 1}).content
    assert hit.headers["Cache-Control"] == "public, max-age=31536000, immutable"
    assert status(hit) == "hit"
    wrong = proxy.call("GET", "/v/00000000/seed/8.png", ALICE)
    check_problem(wrong, 404, "not-found")
    assert wrong.json()["allowed"] == served
    assert wrong.headers["Cache-Control"] == "no-store"


def test_a_copy_is_good_though_the_proxy_has_none(cached: Proxy, model: Upstream) -> None:
    """And then it has one. TorchServe's own 304 has a length, which it must not: RFC 9110, 8.6."""
    tag = cached.call("GET", "/seed/1.png", ALICE).headers["ETag"]
    path = "/seed/1.png?padding=0"
    copy = cached.call("GET", path, ALICE, headers={"If-None-Match": tag})
    assert (copy.status_code, status(copy), copy.content) == (304, "fwd=uri-miss", b"")
    assert (copy.headers["ETag"], copy.headers["Cache-Control"]) == (tag, KEEP)
    assert "Content-Length" not in copy.headers
    assert status(cached.call("GET", path, ALICE)) == "hit"
    assert len(model.seen) == 2


def test_every_example_of_the_description_is_a_picture(proxy: Proxy) -> None:
    for path, found in openapi.document()["paths"].items():
        if "get" not in found:
            continue
        query = "?steps=3" if path.startswith("/walk") else ""
        filled = path.replace("{format}", "png")
        for each in found["get"]["parameters"]:
            if each.get("in") == "path" and "examples" in each["schema"]:
                name = "{" + each["name"] + "}"
                filled = filled.replace(name, str(each["schema"]["examples"][0]))
        reply = proxy.call("GET", filled + query, ALICE)
        assert (reply.status_code, reply.headers["Content-Type"]) == (200, "image/png"), filled


def test_random_pictures_are_not_kept(proxy: Proxy) -> None:
    replies = [proxy.call("GET", "/random.png", ALICE) for _ in range(2)]
    assert replies[0].content != replies[1].content
    for reply in replies:
        assert reply.headers["Cache-Control"] == "no-store"
        assert "ETag" not in reply.headers
        assert status(reply) == ""


@pytest.mark.parametrize(
    ("method", "path", "code", "slug"),
    [
        ("GET", "/seed/x.png", 400, "invalid-field"),
        ("GET", "/name/%ff.png", 400, "invalid-address"),
        ("GET", "/name/%00.png", 400, "bad-request"),
        ("GET", "/seed/1", 404, "not-found"),
        ("GET", "/name/" + "a" * 4100 + ".png", 414, "uri-too-long"),
        ("POST", "/seed/1.png", 405, "method-not-allowed"),
        ("DELETE", "/v/0/walk/1-2.png", 405, "method-not-allowed"),
    ],
)
def test_wrong_addresses(proxy: Proxy, method: str, path: str, code: int, slug: str) -> None:
    for _ in range(2):
        reply = proxy.call(method, path, ALICE)
        check_problem(reply, code, slug)
        assert status(reply) in ("", "fwd=uri-miss")
        if code == 405:
            assert reply.headers["Allow"] == "GET, HEAD, OPTIONS"


def test_without_a_key_what_is_kept_is_not_given(cached: Proxy, model: Upstream) -> None:
    tag = cached.call("GET", "/seed/1.png", ALICE).headers["ETag"]
    for key in ("", "z" * 32):
        check_problem(cached.call("GET", "/seed/1.png", key), 401, "unauthorized")
        copy = cached.call("GET", "/seed/1.png", key, headers={"If-None-Match": tag})
        check_problem(copy, 401, "unauthorized")
    assert len(model.seen) == 1


@pytest.mark.parametrize("count", [500, pytest.param(10_000, marks=pytest.mark.long)])
def test_a_flood_of_addresses_beside_posts(server: Server, tmp_path: Path, count: int) -> None:
    """19 of 20 repeat: each is drawn once, all count against their key's rate, another's go on."""
    version = live.post(server, {}).headers["X-Weights-SHA256"][:8]
    few, over = count // 20, 20
    rng = random.Random(0)
    seeds = [*range(few), *rng.choices(range(few), k=count - few)]
    rng.shuffle(seeds)
    found: list[set[bytes]] = [set() for _ in range(few)]
    # The first passes, and so many more; a further one each minute.
    with running(tmp_path, server.ports, RATE="1r/m", BURST=str(count - over - 1)) as proxy:
        with (
            urllib3.HTTPSConnectionPool(
                HOST, proxy.port, timeout=60, maxsize=12, retries=False, ca_certs=proxy.certificate
            ) as connections,
            ThreadPoolExecutor(12) as threads,
        ):

            def got(seed: int) -> int:
                path = f"/v/{version}/seed/{seed}.png"
                reply = connections.request("GET", path, headers={"X-API-Key": ALICE})
                if reply.status == 200:
                    found[seed].add(reply.data)
                return reply.status

            flood = threads.map(got, seeds, timeout=600)
            posted = [proxy.predict(BOB, seed=seed) for seed in range(few)]
            codes = Counter(flood)
        assert [reply.status_code for reply in posted] == [200] * few
        assert found == [{reply.content} for reply in posted]
        assert codes.keys() == {200, 429}
        assert over - 10 <= codes[429] <= over
        assert proxy.counted() == {
            "200 torchserve": 2 * few, "200 cache": codes[200] - few, "429 rate": codes[429]
        }  # fmt: skip


@needs_chromium
def test_a_page_of_pictures_for_everybody(proxy: Proxy, browser: Browser, tmp_path: Path) -> None:
    with between(tmp_path, proxy) as url:
        look_at_a_page(browser, url, proxy, lambda: len(proxy.log()))
        for method, path, code in (
            ("POST", "/seed/1.png", 403),
            ("GET", "/random.png", 404),
            ("GET", "/models/dcgan", 404),
        ):
            assert requests.request(method, url + path, timeout=30).status_code == code


def test_nothing_but_the_address_reaches_torchserve(cached: Proxy, model: Upstream) -> None:
    sent = {
        "X-Picture-Address": "/seed/2.png", "url_path": "seed/3.png", "describe": "True",
        "Accept": "text/html", "Range": "bytes=0-1", "Cache-Control": "no-cache",
        "If-None-Match": "x" * 2000, "If-Modified-Since": "Fri, 27 Nov 2026 00:00:00 GMT",
    }  # fmt: skip
    reply = cached.call("GET", "/seed/1.png?padding=0", ALICE, headers=sent)
    assert (reply.status_code, reply.headers["X-Seed"]) == (200, "1")
    ((method, path, headers),) = model.seen
    assert (method, path) == ("GET", "/predictions/dcgan")
    own = {"host", "x-request-id", "accept", "x-picture-address"}
    assert {name.lower() for name, _ in headers} == own
    assert dict(headers)["X-Picture-Address"] == "/seed/1.png?padding=0"


def test_one_request_is_made_for_all_who_wait(cached: Proxy, model: Upstream) -> None:
    model.gate.clear()
    with ThreadPoolExecutor(8) as pool:
        waiting = [pool.submit(cached.call, "GET", "/seeds/1-9.png", ALICE) for _ in range(8)]
        live.wait(lambda: model.seen, 30)
        model.gate.set()
        replies = [each.result() for each in waiting]
    assert {reply.status_code for reply in replies} == {200}
    assert len({reply.content for reply in replies}) == 1
    assert len(model.seen) == 1


def test_what_is_kept_comes_while_the_worker_does_not(cached: Proxy, model: Upstream) -> None:
    first = cached.call("GET", "/seed/1.png", ALICE)
    for code in (500, 503):  # a worker that has died, and one that is not there yet
        model.service, model.code, model.reply = None, code, b"{}"
        reply = until(cached, "/seed/1.png", "hit; detail=stale")
        assert (reply.status_code, reply.content) == (200, first.content)
    assert cached.call("GET", "/seed/2.png", ALICE).status_code == 503


def test_what_is_kept_comes_while_the_server_has_no_name(
    model: Upstream, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As of a container that is stopped."""
    monkeypatch.setattr(address, "_PROXY_S", 1)
    with nameserver(HOST) as names:
        by_name = dict.fromkeys(("INFERENCE", "MANAGEMENT"), f"http://torchserve.test:{model.port}")
        with running(tmp_path, model.ports, RESOLVER=names.url, **by_name) as proxy:
            first = proxy.call("GET", "/seed/1.png", ALICE)
            names.address = None
            reply = until(proxy, "/seed/1.png", "hit; detail=stale")
            assert (reply.status_code, reply.content) == (200, first.content)
            seeds = itertools.count(2)

            def refused() -> list[requests.Response]:
                """By all processes of nginx: each has asked for the name at its own time."""
                paths = ("/random.png", f"/seed/{next(seeds)}.png")
                replies = [proxy.call("GET", path, ALICE) for path in paths]
                return replies if not any(reply.ok for reply in replies) else []

            for reply in live.wait(refused, 30):
                check_problem(reply, 503, "unavailable")
            names.address = HOST
            until(proxy, "/seed/1.png", "fwd=stale; fwd-status=304")


@pytest.mark.long
def test_who_was_asked_for_least_recently_goes_first(model: Upstream, tmp_path: Path) -> None:
    """nginx looks at the size every 10 s."""
    paths = [f"/v/{CARD.weights_sha256[:8]}/seeds/{i}-{i + 15}.npy" for i in range(10)]
    with running(tmp_path, model.ports, CACHE_MB="1") as proxy:
        for path in (*paths, paths[0]):
            reply = proxy.call("GET", path, ALICE)
        assert (len(reply.content), status(reply)) == (16 * 64 * 64 * 3 + 128, "hit")
        folder = Path(proxy.variables["RUN"], "cache")

        def fits() -> bool:
            return sum(file.stat().st_size for file in folder.glob("*/*/*")) <= 2**20

        assert not fits()
        live.wait(fits, 30)
        asked = [status(proxy.call("GET", path, ALICE)) for path in (paths[0], paths[1])]
        assert asked == ["hit", "fwd=uri-miss"]


def test_large_pictures_are_not_kept(cached: Proxy) -> None:
    path = "/seeds/1-256.npy"
    assert len(cached.call("GET", path, ALICE).content) > 10**6
    assert status(cached.call("GET", path, ALICE)) == "fwd=uri-miss"
