"""What the page makes of edits, animations, addresses, and pictures that come back."""

import base64
import io
import re
from pathlib import Path

import pytest
import requests
from axe_playwright_python.sync_playwright import Axe
from PIL import Image
from playwright.sync_api import Page, expect

from client.session import read
from deploy.server import Server
from tests.support import live
from tests.support.gallery_browser import (
    Visit,
    ask,
    needs_chromium,
    post,
    saved,
    shows,
    sources,
    wait_for_tiles,
)

pytestmark = [needs_chromium]

CLIPBOARD = ["clipboard-read", "clipboard-write"]


def violations(page: Page) -> list[str]:
    return [item["id"] for item in Axe().run(page).response["violations"]]


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


def copied(page: Page, button: str) -> bytes:
    """What lies at the address that a button puts into the clipboard."""
    page.evaluate("navigator.clipboard.writeText('')")
    page.click(button)
    address = live.wait(lambda: page.evaluate("navigator.clipboard.readText()"), 10)
    assert "/v/" in address
    reply = requests.get(address, timeout=60)
    assert reply.status_code == 200, reply.text
    return reply.content


def test_each_direction_has_a_slider(visit: Visit, server: Server) -> None:
    """Those of the archive that is served; and what they changed is what is copied."""
    told = live.described(server)["directions"]
    first, *_, last = told
    page = visit(
        f"#seed=1&count=2&keep=7,8&a=7&view=mix&edit={first}~1.5", permissions=CLIPBOARD, tiles=2
    )
    assert sources(page, "#grid img") == ask(server, seed=1, num_images=2, edit={first: 1.5})
    page.click("#look summary")
    found = page.locator("#look-sliders input").evaluate_all(
        "all => all.map((one) => [one.labels[0].textContent, +one.min, +one.max, +one.value])"
    )
    sliders = [[name, *fact["range"], 1.5 * (name == first)] for name, fact in told.items()]
    assert found == [["truncation", 0.05, 1, 1], *sliders]
    page.get_by_label(last, exact=True).press("ArrowLeft")
    expect(page).to_have_url(re.compile(f"edit={first}~1.5,{last}~-0.1&a=7$"))
    edit = {first: 1.5, last: -0.1}
    shows(page.locator("#mix-result"), ask(server, mix=[{"weight": 1, "seeds": [7]}], edit=edit)[0])
    shows(page.locator("#shelf img").last, ask(server, seed=8, edit=edit)[0])
    shows(page.locator("#grid img").last, ask(server, seed=2, edit=edit)[0])
    page.locator("#grid .open").last.click()
    (shown,) = sources(page, "#view-image")  # out of JSON, so the same picture in another file
    png = copied(page, "#view-address")
    with Image.open(io.BytesIO(png)) as one, Image.open(io.BytesIO(base64.b64decode(shown))) as two:
        assert one.tobytes() == two.tobytes()
    assert png == saved(page, "#view-download")[1]
    page.keyboard.press("Escape")
    page.get_by_label(first, exact=True).fill("0")  # at rest it is left out
    expect(page).to_have_url(re.compile(f"&edit={last}~-0.1&a=7$"))


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
    look = {"truncation": 0.5}
    assert copied(page, "#draw-address") == post(server, seed=20, num_images=6, columns=3, **look)
    assert copied(page, "#kept-address") == post(server, seeds=[5, 2], **look)
    walk = {"between": [5, 2], "steps": 3, "method": "slerp"}
    moving = {"type": "webp", "fps": 11}
    assert copied(page, "#walk-address") == post(server, walk=walk, format=moving, **look)


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

    edited = post(server, seed=50, edit={"glasses": 1})
    others = [
        re.sub(rb'(%s_sha256":").' % what, rb"\1x", edited) for what in (b"weights", b"directions")
    ]
    for i, made in enumerate([edited, *others]):
        drop(made, f"{i}.png")
        assert shown_again(page, f"{i}.png") == edited
        expect(page.locator("#recipe-other")).to_be_visible(visible=i > 0)
        page.keyboard.press("Escape")

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
