"""The page in a headless Chromium: what the tests of it and its screenshots share."""

import contextlib
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from playwright.sync_api import Browser, Locator, Page, expect, sync_playwright
from werkzeug.serving import make_server

from deploy.gallery import PATH as PATH
from deploy.gallery import application
from deploy.server import HOST, Ports, Server
from tests.support.web import serving

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
ARGUMENTS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
)  # fmt: skip
needs_chromium = pytest.mark.skipif(
    CHROMIUM is None, reason="needs a browser: apt-get install chromium"
)

Visit = Callable[..., Page]


@contextlib.contextmanager
def chromium() -> Iterator[Browser]:
    """The machine's own Chromium, for the length of a ``with`` block."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=list(ARGUMENTS))
        yield browser
        browser.close()


@contextlib.contextmanager
def gallery(ports: Ports) -> Iterator[str]:
    """The page in front of a TorchServe, for the length of a ``with`` block; gives its URL."""
    with serving(make_server(HOST, 0, application(ports), threaded=True)) as site:
        yield f"http://{HOST}:{site.port}{PATH}"


def post(server: Server, **fields: Any) -> bytes:
    """The server's own reply."""
    reply = requests.post(server.predict_url, json=fields, timeout=60)
    reply.raise_for_status()
    return reply.content


def ask(server: Server, **fields: Any) -> list[str]:
    """The server's own pictures, base64."""
    images: list[str] = json.loads(post(server, **fields, format="json"))["images"]
    return images


def sources(page: Page, selector: str) -> list[str]:
    """The base64 behind each <img>."""
    urls = page.locator(selector).evaluate_all("all => all.map(image => image.src)")
    assert all(url.startswith("data:image/png;base64,") for url in urls)
    return [url.partition(",")[2] for url in urls]


def shows(image: Locator, wanted: str) -> None:
    """Return when an <img> shows this picture, in base64."""
    expect(image).to_have_attribute("src", f"data:image/png;base64,{wanted}")


def wait_for_tiles(page: Page, count: int) -> None:
    """Return when the grid shows so many pictures."""
    expect(page.locator("#grid .open")).to_have_count(count)
    expect(page.locator("#grid")).to_have_attribute("aria-busy", "false")


def draw(page: Page, **fields: str) -> None:
    """Fill in the form, and send it."""
    for name, text in fields.items():
        page.fill(f"#{name}", text)
    page.click("#draw-form button[type=submit]")


def saved(page: Page, button: str) -> tuple[str, bytes]:
    """Name and bytes of the file that a button saves."""
    with page.expect_download() as download:
        page.click(button)
    return download.value.suggested_filename, Path(download.value.path()).read_bytes()
