"""Who can use the page, and what it lets in: keyboard, phone, contrast, policy."""

import re

import pytest
import requests
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, expect

from deploy.server import Server
from tests.support.gallery_browser import Visit, ask, draw, needs_chromium, sources, wait_for_tiles

pytestmark = [needs_chromium]

LARGEST = 2**53 - 1


def test_by_keyboard_alone(visit: Visit, server: Server) -> None:
    page = visit("#seed=1&count=9&columns=3", tiles=9)
    page.keyboard.press("Tab")
    expect(page.locator(".skip")).to_be_focused()
    page.keyboard.press("Enter")
    focused = page.locator(":focus")
    for key, seed in (
        ("", 1),
        ("ArrowRight", 2),
        ("ArrowDown", 5),
        ("ArrowUp", 2),
        ("ArrowUp", 2),
        ("End", 9),
        ("ArrowRight", 9),
        ("ArrowLeft", 8),
        ("Home", 1),
    ):
        if key:
            page.keyboard.press(key)
        expect(focused).to_have_attribute("aria-label", f"Seed {seed}")
    assert focused.evaluate("one => getComputedStyle(one).outlineStyle") == "solid"
    assert focused.evaluate("one => getComputedStyle(one).outlineWidth") == "3px"
    page.keyboard.press("Tab")
    expect(focused).to_have_attribute("aria-label", "Keep seed 1")
    page.keyboard.press("Enter")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Space")
    expect(page.locator("#shelf button")).to_have_count(2)
    expect(page.locator("#walk-caption")).to_contain_text("Frame 1 of 24")
    reached = []
    for _ in range(30):
        page.keyboard.press("Tab")
        name = focused.evaluate("one => one.id || one.getAttribute('aria-label') || one.tagName")
        reached.append(name)
        if name == "tab-walk":
            page.keyboard.press("ArrowRight")
            expect(page.locator("#panel-mix")).to_be_visible()
            page.keyboard.press("ArrowLeft")
        if name == "walk-address":
            break
    assert reached == [
        "kept-clear", "Remove seed 1", "Remove seed 4", "kept-download", "kept-curl",
        "kept-address", "tab-walk", "walk-slider", "INPUT", "steps", "walk-play",
        "walk-frame-download", "walk-download", "walk-webp", "walk-gif", "walk-curl",
        "walk-address",
    ]  # fmt: skip
    page.focus("#seed")
    page.keyboard.press("Control+A")
    page.keyboard.type("30")
    page.keyboard.press("Enter")
    expect(page.locator("#summary")).to_have_text("9 pictures, seeds 30 to 38")
    assert sources(page, "#grid img") == ask(server, seed=30, num_images=9)


VIEWS = (
    "#seed=1&count=12",
    "#seed=1&count=12&keep=1,2,3,4,5,6,7,8,9,10&a=1,2&b=3&c=4&view=mix",
    f"#seed={LARGEST - 30}&count=24&columns=12&keep={LARGEST},2,{LARGEST - 1}",
)


@pytest.mark.parametrize("view", VIEWS)
def test_on_a_phone(visit: Visit, view: str) -> None:
    page = visit(
        view,
        viewport={"width": 360, "height": 740},
        is_mobile=True,
        has_touch=True,
        device_scale_factor=2,
    )
    expect(page.locator("#grid .open").first).to_be_visible()
    if "a=1" in view:
        expect(page.locator("#mix-result")).to_be_visible()
    elif "keep" in view:
        expect(page.locator("#walk-caption")).to_contain_text("Frame 1 of 24")
    draw(page, count="0")  # a problem is shown, too
    expect(page.locator("#draw-problem")).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth") == 360
    for told in page.locator("#grid .keep span").all():  # where nothing hovers, too
        expect(told).to_be_visible()
    page.locator("#grid .open").first.tap()
    expect(page.locator("#viewer")).to_be_visible()
    assert page.locator("#viewer").evaluate("one => one.scrollWidth <= one.clientWidth")
    small = page.locator("button, input").evaluate_all(
        """all => all.filter(one => one.checkVisibility()).filter(one => {
             const { width, height } = one.getBoundingClientRect();
             return width < 44 || height < 44;
           }).map(one => one.outerHTML)"""
    )
    assert small == []


@pytest.mark.parametrize("view", VIEWS)
def test_axe_finds_nothing(visit: Visit, view: str) -> None:
    page = visit(view, reduced_motion="reduce")
    expect(page.locator("#grid .open").first).to_be_visible()
    if "keep" in view:
        expect(page.locator("#mix-result:visible, #walk-caption:visible")).to_be_visible()
    draw(page, count="0")
    expect(page.locator("#draw-problem")).to_be_visible()
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        found = Axe().run(page).response["violations"]
        assert [(item["id"], [node["html"] for node in item["nodes"]]) for item in found] == []
        if page.locator("#viewer").is_hidden():
            page.locator("#grid .open").first.click()  # for the other scheme


@pytest.mark.parametrize("width", [360, 820, 1366, 2560])
def test_the_grid_fills_the_width_with_whole_rows(visit: Visit, width: int) -> None:
    page = visit(viewport={"width": width, "height": 900})
    for count in (36, 24, 48, 12):
        if count != 36:
            draw(page, count=str(count))
        wait_for_tiles(page, count)
        tiles = page.locator("#grid .tile").evaluate_all(
            "all => all.map(one => one.getBoundingClientRect().toJSON())"
        )
        rows = [sum(tile["top"] == top for tile in tiles) for top in {t["top"] for t in tiles}]
        assert len(set(rows)) == 1, (count, rows)
        assert min(tile["width"] for tile in tiles) >= (96 if width < 560 else 112)
        right = page.locator("#grid").evaluate("one => one.getBoundingClientRect().right")
        assert max(tile["right"] for tile in tiles) == pytest.approx(right, abs=1)
    assert page.evaluate("document.documentElement.scrollWidth") == width


@pytest.mark.parametrize("width", [390, 1320])
def test_nothing_covers_a_picture(visit: Visit, width: int) -> None:
    page = visit(
        "#seed=1&count=12&keep=1,2,3,4,5,6",
        viewport={"width": width, "height": 2000},
        has_touch=width == 390,
        tiles=12,
    )
    expect(page.locator("#shelf img[src]")).to_have_count(6)
    covered = page.locator("#grid .open").evaluate_all(
        """all => all.flatMap((one) => {
          const { left, right, top, bottom } = one.getBoundingClientRect();
          const [x, y] = [(left + right) / 2, (top + bottom) / 2];
          const points = [[x, y], [left + 9, y], [right - 9, y], [x, top + 9], [right - 9, top + 9],
                          [x, bottom - 3], [right - 9, bottom - 9]];
          return points.map(([x, y]) => document.elementFromPoint(x, y))
            .filter((top) => top !== one && top.parentNode !== one).map((top) => top?.outerHTML);
        })"""
    )
    assert covered == []
    marks = page.locator("#grid .tile").evaluate_all(
        "all => all.map(one => getComputedStyle(one.firstElementChild, '::after').content)"
    )
    assert set(marks) == {"none"}


def brightness(colour: str) -> int:
    return sum(map(int, re.findall(r"\d+", colour)))


def test_dark_and_light_and_still(visit: Visit) -> None:
    colours = set()
    for scheme in ("light", "dark"):
        page = visit("#seed=1&count=1&keep=1,2", color_scheme=scheme, reduced_motion="reduce")
        wait_for_tiles(page, 1)
        colours.add(page.evaluate("getComputedStyle(document.body).backgroundColor"))
        expect(page.locator("#walk-slider")).to_be_visible()
        on, off = (
            page.locator(selector).evaluate("one => getComputedStyle(one).backgroundColor")
            for selector in ("[role=tab][aria-selected=true]", "[role=tablist]")
        )
        assert brightness(on) > brightness(off)  # the chosen tab is the one that is lit
        expect(page.locator("#walk-play")).to_be_hidden()
        durations = page.locator("*").evaluate_all(
            "all => all.map(one => getComputedStyle(one).transitionDuration)"
        )
        assert set(durations) == {"0s"}
    assert len(colours) == 2


def test_the_policy_lets_nothing_else_in(browser: Browser, gallery_url: str) -> None:
    page = browser.new_page()
    page.goto(gallery_url)
    wait_for_tiles(page, 36)
    stopped = page.evaluate(
        """async () => {
          const stopped = [];
          addEventListener("securitypolicyviolation", (e) => stopped.push(e.effectiveDirective));
          await fetch("http://localhost:9/").catch(() => {});
          document.body.append(Object.assign(document.createElement("img"),
            { src: "http://localhost:9/x.png" }));
          for (const [tag, name] of [["script", "src"], ["p", "innerHTML"]]) {
            try { document.createElement(tag)[name] = "x"; stopped.push(tag); } catch {}
          }
          for (let i = 0; i < 50 && stopped.length < 4; i++) {
            await new Promise((resolve) => setTimeout(resolve, 20));
          }
          return stopped;
        }"""
    )
    page.close()
    types = "require-trusted-types-for"
    assert sorted(stopped) == ["connect-src", "img-src", types, types]
    headers = requests.get(gallery_url, timeout=5).headers
    assert headers["content-security-policy"] == "frame-ancestors 'none'"
    assert headers["x-content-type-options"] == "nosniff"
