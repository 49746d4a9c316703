"""What the page makes of edits, animations, addresses, and pictures that come back."""

from __future__ import annotations

import base64
import io
import json
import re
from pathlib import Path
from typing import Any

import pytest
import requests
from axe_playwright_python.sync_playwright import Axe
from PIL import Image
from playwright.sync_api import Page, Route, expect

from client.session import read
from deploy.server import Server
from tests.support import live
from tests.support.gallery_browser import (
    Visit,
    ask,
    needs_chromium,
    saved,
    shows,
    sources,
    wait_for_tiles,
)

pytestmark = [needs_chromium]

CLIPBOARD = ["clipboard-read", "clipboard-write"]


def violations(page: Page) -> list[str]:
    return [item["id"] for item in Axe().run(page).response["violations"]]


def post(server: Server, **fields: Any) -> bytes:
    return requests.post(server.predict_url, json=fields, timeout=60).content


def test_truncation_changes_every_picture_by_keyboard(visit: Visit, server: Server) -> None:
    page = visit(
        "#seed=1&count=4&keep=7,8&steps=3", viewport={"width": 390, "height": 800}, tiles=4
    )
    page.focus("#look summary")
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    expect(page.locator("#look-truncation")).to_be_focused()
    expect(page.locator("#look-reset")).to_be_disabled()
    for _ in range(6):
        page.keyboard.press("ArrowLeft")
    expect(page.locator("#look output[for=look-truncation]")).to_have_text("0.70")
    shown = ask(server, seed=1, num_images=4, truncation=0.7)
    first = page.locator("#grid img").first
    shows(first, shown[0])
    assert sources(page, "#grid img") == shown
    assert page.url.endswith("#seed=1&count=4&keep=7,8&steps=3&truncation=0.7")
    expect(page.locator("#look-changed")).to_be_visible()
    kept = ask(server, seeds=[7, 8], truncation=0.7)
    shows(page.locator("#shelf img").first, kept[0])
    walk = ask(server, walk={"between": [7, 8], "steps": 3}, truncation=0.7)
    shows(page.locator("#walk-frame"), walk[0])
    _, png = saved(page, "#draw-download")
    assert png == post(server, seed=1, num_images=4, truncation=0.7)
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    assert violations(page) == []
    page.click("#look-reset")
    shows(first, ask(server, seed=1)[0])
    assert "truncation" not in page.url


def test_each_direction_has_a_slider(visit: Visit, gallery_url: str) -> None:
    """As the server tells them. The edits are taken out on the way: the archive may have none."""
    sent: list[dict[str, Any]] = []

    def describe(route: Route) -> None:
        (version,) = route.fetch().json()
        version["customizedMetadata"]["directions"] = {
            "glasses": {"range": [-3, 3], "kind": "learned"},
            "direction-3": {"range": [-1.5, 2], "kind": "closed-form"},
        }
        route.fulfill(json=[version])

    def predict(route: Route) -> None:
        body = json.loads(route.request.post_data or "")
        for item in body.get("instances", [body]):
            sent.append(dict(item))
            item.pop("edit", None)
        route.continue_(post_data=json.dumps(body))

    page = visit("", gallery_url + "icon.svg")
    page.route("**/models/dcgan*", describe)
    page.route("**/predictions/dcgan", predict)
    page.goto(f"{gallery_url}#seed=1&count=2&keep=7,8&a=7&view=mix&edit=glasses~1.5")
    wait_for_tiles(page, 2)
    expect(page.locator("#mix-result")).to_be_visible()
    assert [item["edit"] for item in sent] == [{"glasses": 1.5}] * len(sent)
    page.click("#look summary")
    glasses, other = (page.locator(f"#look-{name}") for name in ("glasses", "direction-3"))
    expect(page.get_by_label("glasses")).to_have_value("1.5")
    assert glasses.evaluate("one => [one.min, one.max]") == ["-3", "3"]
    assert other.evaluate("one => [one.min, one.max, one.value]") == ["-1.5", "2", "0"]
    sent.clear()
    other.press("ArrowLeft")
    expect(page).to_have_url(re.compile("edit=glasses~1.5,direction-3~-0.1&a=7$"))
    # Asked anew are the grid, the kept pictures and the arithmetic; a call lets Playwright tell it.
    live.wait(lambda: page.title() and {"seed", "seeds", "mix"} <= {key for i in sent for key in i})
    edit = {"glasses": 1.5, "direction-3": -0.1}
    assert [item["edit"] for item in sent] == [edit] * len(sent)
    glasses.fill("0")  # at rest it is left out
    expect(page).to_have_url(re.compile("&edit=direction-3~-0.1&a=7$"))


def test_the_walk_is_saved_as_an_animation(visit: Visit, server: Server) -> None:
    page = visit("#seed=1&count=2&keep=1,7,42&steps=9", tiles=2)
    expect(page.locator("#walk-webp")).to_be_enabled()
    between = {"between": [1, 7, 42], "steps": 9, "method": "slerp"}
    for kind in ("webp", "gif"):
        name, data = saved(page, f"#walk-{kind}")
        assert name == f"dcgan-walk.{kind}"
        assert data == post(server, walk=between, format={"type": kind, "fps": 11})
        with Image.open(io.BytesIO(data)) as opened:
            assert (opened.format, getattr(opened, "n_frames", 1)) == (kind.upper(), 9)
        assert read(data)["request"]["walk"] == between


def test_addresses_are_those_of_the_server(visit: Visit, server: Server) -> None:
    page = visit(
        "#seed=20&count=6&columns=3&keep=5,2&steps=3&truncation=0.5",
        permissions=CLIPBOARD,
        tiles=6,
    )
    expect(page.locator("#walk-address")).to_be_enabled()

    def copied(button: str) -> bytes:
        page.click(button)
        expect(page.locator("#status")).to_have_text("The address is in the clipboard.")
        address = page.evaluate("navigator.clipboard.readText()")
        assert "/v/" in address
        reply = requests.get(address, timeout=60)
        assert reply.status_code == 200, reply.text
        return reply.content

    look = {"truncation": 0.5}
    assert copied("#draw-address") == post(server, seed=20, num_images=6, columns=3, **look)
    assert copied("#kept-address") == post(server, seeds=[5, 2], **look)
    walk = {"between": [5, 2], "steps": 3, "method": "slerp"}
    moving = {"type": "webp", "fps": 11}
    assert copied("#walk-address") == post(server, walk=walk, format=moving, **look)
    page.locator("#grid .open").first.click()
    page.click("#view-address")
    assert "/seed/20.png?truncation=0.5" in page.evaluate("navigator.clipboard.readText()")


def shown_again(page: Page, name: str) -> bytes:
    expect(page.locator("#recipe-title")).to_have_text(f"From {name}")
    (image,) = sources(page, "#recipe-image")
    return base64.b64decode(image)


WALK = {"between": [3, 9], "steps": 4, "method": "linear"}


@pytest.mark.parametrize("form", ["webp", "gif", "apng"])
def test_an_animation_that_comes_back(
    visit: Visit, server: Server, tmp_path: Path, form: str
) -> None:
    file = tmp_path / f"walk.{form}"
    file.write_bytes(post(server, walk=WALK, format=form, truncation=0.5))
    page = visit("#seed=1&count=2", tiles=2)
    page.set_input_files("#recipe-file", file)
    assert shown_again(page, file.name) == post(server, walk=WALK, truncation=0.5)
    page.click("#recipe-use")
    wait_for_tiles(page, 2)
    assert page.url.endswith("&keep=3,9&steps=4&method=linear&truncation=0.5")
    expect(page.locator("#walk-caption")).to_have_text("Frame 1 of 4, seed 3")


def test_a_picture_that_is_dropped(visit: Visit, server: Server) -> None:
    page = visit("#seed=1&count=2", tiles=2)

    def drop(data: bytes, name: str) -> None:
        transfer = page.evaluate_handle(
            """([text, name]) => {
              const bytes = Uint8Array.from(atob(text), (one) => one.charCodeAt(0));
              const transfer = new DataTransfer();
              transfer.items.add(new File([bytes], name));
              return transfer;
            }""",
            [base64.b64encode(data).decode(), name],
        )
        page.dispatch_event("body", "drop", {"dataTransfer": transfer})

    grid = post(server, seed=50, num_images=3, columns=3, truncation=0.9)
    drop(grid, "grid.png")
    assert shown_again(page, "grid.png") == grid
    expect(page.locator("#recipe-other")).to_be_hidden()
    expect(page.locator("#recipe-text")).to_contain_text('"seed": 50')
    assert violations(page) == []
    page.click("#recipe-use")
    wait_for_tiles(page, 3)
    assert page.url.endswith("#seed=50&count=3&columns=3&truncation=0.9")

    mixed = post(server, mix=[{"weight": 1, "seeds": [1, 2]}])
    drop(mixed, "mix.png")
    assert shown_again(page, "mix.png") == mixed
    for button in ("#recipe-use", "#recipe-address"):
        expect(page.locator(button)).to_be_hidden()
    page.keyboard.press("Escape")

    buffer = io.BytesIO()
    Image.new("RGB", (4, 4)).save(buffer, "PNG")
    for foreign in (buffer.getvalue(), b"", b"GIF89a!\xfe", b"\x89PNG\r\n\x1a\n" + b"\xff" * 40):
        drop(foreign, "cat.png")
        expect(page.locator("#draw-problem")).to_contain_text("does not say what made it")
    expect(page.locator("#recipe-dialog")).to_be_hidden()
