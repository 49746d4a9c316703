"""A proxy before the server, and a browser for the tests of the page."""

import re
from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, Page

from deploy.server import Server
from tests.support.gallery_browser import Visit, chromium, gallery, wait_for_tiles
from tests.support.proxies import Proxy, running

REFUSED = re.compile("Failed to load resource: the server responded with a status of")


@pytest.fixture(scope="module")
def proxy(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    with running(tmp_path_factory.mktemp("proxy"), server.ports, RATE="1000r/s") as opened:
        yield opened


@pytest.fixture(scope="module")
def gallery_url(server: Server) -> Iterator[str]:
    with gallery(server.ports) as url:
        yield url


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Ended with its module: Playwright keeps an event loop running that others would trip over."""
    with chromium() as running:
        yield running


@pytest.fixture
def visit(browser: Browser, request: pytest.FixtureRequest) -> Iterator[Visit]:
    """Opens the page, and waits until it shows so many ``tiles``. At the end the console may hold
    no error but those of refused requests, and nothing may have been asked of another origin."""
    said: list[str] = []
    asked: list[str] = []
    origins: list[str] = []
    contexts = []

    def opened(
        view: str = "", url: str | None = None, tiles: int | None = None, **settings: Any
    ) -> Page:
        url = url or request.getfixturevalue("gallery_url")
        origins.append("/".join(url.split("/")[:3]) + "/")
        context = browser.new_context(**settings)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(10_000)
        page.on("console", lambda message: said.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: said.append(f"error: {error}"))
        page.on("request", lambda sent: asked.append(sent.url))
        page.goto(url + view)
        if tiles is not None:
            wait_for_tiles(page, tiles)
        return page

    yield opened
    for context in contexts:
        context.close()
    assert [text for text in said if not REFUSED.search(text)] == []
    assert [url for url in asked if not url.startswith((*origins, "data:", "blob:"))] == []
