"""The page behind the proxy, and pages of other origins: real nginx, real pre-flights."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
from playwright.sync_api import Browser, Page, Route, expect

from client.session import read
from deploy.gallery import HEADERS, PAGE, PATH
from deploy.server import Ports, Server
from tests.support.gallery_browser import (
    Visit,
    ask,
    draw,
    needs_chromium,
    saved,
    sources,
    wait_for_tiles,
)
from tests.support.proxies import ALICE, NEEDS_NGINX, Proxy, environment, refused, running

pytestmark = [NEEDS_NGINX]

FRIEND = "https://app.example"
OURS = ("X-Source", "X-Seed", "X-Num-Images", "X-Grid", "X-Model-Version",
        "X-Weights-SHA256", "X-Directions-SHA256", "X-Backend", "X-Device",
        "X-Request-Id")  # fmt: skip


@pytest.fixture(scope="module")
def proxy(
    server: Server, gallery_url: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Proxy]:
    folder = tmp_path_factory.mktemp("gallery-proxy")
    friends = f"{FRIEND} {gallery_url.removesuffix(PATH)}"
    with running(folder, server.ports, RATE="1000r/s", CORS_ORIGINS=friends) as live:
        yield live


def allowed(reply: requests.Response) -> dict[str, str]:
    start = "access-control-"
    return {
        k.lower().removeprefix(start): v
        for k, v in reply.headers.items()
        if k.lower().startswith(start)
    }


def test_a_preflight_needs_no_key(proxy: Proxy) -> None:
    asks = {
        "Origin": FRIEND,
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "content-type,x-api-key",
    }
    for path in ("/predictions/dcgan", "/v1/models/dcgan:predict", "/models/dcgan"):
        reply = proxy.call("OPTIONS", path, headers=asks)
        assert (reply.status_code, reply.content) == (204, b"")
        told = allowed(reply)
        assert told["allow-origin"] == FRIEND
        assert "POST" in told["allow-methods"]
        assert {"Content-Type", "X-API-Key"} <= set(told["allow-headers"].split(", "))
        assert reply.headers["vary"] == "Origin"


@pytest.mark.parametrize(
    "origin",
    ["https://evil.example", "https://app.example.evil", "https://appxexample", "null",
     "http://app.example", "https://app.example:444", "https://x.app.example"],
)  # fmt: skip
def test_other_origins_are_told_nothing(proxy: Proxy, origin: str) -> None:
    for reply in (
        proxy.call("OPTIONS", "/predictions/dcgan", headers={"Origin": origin}),
        proxy.call("POST", "/predictions/dcgan", ALICE, json={}, headers={"Origin": origin}),
    ):
        assert allowed(reply).keys() <= {"max-age"}
        assert reply.headers["vary"] == "Origin"


def test_answers_and_refusals_can_be_read(proxy: Proxy) -> None:
    for key, fields, status in (
        (ALICE, {"seed": 1}, 200),
        (ALICE, {"seed": -1}, 400),
        ("", {}, 401),
    ):
        reply = proxy.call(
            "POST", "/predictions/dcgan", key, json=fields, headers={"Origin": FRIEND}
        )
        assert reply.status_code == status
        told = allowed(reply)
        assert told["allow-origin"] == FRIEND
        others = {"X-Seeds", "X-Edit", "X-Truncation", "X-Fallback", "Retry-After"}
        caching = {"ETag", "Cache-Status"}  # of addresses
        assert {*OURS, *others, *caching} == set(told["expose-headers"].split(", "))
        assert status != 200 or set(OURS) <= set(reply.headers)


@pytest.mark.parametrize("origin", ["app.example", "https://", "https://a.example/path", "ftp://a"])
def test_what_is_no_origin_stops_the_start(tmp_path: Path, origin: str) -> None:
    said = refused(environment(tmp_path, Ports(), CORS_ORIGINS=origin))
    assert f"{origin} is no origin; write https://app.example" in said


def test_the_page_is_served_without_a_key(proxy: Proxy) -> None:
    kinds = {".html": "text/html", ".js": "application/javascript", ".css": "text/css",
             ".svg": "image/svg+xml"}  # fmt: skip
    for file in PAGE.iterdir():
        reply = proxy.call("GET", PATH + file.name.replace("index.html", ""))
        assert reply.content == file.read_bytes()
        assert reply.headers["content-type"] == kinds[file.suffix]
        assert {k: reply.headers[k] for k in HEADERS} == HEADERS
    assert proxy.call("GET", "/gallery").url.endswith(PATH)
    assert proxy.call("GET", "/gallery/nothing").status_code == 404
    assert proxy.call("POST", PATH).status_code == 405


def everything_is_drawn(page: Page) -> None:
    """Return when the page of four pictures, two of them kept, has nothing more to ask for."""
    wait_for_tiles(page, 4)
    expect(page.locator("#shelf img[src]")).to_have_count(2)
    expect(page.locator("#walk-caption")).to_contain_text("Frame 1 of 24")


@needs_chromium
def test_the_page_asks_for_the_key(proxy: Proxy, visit: Visit, server: Server) -> None:
    page = visit(
        "#seed=1&count=4&keep=1,2",
        proxy.url + PATH,
        ignore_https_errors=True,
        permissions=["clipboard-read", "clipboard-write"],
    )
    expect(page.locator("#key-dialog")).to_be_visible()
    expect(page.locator("#problem")).to_contain_text("No valid API key")
    page.fill("#key", "two words")
    page.press("#key", "Enter")
    expect(page.locator("#key-error")).to_contain_text("no blanks")
    page.fill("#key", "w" * 32)
    page.press("#key", "Enter")
    expect(page.locator("#key-error")).to_have_text("The server did not take this key.")
    page.fill("#key", ALICE)
    page.press("#key", "Enter")
    everything_is_drawn(page)
    expect(page.locator("#facts")).to_contain_text(re.compile(r"(onnx|packed) on cpu"))
    assert sources(page, "#grid img") == ask(server, seed=1, num_images=4)
    assert read(saved(page, "#draw-download")[1])["request"]["seed"] == 1
    page.click("#draw-curl")
    command = page.evaluate("navigator.clipboard.readText()")
    assert '-H "X-API-Key: $DCGAN_API_KEY"' in command
    assert ALICE not in command + page.url
    assert page.evaluate("Object.keys(localStorage).length") == 0
    page.reload()  # the key lives as long as the tab
    everything_is_drawn(page)  # what is asked later than the key is forgotten asks for it again
    page.click("#key-open")
    page.click("#key-forget")
    draw(page, count="5")
    expect(page.locator("#key-dialog")).to_be_visible()


@needs_chromium
def test_a_late_refusal_wipes_nothing(proxy: Proxy, visit: Visit) -> None:
    page = visit("", proxy.url + "/healthz", ignore_https_errors=True)
    held: list[Route] = []
    page.route("**/predictions/**", lambda route: route.continue_() if held else held.append(route))
    page.goto(f"{proxy.url}{PATH}#seed=1&count=4&keep=1,2")
    expect(page.locator("#key-dialog")).to_be_visible()
    page.fill("#key", "two words")
    page.press("#key", "Enter")
    expect(page.locator("#key-error")).to_contain_text("no blanks")
    with page.expect_response(lambda reply: reply.status == 401):
        held[0].continue_()
    page.evaluate("fetch('icon.svg').then((reply) => reply.text())")  # it has seen that reply
    expect(page.locator("#key-error")).to_contain_text("no blanks")


@needs_chromium
def test_a_page_of_another_origin_reads_the_seed(
    proxy: Proxy, gallery_url: str, browser: Browser
) -> None:
    context = browser.new_context(ignore_https_errors=True)
    page = context.new_page()
    call = """([url, key]) => fetch(url, {
        method: "POST", body: "{}",
        headers: { "Content-Type": "application/json", "X-API-Key": key },
      }).then((reply) => [reply.status, reply.headers.get("X-Seed")], () => "refused")"""
    ask_it = [f"{proxy.url}/predictions/dcgan", ALICE]
    friend = gallery_url.removesuffix(PATH)
    page.goto(f"{friend}/nothing")  # a page without a policy
    status, seed = page.evaluate(call, ask_it)
    assert status == 200
    assert int(seed) >= 0
    assert page.evaluate(call, [ask_it[0], "wrong"]) == [401, None]
    page.goto(f"{friend.replace('127.0.0.1', 'localhost')}/nothing")  # another origin to browsers
    assert page.evaluate(call, ask_it) == "refused"
    context.close()
